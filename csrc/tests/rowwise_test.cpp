#include <algorithm>

#include "harness.h"

namespace quire::testing {
namespace {

const int64_t kDims[] = {1, 5, 8, 31, 64, 100, 257, 1024};
constexpr int64_t kRows = 5;

double reference_activation(Activation act, double x) {
  switch (act) {
    case Activation::silu: return x / (1 + std::exp(-x));
    case Activation::gelu: return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    case Activation::gelu_tanh: return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::relu: return x < 0 ? 0 : x;
    case Activation::quick_gelu: return x / (1 + std::exp(-1.702 * x));
  }
  return 0;
}

void test_activations(const KernelTable& table, Checker& check, Random& random) {
  for (Activation act :
       {Activation::silu, Activation::gelu, Activation::gelu_tanh, Activation::relu, Activation::quick_gelu})
    for (int64_t dim : kDims) {
      const int64_t stride = 2 * dim + 3;  // gate and up as views of a merged linear
      const std::vector<float> x = random.floats(kRows * stride, -12, 12);
      for (bool gated : {false, true}) {
        std::vector<float> y(kRows * (dim + 1), kNaN);
        ActivationArgs a;
        a.act = act;
        a.x = x.data();
        a.x_stride = stride;
        if (gated) a.up = x.data() + dim;
        a.up_stride = stride;
        a.dim = dim;
        a.y = y.data();
        a.y_stride = dim + 1;
        run_in_pieces(table.rows.activation, a, kRows);
        for (int64_t t = 0; t < kRows; ++t) {
          for (int64_t i = 0; i < dim; ++i) {
            double want = reference_activation(act, x[t * stride + i]);
            if (gated) want *= x[t * stride + dim + i];
            check.close(y[t * (dim + 1) + i], want, 4e-6, 2e-6, "activation");
          }
          check.expect(std::isnan(y[t * (dim + 1) + dim]), "activation wrote past its row");
        }
      }
    }
  const float special[] = {0.0f, -0.0f, 1e30f, -1e30f, 100.0f, -100.0f, 1e-30f, kNaN};
  float y[8];
  ActivationArgs a;
  a.x = special;
  a.dim = 8;
  a.y = y;
  for (Activation act : {Activation::silu, Activation::gelu, Activation::gelu_tanh, Activation::quick_gelu}) {
    a.act = act;
    table.rows.activation(a, 0, 1, nullptr);
    check.expect(y[2] == 1e30f && y[4] == 100.0f && y[0] == 0.0f && std::fabs(y[3]) < 1e-20 && std::fabs(y[5]) < 1e-20,
                 "activation far from zero");
    check.expect(std::isnan(y[7]), "activation of NaN");
    check.close(y[6], 0.5e-30, 0, 1e-6, "activation near zero");
  }
}

void test_elementwise(const KernelTable& table, Checker& check, Random& random) {
  for (int64_t dim : kDims) {
    const std::vector<float> a = random.floats(kRows * dim, -40, 40), b = random.floats(kRows * (dim + 2), -3, 3);
    for (int op = 0; op < 5; ++op) {
      std::vector<float> y = a;  // in place
      ElementwiseArgs e;
      e.a = y.data();
      e.a_stride = dim;
      e.b = op < 3 ? b.data() : nullptr;
      e.b_stride = op == 2 ? 0 : dim + 2;
      e.value = 30.0f;
      e.dim = dim;
      e.y = y.data();
      e.y_stride = dim;
      const RangeKernel<ElementwiseArgs> kernels[] = {table.rows.add, table.rows.mul, table.rows.add, table.rows.scale,
                                                      table.rows.softcap};
      run_in_pieces(kernels[op], e, kRows);
      for (int64_t t = 0; t < kRows; ++t)
        for (int64_t i = 0; i < dim; ++i) {
          const double u = a[t * dim + i], v = b[(op == 2 ? 0 : t * (dim + 2)) + i];
          const double want[] = {u + v, u * v, u + v, u * 30, 30 * std::tanh(u / 30)};
          check.close(y[t * dim + i], want[op], 1e-7, 4e-7, "elementwise " + std::to_string(op));
        }
    }
  }
}

void test_norms(const KernelTable& table, Checker& check, Random& random) {
  for (int64_t dim : kDims)
    for (int64_t groups : {1, 3}) {
      const int64_t stride = dim * groups + 5;
      const std::vector<float> x = random.floats(kRows * stride, -3, 5), w = random.floats(dim), b = random.floats(dim);
      std::vector<float> y(kRows * stride, kNaN);
      RmsNormArgs r{.x = x.data(),
                    .x_stride = stride,
                    .weight = w.data(),
                    .weight_offset = 1.0f,
                    .eps = 1e-5f,
                    .dim = dim,
                    .groups = groups,
                    .y = y.data(),
                    .y_stride = stride};
      run_in_pieces(table.rows.rms_norm, r, kRows);
      for (int64_t t = 0; t < kRows; ++t)
        for (int64_t g = 0; g < groups; ++g) {
          const float* in = &x[t * stride + g * dim];
          double squares = 0;
          for (int64_t i = 0; i < dim; ++i) squares += static_cast<double>(in[i]) * in[i];
          for (int64_t i = 0; i < dim; ++i)
            check.close(y[t * stride + g * dim + i], in[i] / std::sqrt(squares / dim + 1e-5) * (w[i] + 1.0), 1e-7, 2e-6,
                        "rms_norm");
        }
      if (groups > 1) continue;
      std::vector<float> sum = random.floats(kRows * dim), residual = sum, z(kRows * dim);
      AddRmsNormArgs s{.x = x.data(),
                       .x_stride = stride,
                       .residual = sum.data(),
                       .residual_stride = dim,
                       .weight = nullptr,
                       .weight_offset = 0.0f,
                       .eps = 1e-6f,
                       .dim = dim,
                       .sum = sum.data(),
                       .sum_stride = dim,
                       .y = z.data(),
                       .y_stride = dim};
      run_in_pieces(table.rows.add_rms_norm, s, kRows);
      LayerNormArgs l{.x = x.data(),
                      .x_stride = stride,
                      .weight = w.data(),
                      .bias = b.data(),
                      .eps = 1e-5f,
                      .dim = dim,
                      .y = y.data(),
                      .y_stride = stride};
      run_in_pieces(table.rows.layer_norm, l, kRows);
      for (int64_t t = 0; t < kRows; ++t) {
        double squares = 0, mean = 0, variance = 0;
        for (int64_t i = 0; i < dim; ++i) {
          const double v = x[t * stride + i] + residual[t * dim + i];
          squares += v * v;
          mean += x[t * stride + i] / static_cast<double>(dim);
        }
        for (int64_t i = 0; i < dim; ++i) variance += std::pow(x[t * stride + i] - mean, 2) / static_cast<double>(dim);
        for (int64_t i = 0; i < dim; ++i) {
          const double v = x[t * stride + i] + residual[t * dim + i];
          check.close(sum[t * dim + i], v, 1e-7, 2e-7, "add of add_rms_norm");
          check.close(z[t * dim + i], v / std::sqrt(squares / dim + 1e-6), 1e-6, 2e-6, "add_rms_norm");
          check.close(y[t * stride + i], (x[t * stride + i] - mean) / std::sqrt(variance + 1e-5) * w[i] + b[i],
                      dim == 1 ? 1e-4 : 4e-6, 4e-6, "layer_norm");
        }
      }
    }
}

void test_rows(const KernelTable& table, Checker& check, Random& random) {
  for (int64_t dim : kDims)
    for (DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      const int64_t stride = dim + 1;
      const Typed rows = typed(random.floats(7 * stride, -2, 2), dtype);
      const std::vector<int32_t> ids = {3, 0, 6, 6, -1, 7};
      std::vector<float> y(ids.size() * dim, kNaN);
      EmbeddingArgs e{.ids = ids.data(),
                      .table = rows.bytes.data(),
                      .dtype = dtype,
                      .num_rows = 7,
                      .table_stride = stride,
                      .scale = 1.5f,
                      .dim = dim,
                      .y = y.data(),
                      .y_stride = dim};
      run_in_pieces(table.rows.embedding, e, static_cast<int64_t>(ids.size()));
      for (size_t r = 0; r < ids.size(); ++r)
        for (int64_t i = 0; i < dim; ++i) {
          const float want = ids[r] < 0 || ids[r] > 6 ? 0.0f : rows.values[ids[r] * stride + i] * 1.5f;
          check.expect(y[r * dim + i] == want, "embedding");
        }
    }
  const int64_t dim = 37, tokens = 4, k = 3;
  const std::vector<float> x = random.floats(12 * dim), weights = random.floats(tokens * k, 0, 1);
  const std::vector<int32_t> index = {4, 0, 11, 2, -1, 3, -1, -1, -1, 1, 1, 5};
  for (int accumulate : {0, 1}) {
    std::vector<float> y = random.floats(tokens * dim), before = y;
    CombineRowsArgs c{.x = x.data(),
                      .x_stride = dim,
                      .rows = index.data(),
                      .weights = weights.data(),
                      .k = k,
                      .accumulate = accumulate,
                      .dim = dim,
                      .y = y.data(),
                      .y_stride = dim};
    run_in_pieces(table.rows.combine_rows, c, tokens);
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t i = 0; i < dim; ++i) {
        double want = accumulate ? before[t * dim + i] : 0.0;
        for (int64_t j = 0; j < k; ++j)
          if (index[t * k + j] >= 0) want += static_cast<double>(weights[t * k + j]) * x[index[t * k + j] * dim + i];
        check.close(y[t * dim + i], want, 3e-7, 3e-7, "combine_rows");
      }
  }
}

void test_reduce(const KernelTable& table, Checker& check, Random& random) {
  for (int64_t dim : kDims) {
    std::vector<float> x = random.floats(kRows * dim, -20, 20);
    x[0] = kNaN;                                   // row 0: NaN is never the argmax of a longer row
    x[dim + dim / 2] = x[2 * dim - 1] = 50.0f;     // row 1: a tie
    for (int64_t i = 0; i < dim; ++i) x[2 * dim + i] = -std::numeric_limits<float>::infinity();
    std::vector<int32_t> argmax(kRows);
    std::vector<float> max(kRows), logsumexp(kRows);
    RowReduceArgs r{.x = x.data(),
                    .x_stride = dim,
                    .dim = dim,
                    .argmax = argmax.data(),
                    .max = max.data(),
                    .logsumexp = logsumexp.data()};
    run_in_pieces(table.rows.row_reduce, r, kRows);
    for (int64_t t = 0; t < kRows; ++t) {
      int64_t best = -1;
      double total = 0;
      for (int64_t i = 0; i < dim; ++i) {
        const float v = x[t * dim + i];
        if (!std::isnan(v) && (best < 0 || v > x[t * dim + best])) best = i;
        total += std::exp(static_cast<double>(v));
      }
      check.expect(argmax[t] == std::max<int64_t>(best, 0), "argmax");
      if (t == 0) check.expect(std::isnan(logsumexp[t]) || dim == 1, "logsumexp of NaN");
      else check.close(logsumexp[t], std::log(total), 2e-6, 2e-6, "logsumexp");
      if (best >= 0) check.expect(max[t] == x[t * dim + best], "max");
    }
  }
}

}  // namespace

void test_rowwise(const KernelTable& table, Checker& check) {
  Random random(7);
  test_activations(table, check, random);
  test_elementwise(table, check, random);
  test_norms(table, check, random);
  test_rows(table, check, random);
  test_reduce(table, check, random);
}

}  // namespace quire::testing
