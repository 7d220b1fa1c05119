#include "small_model.h"

#include <cmath>
#include <map>

namespace quire::testing {

namespace {

class Builder {
 public:
  Builder(Plan& plan, WeightFormat format) : plan_(plan), format_(format) {}

  Operand place(int64_t width, RowSymbol rows = RowSymbol::T) {
    const Operand operand{Space::arena, bytes_, width, rows, 1, width};
    bytes_ += round_up(kMaxTokens * width * 4, 64);
    return operand;
  }

  static Operand columns(Operand base, int64_t first, int64_t width) {
    base.offset_bytes += 4 * first;
    base.width = width;
    return base;
  }

  int64_t linear(int64_t n, int64_t k) {
    const int64_t index = plan_.weights().add_linear(format_, n, k);
    plan_.weights().pack_linear(index,
                                {RowSegment{numbers(n * k, 1.0f / std::sqrt(static_cast<float>(k))), DType::f32, k, n}},
                                nullptr, plan_.pool());
    return index;
  }

  int64_t vector(int64_t size) {
    const int64_t index = plan_.weights().add_vector(size);
    plan_.weights().fill_vector(index, numbers(size, 1.0f), DType::f32, size);
    return index;
  }

  void op(const std::string& name, std::map<std::string, Fields::Value> fields, bool head = false) {
    plan_.add_op(Fields(name, std::move(fields)), head);
  }

  int64_t bytes() const { return bytes_; }

 private:
  const float* numbers(int64_t count, float spread) {
    values_.resize(static_cast<size_t>(count));
    for (float& value : values_) {
      state_ = state_ * 6364136223846793005ull + 1442695040888963407ull;
      value = spread * (static_cast<float>(state_ >> 40) / 8388608.0f - 1.0f);
    }
    return values_.data();
  }

