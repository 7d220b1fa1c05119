// Mixture of experts: routing, and the experts' two matrices over rows grouped by expert.
#include <algorithm>
#include <cmath>

#include "op_families.h"

namespace quire {

namespace {

// Scores over all experts, the k best (lowest index first among equals), normalized over the chosen if asked.
class RouteExperts final : public Op {
 public:
  RouteExperts(Fields& f, const OpResources&)
      : logits_(f.operand("logits")),
        ids_(f.operand("ids")),
        weights_(f.operand("weights")),
        k_(f.integer("k")),
        softmax_(f.text("score") == "softmax"),
        normalize_(f.boolean("normalize")),
        scale_(f.real("scale")) {
    if (!softmax_ && f.text("score") != "sigmoid") throw f.error("score", "is neither softmax nor sigmoid");
    if (k_ < 1 || k_ > logits_.width) throw f.error("k", "must be between 1 and the number of experts");
  }

  void require(const PlanLimits&, Requirements& needs) override { needs.scratch(logits_.width * 4); }

  void run(StepContext& step) override {
    const float* logits = step.pointer<float>(logits_);
    int32_t* ids = step.pointer<int32_t>(ids_);
    float* weights = step.pointer<float>(weights_);
    step.pool.parallel_for(
        step.rows(logits_),
        [&](int64_t begin, int64_t end, int thread) {
          for (int64_t row = begin; row < end; ++row)
            route(logits + row * logits_.row_stride, ids + row * ids_.row_stride, weights + row * weights_.row_stride,
                  static_cast<float*>(step.thread_scratch(thread)));
        },
        16);
  }

 private:
  void route(const float* logits, int32_t* ids, float* weights, float* scores) const {
    const int64_t experts = logits_.width;
    float top = logits[0], sum = 0.0f;
    for (int64_t e = 1; e < experts; ++e) top = std::max(top, logits[e]);
    for (int64_t e = 0; e < experts; ++e) {
      scores[e] = softmax_ ? std::exp(logits[e] - top) : 1.0f / (1.0f + std::exp(-logits[e]));
      sum += scores[e];
    }
    if (softmax_)
      for (int64_t e = 0; e < experts; ++e) scores[e] /= sum;
    float chosen = 0.0f;
    for (int64_t j = 0; j < k_; ++j) {
      int64_t best = 0;
      for (int64_t e = 1; e < experts; ++e)
        if (scores[e] > scores[best]) best = e;
      ids[j] = static_cast<int32_t>(best);
      weights[j] = scores[best];
      chosen += scores[best];
      scores[best] = -1.0f;  // scores are not negative
    }
    for (int64_t j = 0; j < k_; ++j) weights[j] = (normalize_ ? weights[j] / chosen : weights[j]) * scale_;
  }

  Operand logits_, ids_, weights_;
  int64_t k_;
  bool softmax_, normalize_;
  float scale_;
};

// y[t] = sum over j of weights[t, j] * w2[e] (act(gate) * up), [gate, up] = w13[e] x[t], e = ids[t, j].
// Rows are gathered by expert, so that every used expert's matrices are read once a step.
class Experts final : public Op {
 public:
  Experts(Fields& f, const OpResources& r)
      : x_(f.operand("x")),
        ids_(f.operand("ids")),
        weights_(f.operand("weights")),
        y_(f.operand("y")),
        w13_(f.integers("w13")),
        w2_(f.integers("w2")),
        kernels_(&r.kernels) {
    const std::string act = f.text("act");
    if (w13_.empty() || w13_.size() != w2_.size()) throw f.error("w13", "and w2 must hold the same experts");
    for (size_t e = 0; e < w13_.size(); ++e) {
      up_.push_back(&r.weights.linear(w13_[e]));
      down_.push_back(&r.weights.linear(w2_[e]));
      if (up_[e]->k != x_.width || down_[e]->n != y_.width || up_[e]->n != 2 * down_[e]->k)
        throw f.error("w13", "does not fit x and w2");
    }
    mlp_ = down_[0]->k;
    activation_.act = act == "silu"         ? Activation::silu
                      : act == "gelu"       ? Activation::gelu
                      : act == "gelu_tanh"  ? Activation::gelu_tanh
                      : act == "relu"       ? Activation::relu
                      : act == "quick_gelu" ? Activation::quick_gelu
                                            : throw f.error("act", "names no activation: " + act);
  }

