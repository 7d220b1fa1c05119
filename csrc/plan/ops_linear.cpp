// linear: prepare (where the format quantizes activations), then the product.
#include "op_families.h"

namespace quire {

namespace {

class Linear final : public Op {
 public:
  Linear(Fields& f, const OpResources& r)
      : x_(f.operand("x")), y_(f.operand("y")), weight_(f.integer("weight")), bias_(f.optional_integer("bias")) {
    const PackedLinear& weight = r.weights.linear(weight_);
    if (x_.width != weight.k) throw f.error("x", "does not fit the weight");
    if (y_.width != weight.n) throw f.error("y", "does not fit the weight");
    if (bias_ >= 0 && r.weights.vector_size(bias_) != weight.n) throw f.error("bias", "does not fit the weight");
    kernels_ = &r.kernels;
    matrix_ = &weight;
  }

  void require(const PlanLimits& limits, Requirements& needs) override {
    const int64_t rows = max_rows(x_, limits);
    needs.workspace(kernels_->linear_workspace_bytes(*matrix_, rows));
    needs.scratch(kernels_->linear_scratch_bytes(*matrix_, rows));
  }

  void run(StepContext& step) override {
    LinearArgs args;
    args.x = step.pointer<float>(x_);
    args.x_stride = x_.row_stride;
    args.m = step.rows(x_);
    args.weight = matrix_;
    args.bias = step.weights.vector(bias_);
    args.y = step.pointer<float>(y_);
    args.y_stride = y_.row_stride;
    args.workspace = step.workspace;
    if (const int64_t items = kernels_->linear_prepare_items(*matrix_, args.m))
      step.run(kernels_->linear_prepare, args, items, x_.width);
    const int64_t items = kernels_->linear_items(*matrix_, args.m);
    step.run(kernels_->linear, args, items, 1 + args.m * matrix_->n * matrix_->k / (items * 4));
  }

 private:
  Operand x_, y_;
  int64_t weight_, bias_;
  const KernelTable* kernels_;
  const PackedLinear* matrix_;
};

}  // namespace

OpMakers linear_ops() { return {{"linear", make<Linear>}}; }

}  // namespace quire
