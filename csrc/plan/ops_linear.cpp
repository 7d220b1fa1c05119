// linear: prepare (where the format copies or quantizes activations), then the product. linear_add: and something added.
// gated_linear: the gate's product, then that of what it gates.
#include <algorithm>

#include "activation_name.h"
#include "op_families.h"
#include "row_op.h"

namespace quire {

namespace {

class LinearOp : public RowConsumer {
 public:
  void require(const PlanLimits& limits, Requirements& needs) override {
    const int64_t rows = max_rows(x_, limits);
    needs.workspace(kernels_->workspace_bytes(*matrix_, rows));
    needs.scratch(kernels_->scratch_bytes(*matrix_, rows));
  }

  const Operand& consumed() const override { return x_; }
  int64_t prepared_together(const StepContext& step) const override {
    const int64_t rows = step.rows(x_);
    return kernels_->prepare_items(*matrix_, rows) ? kernels_->prepare_rows(*matrix_, rows) : 0;
  }
  void prepare_rows(const StepContext& step, int64_t begin, int64_t end) const override {
    const LinearArgs args = arguments(step);
    const int64_t rows = kernels_->prepare_rows(*matrix_, args.m);
    const int64_t items = end < args.m ? end / rows : kernels_->prepare_items(*matrix_, args.m);
    kernels_->prepare(args, begin / rows, items, nullptr);
  }

 protected:
  LinearOp(Fields& f, const OpResources& r)
      : x_(f.operand("x")),
        y_(f.operand("y")),
        weight_(f.integer("weight")),
        bias_(f.optional_integer("bias")),
        matrix_(&r.weights.linear(weight_)),
        kernels_(&r.kernels.linear[index_of(matrix_->format)]) {
    if (x_.width != matrix_->k) throw f.error("x", "does not fit the weight");
    if (bias_ >= 0 && r.weights.vector_size(bias_) != matrix_->n) throw f.error("bias", "does not fit the weight");
  }

  LinearArgs arguments(const StepContext& step) const {
    LinearArgs args;
    args.x = step.pointer<float>(x_);
    args.x_stride = x_.row_stride;
    args.m = step.rows(x_);
    args.weight = matrix_;
    args.bias = step.weights.vector(bias_);
    args.y = step.pointer<float>(y_);
    args.y_stride = y_.row_stride;
    args.workspace = step.workspace;
    return args;
  }
  void prepare(const StepContext& step, const LinearArgs& args) const {
    if (!prepares_) return;
    if (const int64_t items = kernels_->prepare_items(*matrix_, args.m))
      step.run(kernels_->prepare, args, items, x_.width);
  }

  Operand x_, y_;
  int64_t weight_, bias_;
  const PackedLinear* matrix_;
  const LinearKernels* kernels_;  // of the matrix's format
};

// y = x @ W^T (+ bias); linear_add: (+ residual), which may lie where y does.
template <bool kAdds>
class Linear final : public LinearOp {
 public:
  Linear(Fields& f, const OpResources& r) : LinearOp(f, r) {
    if (y_.width != matrix_->n) throw f.error("y", "does not fit the weight");
    if constexpr (kAdds) residual_ = f.operand("residual");
    if (kAdds && residual_.width != matrix_->n) throw f.error("residual", "does not fit the weight");
  }

  void run(StepContext& step) override {
    LinearArgs args = arguments(step);
    if constexpr (kAdds) {
      args.residual = step.pointer<float>(residual_);
      args.residual_stride = residual_.row_stride;
    }
    prepare(step, args);
    const int64_t items = kernels_->items(*matrix_, args.m);
    step.run(kernels_->run, args, items, 1 + args.m * matrix_->n * matrix_->k / (items * 4));
  }

 private:
  Operand residual_;
};

// y = act(gate) * up, [gate, up] = x @ W^T (+ bias). The halves of W are linears of their own whose items are cut alike:
// a thread makes some of the gate's columns in y, which stay in its caches, and then gates the same columns of up.
class GatedLinear final : public LinearOp {
 public:
  GatedLinear(Fields& f, const OpResources& r) : LinearOp(f, r), act_(activation_named(f, f.text("act"))) {
    if (2 * y_.width != matrix_->n) throw f.error("y", "is not half of the weight");
    if (y_.width % matrix_->panel_columns) throw f.error("weight", "has halves that are not whole panels");
    if (y_.row_stride < y_.width) throw f.error("y", "has rows that overlap");
  }

  void run(StepContext& step) override {
    const PackedLinear gate_half = half(0), up_half = half(1);
    LinearArgs gate_args = arguments(step);
    prepare(step, gate_args);
    gate_args.weight = &gate_half;
    LinearArgs up = gate_args;
    up.weight = &up_half;
    if (up.bias) up.bias += gate_half.n;
    up.gate = step.kernels.rows.activation;
    up.act = act_;
    const int64_t items = kernels_->items(gate_half, up.m), results = up.m * gate_half.n / items;
    const int64_t together = std::max<int64_t>(1, kResultsTogether / std::max<int64_t>(results, 1));
    const int64_t item_bytes = gate_half.num_panels % items ? 0 : gate_half.bytes / items;  // 0: rows are cut too
    step.for_items(items, 1 + results * gate_half.k / 2, [&](int64_t begin, int64_t end, int thread) {
      for (; begin < end; begin += together) {
        const int64_t stop = std::min(begin + together, end);
        LinearArgs gate = gate_args;
        gate.next_bytes = together == 1 || item_bytes ? gate_half.bytes - (stop - begin - 1) * item_bytes : 0;
        kernels_->run(gate, begin, stop, step.thread_scratch(thread));
        kernels_->run(up, begin, stop, step.thread_scratch(thread));
      }
    });
  }

 private:
  static constexpr int64_t kResultsTogether = 8 << 10;  // of the gate, until those of up follow: they stay near

  PackedLinear half(int64_t index) const {
    PackedLinear part = *matrix_;
    part.n = matrix_->n / 2;
    part.num_panels = matrix_->num_panels / 2;
    part.bytes = matrix_->bytes / 2;
    part.data = static_cast<std::byte*>(matrix_->data) + index * part.bytes;
    return part;
  }

  Activation act_;
};

}  // namespace

OpMakers linear_ops() {
  return {{"linear", make<Linear<false>>}, {"linear_add", make<Linear<true>>}, {"gated_linear", make<GatedLinear>}};
}

}  // namespace quire