  Plan& plan_;
  WeightFormat format_;
  int64_t bytes_ = 0;
  uint64_t state_ = 42;
  std::vector<float> values_;
};

void add_attention(Builder& b, Plan& plan, const Operand& x, const Operand& residual, const Operand& normed) {
  const int64_t kv = kKvHeads * kHeadDim, q = kHeads * kHeadDim;
  const Operand qkv = b.place(q + 2 * kv), attended = b.place(q), out = b.place(kHidden);
  std::vector<float> cos(kMaxLen * kHeadDim / 2), sin(cos.size());
  for (size_t i = 0; i < cos.size(); ++i) {
    cos[i] = std::cos(static_cast<float>(i));
    sin[i] = std::sin(static_cast<float>(i));
  }
  const int64_t table = plan.weights().add_rotary(kMaxLen, kHeadDim);
  plan.weights().extend_rotary(table, kMaxLen, cos.data(), sin.data());
  const Operand positions{Space::positions, 0, 1, RowSymbol::T, 1, 1};
  b.op("rms_norm", {{"x", x},
                    {"y", normed},
                    {"weight", b.vector(kHidden)},
                    {"weight_offset", 0.0},
                    {"eps", 1e-6},
                    {"groups", int64_t{1}}});
  b.op("linear",
       {{"x", normed}, {"y", qkv}, {"weight", b.linear(q + 2 * kv, kHidden)}, {"bias", b.vector(q + 2 * kv)}});
  const Operand queries = Builder::columns(qkv, 0, q);
  b.op("rotary", {{"x", queries},
                  {"y", queries},
                  {"positions", positions},
                  {"heads", kHeads},
                  {"table", table},
                  {"style", std::string("neox")}});
  b.op("rotary_cache_write", {{"positions", positions},
                              {"table", table},
                              {"style", std::string("neox")},
                              {"group", int64_t{0}},
                              {"slot", int64_t{0}},
                              {"k", Builder::columns(qkv, q, kv)},
                              {"v", Builder::columns(qkv, q + kv, kv)}});
  b.op("paged_attention", {{"q", queries},
                           {"y", attended},
                           {"group", int64_t{0}},
                           {"slot", int64_t{0}},
                           {"heads", kHeads},
                           {"window", int64_t{0}},
                           {"scale", 0.35},
                           {"softcap", 0.0},
                           {"causal", true},
                           {"sinks", std::monostate{}},
                           {"alibi_slopes", std::monostate{}}});
  b.op("linear", {{"x", attended}, {"y", out}, {"weight", b.linear(kHidden, q)}, {"bias", std::monostate{}}});
  b.op("add_rms_norm", {{"a", x},
                        {"b", out},
                        {"sum", residual},
                        {"y", normed},
                        {"weight", b.vector(kHidden)},
                        {"weight_offset", 1.0},
                        {"eps", 1e-6}});
}

void add_experts(Builder& b, const Operand& residual, const Operand& normed) {
  const Operand router = b.place(kExperts), ids = b.place(kTop), weights = b.place(kTop), mixed = b.place(kHidden);
  std::vector<int64_t> w13, w2;
  for (int64_t e = 0; e < kExperts; ++e) {
    w13.push_back(b.linear(2 * kMlp, kHidden));
    w2.push_back(b.linear(kHidden, kMlp));
  }
  b.op("linear", {{"x", normed}, {"y", router}, {"weight", b.linear(kExperts, kHidden)}, {"bias", std::monostate{}}});
  b.op("route_experts", {{"logits", router},
                         {"ids", ids},
                         {"weights", weights},
                         {"k", kTop},
                         {"score", std::string("softmax")},
                         {"normalize", true},
                         {"scale", 1.0}});
  b.op("experts", {{"x", normed},
                   {"ids", ids},
                   {"weights", weights},
                   {"y", mixed},
                   {"w13", w13},
                   {"w2", w2},
                   {"act", std::string("silu")}});
  b.op("add", {{"a", residual}, {"b", mixed}, {"y", residual}});
}

}  // namespace

std::unique_ptr<Plan> small_model(const std::string& kernels, int num_threads, DType dtype) {
  auto plan = std::make_unique<Plan>(
      Plan::Options{kernels, num_threads, true, dtype, kBlockSize, {kMaxTokens, 4, 6, kMaxLen, kVocab}});
  Builder b(*plan, dtype == DType::f32 ? WeightFormat::f32 : WeightFormat::bf16);
  plan->kv().add_group(0, 1, kKvHeads, kHeadDim, kHeadDim);
  const int64_t head = b.linear(kVocab, kHidden);
  const Operand ids{Space::token_ids, 0, 1, RowSymbol::T, 1, 1}, rows{Space::logits_indices, 0, 1, RowSymbol::L, 1, 1};
  const Operand x = b.place(kHidden), residual = b.place(kHidden), normed = b.place(kHidden);
  const Operand taken = b.place(kHidden, RowSymbol::L), logits = b.place(kVocab, RowSymbol::L);
  b.op("embedding", {{"ids", ids}, {"y", x}, {"table", std::monostate{}}, {"linear", head}, {"scale", 2.0}});
  add_attention(b, *plan, x, residual, normed);
  add_experts(b, residual, normed);
  b.op("take_rows", {{"x", residual}, {"rows", rows}, {"y", taken}}, true);
  b.op("linear", {{"x", taken}, {"y", logits}, {"weight", head}, {"bias", std::monostate{}}}, true);
  plan->set_logits(logits);
  plan->prepare(b.bytes());
  plan->allocate_kv({kBlocks});
  return plan;
}

std::unique_ptr<StepInput> chunk(const std::vector<int32_t>& tokens, int32_t computed) {
  auto input = std::make_unique<StepInput>();
  input->token_ids = tokens;
  input->query_start_loc = {0, static_cast<int32_t>(tokens.size())};
  input->num_computed = {computed};
  input->prev_row = {-1};
  input->groups.push_back({{3, 0, 7, 5}, 4, {}});
  for (int32_t row = 0; row < static_cast<int32_t>(tokens.size()); ++row) {
    input->logits_indices.push_back(row);
    input->returned_rows.push_back(row);
  }
  input->sampled_rows = {static_cast<int32_t>(tokens.size()) - 1};
  return input;
}

}  // namespace quire::testing
