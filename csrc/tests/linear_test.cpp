#include <algorithm>
#include <string_view>

#include "harness.h"
#include "weight_formats.h"

namespace quire::testing {
namespace {

struct Format {
  WeightFormat format;
  int64_t group_size;
  bool has_zeros;
  const char* name;
};
const Format kFormats[] = {
    {WeightFormat::f32, 0, false, "f32"},
    {WeightFormat::bf16, 0, false, "bf16"},
    {WeightFormat::f16, 0, false, "f16"},
    {WeightFormat::int8, 0, false, "int8"},
    {WeightFormat::int8, 16, false, "int8-g16"},
    {WeightFormat::int8, 32, false, "int8-g32"},
    {WeightFormat::int8, 128, false, "int8-g128"},
    {WeightFormat::int4, 32, false, "int4-g32"},
    {WeightFormat::int4, 64, true, "int4-g64-zeros"},
    {WeightFormat::int4, 128, false, "int4-g128"},
};

std::vector<float> run_linear(const KernelTable& table, LinearArgs a, int64_t pad) {
  const PackedLinear& w = *a.weight;
  const LinearKernels& kernels = table.linear[index_of(w.format)];
  std::vector<float> y(a.m * (w.n + pad), kNaN);
  AlignedBytes workspace(kernels.workspace_bytes(w, a.m));
  a.workspace = workspace.as();
  a.y = y.data();
  a.y_stride = w.n + pad;
  run_in_pieces(kernels.prepare, a, kernels.prepare_items(w, a.m));
  run_in_pieces(kernels.run, a, kernels.items(w, a.m), kernels.scratch_bytes(w, a.m));
  return y;
}

// Largest magnitude and spread (zero included) of v[begin, end).
struct Spread {
  double largest = 0, low = 0, high = 0;
  Spread(const float* v, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      low = std::min<double>(low, v[i]);
      high = std::max<double>(high, v[i]);
    }
    largest = std::max(-low, high);
  }
};

// What rounding the activations may change in sum of x * w, at most.
double activation_rounding(const KernelTable& table, const Format& f, const float* x, const float* w, int64_t k) {
  const std::string_view isa = table.isa;
  double bound = 0;
  if (f.format == WeightFormat::bf16 && (isa == "avx512_bf16" || isa.starts_with("amx")))
    for (int64_t i = 0; i < k; ++i) bound += std::fabs(static_cast<double>(x[i]) * w[i]) / 256;
  if (!row_of(f.format).integers) return bound;
  const bool wide = f.format == WeightFormat::int8 && (isa == "avx2" || isa == "portable");  // 16 bits, one scale a row
  const int64_t block = wide ? k : 32;
  for (int64_t b = 0; b < k; b += block) {
    const int64_t count = std::min(block, k - b);
    const double step = Spread(x + b, count).largest / (wide ? 32767 : 127);
    for (int64_t i = b; i < b + count; ++i) bound += 0.501 * step * std::fabs(w[i]);
  }
  return bound;
}

// What rounding the weights may change in one of them, at most.
double weight_rounding(const Format& f, const float* group, int64_t count) {
  const Spread s(group, count);
  if (f.format == WeightFormat::int8) return 0.51 * s.largest / 127;
  // Symmetric int4 has no +8: the opposite of the largest value is a whole step off.
  return f.has_zeros ? 1.02 * (s.high - s.low) / 15 : 1.02 * s.largest / 8;
}

// The weight packed from two segments of different dtype and stride, as a merged linear would be.
struct Packed {
  PackedLinear weight;
  std::unique_ptr<AlignedBytes> memory;
  std::vector<float> values;  // [N, K] as the kernels see them
};
Packed pack(const KernelTable& table, const Format& f, int64_t n, int64_t k, DType first, DType second, Random& random,
            Checker& check) {
  Packed p;
  const LinearKernels& kernels = table.linear[index_of(f.format)];
  p.weight = kernels.layout(n, k, f.group_size, f.has_zeros);
  p.memory = std::make_unique<AlignedBytes>(p.weight.bytes);
  p.weight.data = p.memory->as();
  const int64_t n0 = n / 2;
  const Typed a = typed(random.floats(n0 * (k + 3)), first), b = typed(random.floats((n - n0) * k), second);
  const RowSegment segments[] = {{a.bytes.data(), first, k + 3, n0}, {b.bytes.data(), second, k, n - n0}};
  PackArgs args{.weight = &p.weight, .segments = segments, .num_segments = 2, .quant = nullptr};
  run_in_pieces(kernels.pack, args, p.weight.num_panels);
  p.values.resize(n * k);
  kernels.unpack(p.weight, 0, n, p.values.data());
  std::vector<float> source;
  for (int64_t row = 0; row < n; ++row)
    for (int64_t i = 0; i < k; ++i)
      source.push_back(row < n0 ? a.values[row * (k + 3) + i] : b.values[(row - n0) * k + i]);
  if (!row_of(f.format).integers) {
    const DType dtype = f.format == WeightFormat::f32    ? DType::f32
                        : f.format == WeightFormat::bf16 ? DType::bf16
                                                         : DType::f16;
    const Typed want = typed(source, dtype);
    for (size_t i = 0; i < source.size(); ++i)
      check.expect(want.values[i] == p.values[i], std::string(f.name) + " packed weight");
  } else {
    const int64_t group = f.group_size ? f.group_size : k;
    for (int64_t row = 0; row < n; ++row)
      for (int64_t i = 0; i < k; ++i) {
        const int64_t first = i / group * group;
        const double bound = weight_rounding(f, &source[row * k + first], std::min(group, k - first));
        check.close(p.values[row * k + i], source[row * k + i], bound, 0, std::string(f.name) + " packed weight");
      }
  }
  return p;
}

void test_shape(const KernelTable& table, Checker& check, const Format& f, int64_t n, int64_t k, Random& random) {
  const LinearKernels& kernels = table.linear[index_of(f.format)];
  const Packed p = pack(table, f, n, k, DType::bf16, n % 2 ? DType::f16 : DType::f32, random, check);
  const int64_t rows = 203, x_stride = k + 5;
  const std::vector<float> x = random.floats(rows * x_stride), bias = random.floats(n),
                           residual = random.floats(rows * (n + 2));
  LinearArgs a;
  a.x = x.data();
  a.x_stride = x_stride;
  a.weight = &p.weight;
  a.bias = bias.data();
  a.residual = residual.data();
  a.residual_stride = n + 2;
  a.m = rows;
  const std::vector<float> all = run_linear(table, a, 1);
  const std::string name = std::string(f.name) + " linear n=" + std::to_string(n) + " k=" + std::to_string(k);
  for (int64_t r = 0; r < rows; r += r < 8 ? 1 : 13)
    for (int64_t c = 0; c < n; ++c) {
      double want = bias[c] + static_cast<double>(residual[r * (n + 2) + c]), size = 1;
      for (int64_t i = 0; i < k; ++i) {
        const double product = static_cast<double>(x[r * x_stride + i]) * p.values[c * k + i];
        want += product;
        size += std::fabs(product);
      }
      check.close(all[r * (n + 1) + c], want,
                  3e-7 * size + activation_rounding(table, f, &x[r * x_stride], &p.values[c * k], k), 0, name);
    }
  for (int64_t r = 0; r < rows; ++r) check.expect(std::isnan(all[r * (n + 1) + n]), name + " wrote past its row");
  // A row's bits depend on nothing but the row: other batch sizes, other places in the batch.
  for (int64_t m : {1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 33, 47, 48, 49, 100}) {
    const int64_t first = (m * 7) % 90;
    a.x = x.data() + first * x_stride;
    a.residual = residual.data() + first * (n + 2);
    a.m = m;
    const std::vector<float> some = run_linear(table, a, 0);
    for (int64_t r = 0; r < m; ++r)
      check.same_bits(&some[r * n], &all[(first + r) * (n + 1)], n, name + " m=" + std::to_string(m));
  }
  // Without bias and residual, and with the residual updated in place.
  a.m = 3;
  a.x = x.data();
  a.bias = nullptr;
  a.residual = nullptr;
  const std::vector<float> plain = run_linear(table, a, 0);
  a.m = 60;
  std::vector<float> in_place = random.floats(60 * n), before = in_place;
  AlignedBytes workspace(kernels.workspace_bytes(p.weight, a.m)), scratch(kernels.scratch_bytes(p.weight, a.m));
  a.workspace = workspace.as();
  a.residual = a.y = in_place.data();
  a.residual_stride = a.y_stride = n;
  kernels.prepare(a, 0, kernels.prepare_items(p.weight, a.m), nullptr);
  kernels.run(a, 0, kernels.items(p.weight, a.m), scratch.as());
  for (int64_t i = 0; i < 3 * n; ++i) check.expect(in_place[i] == plain[i] + before[i], name + " in place");
}

// Gated: the bits of the table's activation of what y held, times the linear's result.
void test_gated(const KernelTable& table, Checker& check, const Format& f, int64_t n, int64_t k, Random& random) {
  const LinearKernels& kernels = table.linear[index_of(f.format)];
  const Packed p = pack(table, f, n, k, DType::f32, DType::bf16, random, check);
  const std::vector<float> bias = random.floats(n);
  for (int64_t m : {1, 2, 4, 6, 9, 33, 50, 203}) {
    const std::vector<float> x = random.floats(m * k), gate = random.floats(m * (n + 3), -4, 4);
    LinearArgs a;
    a.x = x.data();
    a.x_stride = k;
    a.m = m;
    a.weight = &p.weight;
    a.bias = bias.data();
    const std::vector<float> result = run_linear(table, a, 0);
    AlignedBytes workspace(kernels.workspace_bytes(p.weight, m));
    std::vector<float> y = gate;
    for (Activation act : {Activation::silu, Activation::gelu_tanh}) {
      y = gate;
      a.workspace = workspace.as();
      a.y = y.data();
      a.y_stride = n + 3;
      a.gate = table.rows.activation;
      a.act = act;
      run_in_pieces(kernels.prepare, a, kernels.prepare_items(p.weight, m));
      run_in_pieces(kernels.run, a, kernels.items(p.weight, m), kernels.scratch_bytes(p.weight, m));
      std::vector<float> want = gate;
      ActivationArgs args;
      args.act = act;
      args.x = gate.data();
      args.x_stride = n + 3;
      args.up = result.data();
      args.up_stride = n;
      args.dim = n;
      args.y = want.data();
      args.y_stride = n + 3;
      table.rows.activation(args, 0, m, nullptr);
      check.same_bits(y.data(), want.data(), m * (n + 3),
                      std::string(f.name) + " gated n=" + std::to_string(n) + " m=" + std::to_string(m));
    }
  }
}

// An item of prepare reads prepare_rows rows of x and no other.
void test_prepared_rows(const KernelTable& table, Checker& check, const Format& f, Random& random) {
  const LinearKernels& kernels = table.linear[index_of(f.format)];
  const int64_t n = 20, k = 70;
  const Packed p = pack(table, f, n, k, DType::f32, DType::f32, random, check);
  for (int64_t m : {1, 7, 48, 53}) {
    const std::vector<float> x = random.floats(m * k);
    std::vector<float> visible(m * k, kNaN), y(m * n, kNaN);
    LinearArgs a;
    a.x = x.data();
    a.x_stride = k;
    a.m = m;
    a.weight = &p.weight;
    const std::vector<float> want = run_linear(table, a, 0);
    AlignedBytes workspace(kernels.workspace_bytes(p.weight, m)), scratch(kernels.scratch_bytes(p.weight, m));
    a.workspace = workspace.as();
    a.y = y.data();
    a.y_stride = n;
    const int64_t items = kernels.prepare_items(p.weight, m), together = kernels.prepare_rows(p.weight, m);
    if (!items) continue;
    for (int64_t row = 0; row < m; row += together) {
      const int64_t end = std::min(row + together, m);
      std::fill(visible.begin(), visible.end(), kNaN);
      std::copy(x.begin() + row * k, x.begin() + end * k, visible.begin() + row * k);
      a.x = visible.data();
      kernels.prepare(a, row / together, end < m ? row / together + 1 : items, nullptr);
    }
    a.x = x.data();
    kernels.run(a, 0, kernels.items(p.weight, m), scratch.as());
    check.same_bits(y.data(), want.data(), m * n, std::string(f.name) + " prepared row by row, m=" + std::to_string(m));
  }
}

// Integers, scales and zero points from a checkpoint are kept as they are.
void test_given_integers(const KernelTable& table, Checker& check, const Format& f, Random& random) {
  const LinearKernels& kernels = table.linear[index_of(f.format)];
  const int64_t n = 21, k = 160, groups = f.group_size ? (k + f.group_size - 1) / f.group_size : 1;
  std::vector<int8_t> q(n * k);
  std::vector<float> scales, zeros;
  for (int8_t& v : q)
    v = static_cast<int8_t>(f.format == WeightFormat::int4 ? random.below(16) : random.below(255) - 127);
  for (int64_t i = 0; i < n * groups; ++i) {
    scales.push_back(from_f16(to_f16(random.uniform(0.001f, 0.04f))));
    zeros.push_back(static_cast<float>(random.below(16)));
  }
  PackedLinear w = kernels.layout(n, k, f.group_size, f.has_zeros);
  AlignedBytes memory(w.bytes);
  w.data = memory.as();
  const RowSegment segment{q.data(), DType::i8, k, n};
  const QuantSource source{
      .scales = scales.data(), .zeros = f.has_zeros ? zeros.data() : nullptr, .scale_stride = groups};
  PackArgs args{.weight = &w, .segments = &segment, .num_segments = 1, .quant = &source};
  run_in_pieces(kernels.pack, args, w.num_panels);
  std::vector<float> got(n * k);
  kernels.unpack(w, 0, n, got.data());
  for (int64_t i = 0; i < n * k; ++i) {
    const int64_t at = i / k * groups + (f.group_size ? i % k / f.group_size : 0);
    const double zero = f.has_zeros ? zeros[at] : f.format == WeightFormat::int4 ? 8 : 0;
    check.close(got[i], scales[at] * (q[i] - zero), 0, 2e-7, std::string(f.name) + " given integers");
  }
}

// Rows of zeros, of huge and of tiny values, with an infinity or a NaN, quantize to something sensible and
// leave their neighbours alone.
void test_extreme_rows(const KernelTable& table, Checker& check, const Format& f, Random& random) {
  const int64_t n = 20, k = 64;
  const Packed p = pack(table, f, n, k, DType::f32, DType::f32, random, check);
  for (int64_t m : {6, 54}) {
    std::vector<float> x = random.floats(m * k);
    for (int64_t i = 0; i < k; ++i) {
      x[i] = 0.0f;
      x[k + i] *= 1e30f;
      x[2 * k + i] *= 1e-25f;
    }
    x[3 * k + 5] = kNaN;
    x[4 * k + 40] = std::numeric_limits<float>::infinity();
    LinearArgs a;
    a.x = x.data();
    a.x_stride = k;
    a.weight = &p.weight;
    a.m = m;
    const std::vector<float> y = run_linear(table, a, 0);
    for (int64_t r = 0; r < m; ++r)
      for (int64_t c = 0; c < n; ++c) {
        double want = 0, size = 0;
        for (int64_t i = 0; i < k; ++i) {
          want += static_cast<double>(x[r * k + i]) * p.values[c * k + i];
          size += std::fabs(static_cast<double>(x[r * k + i]) * p.values[c * k + i]);
        }
        if (r == 3 || r == 4)
          check.expect(!std::isfinite(y[r * n + c]) || p.values[c * k + (r == 3 ? 5 : 40)] == 0.0f,
                       std::string(f.name) + " hides a NaN or infinity");
        else
          check.close(y[r * n + c], want, 3e-7 * size + activation_rounding(table, f, &x[r * k], &p.values[c * k], k),
                      0, std::string(f.name) + " extreme rows");
      }
  }
}

}  // namespace

void test_linear(const KernelTable& table, Checker& check) {
  Random random(1);
  std::vector<Format> formats;
  for (const Format& f : kFormats) {
    if (table.linear[index_of(f.format)].run) formats.push_back(f);
    else std::printf("%-12s has no kernels for %s\n", table.isa, f.name);
  }
  for (const Format& f : formats)
    for (auto [n, k] :
         {std::pair<int64_t, int64_t>{1, 1}, {3, 2}, {16, 64}, {17, 33}, {65, 255}, {130, 96}, {64, 777}, {200, 512}})
      test_shape(table, check, f, n, k, random);
  for (const Format& f : formats)  // so many inputs that tables go over them in several passes
    if (!row_of(f.format).integers) test_shape(table, check, f, 70, 3333, random);
  for (const Format& f : formats)
    for (auto [n, k] : {std::pair<int64_t, int64_t>{5, 32}, {70, 130}}) test_gated(table, check, f, n, k, random);
  for (const Format& f : formats) {
    if (row_of(f.format).integers) test_given_integers(table, check, f, random);
    test_extreme_rows(table, check, f, random);
    test_prepared_rows(table, check, f, random);
  }
}

}  // namespace quire::testing
