#include <map>

#include "harness.h"

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
};

std::vector<float> run_linear(const KernelTable& table, LinearArgs a, int64_t pad) {
  const PackedLinear& w = *a.weight;
  std::vector<float> y(a.m * (w.n + pad), kNaN);
  AlignedBytes workspace(table.linear_workspace_bytes(w, a.m)), scratch(table.linear_scratch_bytes(w, a.m));
  a.workspace = workspace.as();
  a.y = y.data();
  a.y_stride = w.n + pad;
  run_in_pieces(table.linear_prepare, a, table.linear_prepare_items(w, a.m));
  run_in_pieces(table.linear, a, table.linear_items(w, a.m), scratch.as());
  return y;
}

// The weight packed from two segments of different dtype and stride, as a merged linear would be.
struct Packed {
  PackedLinear weight;
  std::unique_ptr<AlignedBytes> memory;
  std::vector<float> values;  // [N, K] as the kernels see them
};
Packed pack(const KernelTable& table, const Format& f, int64_t n, int64_t k, DType first, DType second, Random& random) {
  Packed p;
  p.weight = table.linear_layout(f.format, n, k, f.group_size, f.has_zeros);
  p.memory = std::make_unique<AlignedBytes>(p.weight.bytes);
  p.weight.data = p.memory->as();
  const int64_t n0 = n / 2;
  const Typed a = typed(random.floats(n0 * (k + 3)), first), b = typed(random.floats((n - n0) * k), second);
  const RowSegment segments[] = {{a.bytes.data(), first, k + 3, n0}, {b.bytes.data(), second, k, n - n0}};
  PackArgs args{.weight = &p.weight, .segments = segments, .num_segments = 2, .quant = nullptr};
  run_in_pieces(table.linear_pack, args, p.weight.num_panels);
  p.values.resize(n * k);
  table.linear_unpack(p.weight, 0, n, p.values.data());
  std::vector<float> source;
  for (int64_t row = 0; row < n; ++row)
    for (int64_t i = 0; i < k; ++i) source.push_back(row < n0 ? a.values[row * (k + 3) + i] : b.values[(row - n0) * k + i]);
  if (f.format <= WeightFormat::f16) {
    const DType dtype = f.format == WeightFormat::f32 ? DType::f32 : f.format == WeightFormat::bf16 ? DType::bf16 : DType::f16;
    const Typed want = typed(source, dtype);
    for (size_t i = 0; i < source.size(); ++i)
      if (want.values[i] != p.values[i]) p.values[i] = kNaN;  // makes every comparison below fail
  }
  return p;
}

void test_shape(const KernelTable& table, Checker& check, const Format& f, int64_t n, int64_t k, Random& random) {
  const Packed p = pack(table, f, n, k, DType::bf16, n % 2 ? DType::f16 : DType::f32, random);
  const int64_t rows = 203, x_stride = k + 5;
  const std::vector<float> x = random.floats(rows * x_stride), bias = random.floats(n), residual = random.floats(rows * (n + 2));
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
      check.close(all[r * (n + 1) + c], want, 3e-7 * size, 0, name);
    }
  for (int64_t r = 0; r < rows; ++r) check.expect(std::isnan(all[r * (n + 1) + n]), name + " wrote past its row");
  // A row's bits depend on nothing but the row: other batch sizes, other places in the batch.
  for (int64_t m : {1, 2, 3, 4, 5, 6, 7, 8, 33, 47, 48, 49, 100}) {
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
  AlignedBytes workspace(table.linear_workspace_bytes(p.weight, a.m)), scratch(table.linear_scratch_bytes(p.weight, a.m));
  a.workspace = workspace.as();
  a.residual = a.y = in_place.data();
  a.residual_stride = a.y_stride = n;
  table.linear_prepare(a, 0, table.linear_prepare_items(p.weight, a.m), nullptr);
  table.linear(a, 0, table.linear_items(p.weight, a.m), scratch.as());
  for (int64_t i = 0; i < 3 * n; ++i) check.expect(in_place[i] == plain[i] + before[i], name + " in place");
}

}  // namespace

void test_linear(const KernelTable& table, Checker& check) {
  Random random(1);
  for (const Format& f : kFormats)
    for (auto [n, k] : {std::pair<int64_t, int64_t>{1, 1}, {3, 2}, {16, 64}, {17, 33}, {65, 255}, {130, 96}, {64, 777}, {200, 512}})
      test_shape(table, check, f, n, k, random);
}

}  // namespace quire::testing