  void require(const PlanLimits& limits, Requirements& needs) override {
    const int64_t tokens = max_rows(x_, limits), rows = tokens * ids_.width;
    needs.workspace(plan_memory(rows).bytes);
    // An expert is chosen at most once a token.
    needs.scratch(
        std::max(linear(*up_[0]).scratch_bytes(*up_[0], tokens), linear(*down_[0]).scratch_bytes(*down_[0], tokens)));
    order_.resize(static_cast<size_t>(rows));
    source_.resize(static_cast<size_t>(rows));
    used_.reserve(up_.size());
    starts_.resize(up_.size() + 1);
    item_starts_.resize(up_.size() + 1);
  }

  void run(StepContext& step) override {
    group_rows(step);
    const int64_t tokens = step.rows(x_), rows = static_cast<int64_t>(used_.empty() ? 0 : starts_[used_.size()]);
    const Memory memory = plan_memory(max_rows_);
    float* gathered = reinterpret_cast<float*>(step.workspace);
    float* hidden = reinterpret_cast<float*>(step.workspace + memory.hidden);
    std::byte* workspace = step.workspace + memory.linear;
    const EmbeddingArgs gather{
        source_.data(), step.pointer<float>(x_), DType::f32, tokens, x_.row_stride, 1.0f, x_.width, gathered, x_.width};
    step.run(kernels_->rows.embedding, gather, rows, x_.width);
    multiply(step, up_, gathered, x_.width, hidden, 2 * mlp_, workspace, memory.linear_bytes);
    ActivationArgs gate = activation_;
    gate.x = hidden;
    gate.up = hidden + mlp_;
    gate.x_stride = gate.up_stride = gate.y_stride = 2 * mlp_;
    gate.dim = mlp_;
    gate.y = hidden;
    step.run(kernels_->rows.activation, gate, rows, 4 * mlp_);
    multiply(step, down_, hidden, 2 * mlp_, gathered, y_.width, workspace, memory.linear_bytes);
    const CombineRowsArgs combine{gathered,     y_.width, order_.data(), step.pointer<float>(weights_),
                                  ids_.width,   0,        y_.width,      step.pointer<float>(y_),
                                  y_.row_stride};
    step.run(kernels_->rows.combine_rows, combine, tokens, ids_.width * y_.width);
  }

 private:
  struct Memory {
    int64_t hidden, linear, linear_bytes, bytes;
  };

  const LinearKernels& linear(const PackedLinear& w) const { return kernels_->linear[index_of(w.format)]; }

  // [rows, D] gathered and results, [rows, 2 * mlp] hidden, then the linears' workspaces of all used experts.
  Memory plan_memory(int64_t rows) {
    max_rows_ = rows;
    const int64_t experts = static_cast<int64_t>(up_.size());
    const auto bound = [&](const PackedLinear& w) {  // workspaces grow at most linearly beyond a few rows each
      return linear(w).workspace_bytes(w, rows) + experts * (linear(w).workspace_bytes(w, 16) + 64);
    };
    Memory memory{};
    memory.hidden = round_up(rows * std::max(x_.width, y_.width) * 4, 64);
    memory.linear = memory.hidden + round_up(rows * 2 * mlp_ * 4, 64);
    memory.linear_bytes = std::max(bound(*up_[0]), bound(*down_[0]));
    memory.bytes = memory.linear + memory.linear_bytes;
    return memory;
  }

