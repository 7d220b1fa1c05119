// Row ops in one loop with the next linear's preparing, and gated linears: the bits of the kernels called one by one.
#include <cmath>
#include <cstring>
#include <map>

#include "expect.h"
#include "plan.h"

namespace quire::testing {

namespace {

constexpr int64_t kRows = 140, kIn = 64, kMlp = 48, kOut = 40, kTokens = 23;

struct Weights {
  int64_t table, norm, up, bias, down;
};

std::vector<float> numbers(int64_t count, float spread, uint64_t seed) {
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) {
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    value = spread * (static_cast<float>(seed >> 40) / 8388608.0f - 1.0f);
  }
  return values;
}

Operand place(int64_t offset_floats, int64_t width, RowSymbol rows = RowSymbol::T) {
  return {Space::arena, offset_floats * 4, width, rows, 1, width};
}

struct Format {
  WeightFormat format;
  int64_t group_size;
};

Weights add_weights(Plan& plan, const Format& f) {
  WeightStore& store = plan.weights();
  const auto linear = [&](int64_t n, int64_t k, uint64_t seed) {
    const int64_t index = store.add_linear(f.format, n, k, f.group_size);
    const std::vector<float> values = numbers(n * k, 0.2f, seed);
    store.pack_linear(index, {RowSegment{values.data(), DType::f32, k, n}}, nullptr, plan.pool());
    return index;
  };
  const auto vector = [&](int64_t size, uint64_t seed) {
    const int64_t index = store.add_vector(size);
    store.fill_vector(index, numbers(size, 1.0f, seed).data(), DType::f32, size);
    return index;
  };
  const int64_t table = store.add_table(DType::f32, kTokens, kIn);
  const std::vector<float> rows = numbers(kTokens * kIn, 3.0f, 1);
  store.fill_table(table, {RowSegment{rows.data(), DType::f32, kIn, kTokens}}, plan.pool());
  return {table, vector(kIn, 2), linear(2 * kMlp, kIn, 3), vector(2 * kMlp, 4), linear(kOut, kMlp, 5)};
}

using Values = std::map<std::string, Fields::Value>;
const Operand kIds{Space::token_ids, 0, 1, RowSymbol::T, 1, 1},
    kLogitsRows{Space::logits_indices, 0, 1, RowSymbol::L, 1, 1};

std::unique_ptr<Plan> new_plan(const std::string& kernels, int threads) {
  return std::make_unique<Plan>(
      Plan::Options{kernels, threads, true, DType::f32, 16, {kRows, 1, kRows, kRows, kTokens}});
}

// Logits = the rows of `result` in order.
void finish(Plan& plan, const Operand& result, int64_t end_floats) {
  const Operand logits = place(end_floats, result.width, RowSymbol::L);
  plan.add_op(Fields("take_rows", Values{{"x", result}, {"rows", kLogitsRows}, {"y", logits}}), true);
  plan.set_logits(logits);
  plan.prepare((end_floats + kRows * result.width) * 4);
}

std::vector<int32_t> tokens_of(int64_t rows) {
  std::vector<int32_t> tokens;
  for (int64_t row = 0; row < rows; ++row) tokens.push_back(static_cast<int32_t>(row * 7 % kTokens));
  return tokens;
}

std::vector<float> run(Plan& plan, int64_t rows) {
  StepInput input;
  input.token_ids = tokens_of(rows);
  input.query_start_loc = {0, static_cast<int32_t>(rows)};
  input.num_computed = {0};
  input.prev_row = {-1};
  for (int64_t row = 0; row < rows; ++row) {
    input.logits_indices.push_back(static_cast<int32_t>(row));
    input.returned_rows.push_back(static_cast<int32_t>(row));
  }
  StepOutput output;
  plan.run(input, output);
  return {output.logits.get(), output.logits.get() + output.logits_rows * output.vocab};
}

// embedding, norm, gated MLP. The result lies where the norm's lay.
std::unique_ptr<Plan> mlp_plan(const std::string& kernels, int threads, const Format& f, bool gated) {
  auto plan = new_plan(kernels, threads);
  const Weights w = add_weights(*plan, f);
  const Operand x = place(0, kIn), normed = place(kRows * kIn, kIn), hidden = place(2 * kRows * kIn, 2 * kMlp),
                out = place(kRows * kIn, kOut);
  Operand gate = hidden, up = hidden;
  gate.width = up.width = kMlp;
  up.offset_bytes += kMlp * 4;
  const auto op = [&](const std::string& name, Values values) { plan->add_op(Fields(name, std::move(values)), false); };
  op("embedding", {{"ids", kIds}, {"y", x}, {"table", w.table}, {"linear", std::monostate{}}, {"scale", 1.0}});
  op("rms_norm",
     {{"x", x}, {"y", normed}, {"weight", w.norm}, {"weight_offset", 0.5}, {"eps", 1e-6}, {"groups", int64_t{1}}});
  if (gated) {
    op("gated_linear", {{"x", normed}, {"y", gate}, {"weight", w.up}, {"bias", w.bias}, {"act", std::string("silu")}});
  } else {
    op("linear", {{"x", normed}, {"y", hidden}, {"weight", w.up}, {"bias", w.bias}});
    op("gated_activation", {{"gate", gate}, {"up", up}, {"y", gate}, {"act", std::string("silu")}});
  }
  op("linear", {{"x", gate}, {"y", out}, {"weight", w.down}, {"bias", std::monostate{}}});
  finish(*plan, out, 2 * kRows * kIn + kRows * 2 * kMlp);
  return plan;
}

std::vector<float> linear_alone(const KernelTable& kernels, const PackedLinear& weight, const float* bias,
                                const std::vector<float>& x, int64_t x_stride) {
  LinearArgs args;
  args.m = static_cast<int64_t>(x.size()) / x_stride;
  std::vector<float> y(static_cast<size_t>(args.m * weight.n));
  const LinearKernels& linear = kernels.linear[index_of(weight.format)];
  const Buffer workspace(linear.workspace_bytes(weight, args.m)), scratch(linear.scratch_bytes(weight, args.m));
  args.x = x.data();
  args.x_stride = x_stride;
  args.weight = &weight;
  args.bias = bias;
  args.y = y.data();
  args.y_stride = weight.n;
  args.workspace = workspace.data();
  if (const int64_t items = linear.prepare_items(weight, args.m)) linear.prepare(args, 0, items, nullptr);
  linear.run(args, 0, linear.items(weight, args.m), scratch.data());
  return y;
}

// Every kernel called once, on the weights of a plan.
std::vector<float> mlp_alone(Plan& plan, int64_t rows) {
  const KernelTable& kernels = plan.kernels();
  const WeightStore& store = plan.weights();
  const std::vector<float> table = numbers(kTokens * kIn, 3.0f, 1);
  std::vector<float> x;
  for (const int32_t token : tokens_of(rows))
    x.insert(x.end(), table.begin() + token * kIn, table.begin() + (token + 1) * kIn);
  kernels.rows.rms_norm({x.data(), kIn, store.vector(0), 0.5f, 1e-6f, kIn, 1, x.data(), kIn}, 0, rows, nullptr);
  std::vector<float> hidden = linear_alone(kernels, store.linear(0), store.vector(1), x, kIn);
  kernels.rows.activation(
      {Activation::silu, hidden.data(), 2 * kMlp, hidden.data() + kMlp, 2 * kMlp, kMlp, hidden.data(), 2 * kMlp}, 0,
      rows, nullptr);
  return linear_alone(kernels, store.linear(1), nullptr, hidden, 2 * kMlp);
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

std::string joined(const std::vector<std::string>& names) {
  std::string all;
  for (const std::string& name : names) all += name + " ";
  return all;
}

void fused_ops_have_the_bits_of_single_kernels(const std::string& kernels) {
  for (const Format& f : {Format{WeightFormat::f32, 0}, Format{WeightFormat::bf16, 0}, Format{WeightFormat::int8, 0},
                          Format{WeightFormat::int4, 32}}) {
    const auto gated = mlp_plan(kernels, 3, f, true), apart = mlp_plan(kernels, 2, f, false);
    expect(joined(gated->ops()) == "embedding rms_norm+prepare gated_linear linear take_rows ",
           kernels + ": gated plan is " + joined(gated->ops()));
    expect(joined(apart->ops()) == "embedding rms_norm+prepare linear gated_activation+prepare linear take_rows ",
           kernels + ": plan is " + joined(apart->ops()));
    for (const int64_t rows : {1, 2, 5, 16, 49, 140}) {
      const std::vector<float> want = mlp_alone(*apart, rows);
      const std::string what =
          kernels + " format " + std::to_string(static_cast<int>(f.format)) + " rows " + std::to_string(rows);
      expect(same_bits(run(*apart, rows), want), what + ": chained");
      expect(same_bits(run(*gated, rows), want), what + ": gated");
    }
  }
}

// y of the second op lies over rows of the first op's operand that are still to be read: two loops.
void ops_that_would_meet_are_not_chained() {
  for (const bool shifted : {false, true}) {
    auto plan = new_plan("", 2);
    const Weights w = add_weights(*plan, {WeightFormat::f32, 0});
    const Operand x = place(kRows * kIn, kIn), sum = place(3 * kRows * kIn, kIn);
    const Operand y = shifted ? place(kRows * kIn + 32, kIn) : x;
    plan->add_op(
        Fields("embedding",
               Values{{"ids", kIds}, {"y", x}, {"table", w.table}, {"linear", std::monostate{}}, {"scale", 1.0}}),
        false);
    plan->add_op(Fields("add", Values{{"a", x}, {"b", x}, {"y", sum}}), false);
    plan->add_op(Fields("scale", Values{{"x", sum}, {"y", y}, {"value", 2.0}}), false);
    finish(*plan, y, 4 * kRows * kIn);
    expect(joined(plan->ops()) == (shifted ? "embedding add scale take_rows " : "embedding add+scale take_rows "),
           "chains are " + joined(plan->ops()));
    const std::vector<float> table = numbers(kTokens * kIn, 3.0f, 1), found = run(*plan, kRows);
    bool right = true;
    for (int64_t row = 0; row < kRows; ++row)
      for (int64_t i = 0; i < kIn; ++i)
        right = right && found[static_cast<size_t>(row * kIn + i)] ==
                             4.0f * table[static_cast<size_t>(row * 7 % kTokens * kIn + i)];
    expect(right, shifted ? "two loops" : "one loop in place");
  }
}

void halves_must_be_whole_panels() {
  auto plan = new_plan("", 1);
  const int64_t odd = plan->weights().add_linear(WeightFormat::f32, 40, kIn),
                even = plan->weights().add_linear(WeightFormat::f32, 64, kIn);
  const auto gated = [&](int64_t weight, int64_t width) {
    plan->add_op(Fields("gated_linear", Values{{"x", place(0, kIn)},
                                               {"y", place(kRows * kIn, width)},
                                               {"weight", weight},
                                               {"bias", std::monostate{}},
                                               {"act", std::string("silu")}}),
                 false);
  };
  expect_error([&] { gated(odd, 20); }, "whole panels");
  expect_error([&] { gated(even, 64); }, "half of the weight");
  gated(even, 32);
}

}  // namespace

void test_chains() {
  for (const std::string_view kernels : available_kernels())
    fused_ops_have_the_bits_of_single_kernels(std::string(kernels));
  ops_that_would_meet_are_not_chained();
  halves_must_be_whole_panels();
}

}  // namespace quire::testing