  // Counting sort of (token, choice) pairs by expert. order_[t * k + j] = grouped row; source_[row] = token.
  void group_rows(const StepContext& step) {
    const int32_t* ids = step.pointer<int32_t>(ids_);
    const int64_t tokens = step.rows(x_), k = ids_.width, experts = static_cast<int64_t>(up_.size());
    counts_.assign(up_.size(), 0);
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t j = 0; j < k; ++j)
        if (const int32_t e = ids[t * ids_.row_stride + j]; e >= 0 && e < experts) ++counts_[static_cast<size_t>(e)];
    used_.clear();
    int64_t row = 0;
    for (int64_t e = 0; e < experts; ++e) {
      const int64_t count = counts_[static_cast<size_t>(e)];
      if (!count) continue;
      starts_[used_.size()] = row;
      used_.push_back(e);
      counts_[static_cast<size_t>(e)] = row;  // from here on: the expert's next free row
      row += count;
    }
    starts_[used_.size()] = row;
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t j = 0; j < k; ++j) {
        const int32_t e = ids[t * ids_.row_stride + j];
        int32_t& place = order_[static_cast<size_t>(t * k + j)];
        place = -1;
        if (e < 0 || e >= experts) continue;
        place = static_cast<int32_t>(counts_[static_cast<size_t>(e)]++);
        source_[static_cast<size_t>(place)] = static_cast<int32_t>(t);
      }
    }
  }

  // One loop over the items of all used experts' linears.
  void multiply(StepContext& step, const std::vector<const PackedLinear*>& matrices, const float* x, int64_t x_stride,
                float* y, int64_t y_stride, std::byte* workspace, int64_t workspace_bytes) {
    args_.clear();
    int64_t offset = 0, items = 0, prepare_items = 0;
    for (size_t u = 0; u < used_.size(); ++u) {
      const PackedLinear& matrix = *matrices[static_cast<size_t>(used_[u])];
      LinearArgs args;
      args.m = starts_[u + 1] - starts_[u];
      args.x = x + starts_[u] * x_stride;
      args.x_stride = x_stride;
      args.weight = &matrix;
      args.y = y + starts_[u] * y_stride;
      args.y_stride = y_stride;
      args.workspace = workspace + offset;
      offset += round_up(linear(matrix).workspace_bytes(matrix, args.m), 64);
      if (offset > workspace_bytes)
        throw std::length_error("experts: the kernels' workspace grows faster than linearly");
      args_.push_back(args);
      item_starts_[u] = items;
      items += linear(matrix).items(matrix, args.m);
      prepare_items += linear(matrix).prepare_items(matrix, args.m);
    }
    if (prepare_items)
      for (const LinearArgs& args : args_)
        step.run(linear(*args.weight).prepare, args, linear(*args.weight).prepare_items(*args.weight, args.m),
                 args.weight->k);
    item_starts_[used_.size()] = items;
    step.pool.parallel_for(items, [&](int64_t begin, int64_t end, int thread) {
      size_t u =
          static_cast<size_t>(
              std::upper_bound(item_starts_.begin(), item_starts_.begin() + static_cast<int64_t>(used_.size()), begin) -
              item_starts_.begin()) -
          1;
      for (; begin < end; ++u) {
        const int64_t stop = std::min(end, item_starts_[u + 1]);
        linear(*args_[u].weight)
            .run(args_[u], begin - item_starts_[u], stop - item_starts_[u], step.thread_scratch(thread));
        begin = stop;
      }
    });
  }

  Operand x_, ids_, weights_, y_;
  std::vector<int64_t> w13_, w2_;
  const KernelTable* kernels_;
  std::vector<const PackedLinear*> up_, down_;
  ActivationArgs activation_;
  int64_t mlp_ = 0, max_rows_ = 0;
  std::vector<int32_t> order_, source_;
  std::vector<int64_t> counts_, used_, starts_, item_starts_;
  std::vector<LinearArgs> args_;
};

}  // namespace

OpMakers expert_ops() { return {{"route_experts", make<RouteExperts>}, {"experts", make<Experts>}}; }

}  // namespace quire
