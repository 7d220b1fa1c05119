// Row-wise ops: one kernel call each, items are rows.
#include <algorithm>

#include "activation_name.h"
#include "op_families.h"
#include "row_op.h"

namespace quire {

namespace {

float* f32(const StepContext& step, const Operand& operand) { return step.pointer<float>(operand); }

class RmsNorm final : public RowOp {
 public:
  RmsNorm(Fields& f, const OpResources& r)
      : x_(f.operand("x")),
        y_(f.operand("y")),
        weight_(f.integer("weight")),
        offset_(f.real("weight_offset")),
        eps_(f.real("eps")),
        groups_(f.integer("groups")) {
    dim_ = r.weights.vector_size(weight_);
    if (dim_ * groups_ != x_.width || y_.width != x_.width) throw f.error("x", "does not fit the weight");
    describe({{x_, false}, {y_, true}}, x_.width);
  }

  void run_rows(const StepContext& step, int64_t begin, int64_t end) const override {
    const RmsNormArgs args{f32(step, x_), x_.row_stride, step.weights.vector(weight_), offset_, eps_, dim_, groups_,
                           f32(step, y_), y_.row_stride};
    run_kernel(step.kernels.rows.rms_norm, args, begin, end);
  }

 private:
  Operand x_, y_;
  int64_t weight_;
  float offset_, eps_;
  int64_t groups_, dim_;
};

class AddRmsNorm final : public RowOp {
 public:
  AddRmsNorm(Fields& f, const OpResources& r)
      : a_(f.operand("a")),
        b_(f.operand("b")),
        sum_(f.operand("sum")),
        y_(f.operand("y")),
        weight_(f.integer("weight")),
        offset_(f.real("weight_offset")),
        eps_(f.real("eps")) {
    if (r.weights.vector_size(weight_) != a_.width) throw f.error("a", "does not fit the weight");
    describe({{a_, false}, {b_, false}, {sum_, true}, {y_, true}}, a_.width);
  }

  void run_rows(const StepContext& step, int64_t begin, int64_t end) const override {
    const AddRmsNormArgs args{
        f32(step, a_), a_.row_stride, f32(step, b_), b_.row_stride,   step.weights.vector(weight_),
        offset_,       eps_,          a_.width,      f32(step, sum_), sum_.row_stride,
        f32(step, y_), y_.row_stride};
    run_kernel(step.kernels.rows.add_rms_norm, args, begin, end);
  }

 private:
  Operand a_, b_, sum_, y_;
  int64_t weight_;
  float offset_, eps_;
};

class LayerNorm final : public RowOp {
 public:
  LayerNorm(Fields& f, const OpResources& r)
      : x_(f.operand("x")),
        y_(f.operand("y")),
        weight_(f.integer("weight")),
        bias_(f.optional_integer("bias")),
        eps_(f.real("eps")) {
    if (r.weights.vector_size(weight_) != x_.width) throw f.error("x", "does not fit the weight");
    describe({{x_, false}, {y_, true}}, x_.width);
  }

  void run_rows(const StepContext& step, int64_t begin, int64_t end) const override {
    const LayerNormArgs args{
        f32(step, x_), x_.row_stride, step.weights.vector(weight_), step.weights.vector(bias_), eps_, x_.width,
        f32(step, y_), y_.row_stride};
    run_kernel(step.kernels.rows.layer_norm, args, begin, end);
  }

 private:
  Operand x_, y_;
  int64_t weight_, bias_;
  float eps_;
};

class ActivationOp final : public RowOp {
 public:
  ActivationOp(Fields& f, const OpResources&)
      : x_(f.operand("x")), y_(f.operand("y")), act_(activation_named(f, f.text("act"))) {
    describe({{x_, false}, {y_, true}}, 4 * x_.width);
  }

  void run_rows(const StepContext& step, int64_t begin, int64_t end) const override {
    const ActivationArgs args{act_, f32(step, x_), x_.row_stride, nullptr, 0, x_.width, f32(step, y_), y_.row_stride};
    run_kernel(step.kernels.rows.activation, args, begin, end);
  }

 private:
  Operand x_, y_;
  Activation act_;
};

class GatedActivation final : public RowOp {
 public:
  GatedActivation(Fields& f, const OpResources&)
      : gate_(f.operand("gate")), up_(f.operand("up")), y_(f.operand("y")), act_(activation_named(f, f.text("act"))) {
    describe({{gate_, false}, {up_, false}, {y_, true}}, 4 * gate_.width);
  }

  void run_rows(const StepContext& step, int64_t begin, int64_t end) const override {
    const ActivationArgs args{act_,           f32(step, gate_), gate_.row_stride, f32(step, up_),
                              up_.row_stride, gate_.width,      f32(step, y_),    y_.row_stride};
    run_kernel(step.kernels.rows.activation, args, begin, end);
  }

 private:
  Operand gate_, up_, y_;
  Activation act_;
};

class Add final : public RowOp {
 public:
  Add(Fields& f, const OpResources&) : a_(f.operand("a")), b_(f.operand("b")), y_(f.operand("y")) {
    describe({{a_, false}, {b_, false}, {y_, true}}, a_.width);
  }

  void run_rows(const StepContext& step, int64_t begin, int64_t end) const override {
    const ElementwiseArgs args{f32(step, a_), a_.row_stride, f32(step, b_), b_.row_stride,
                               1.0f,          a_.width,      f32(step, y_), y_.row_stride};
    run_kernel(step.kernels.rows.add, args, begin, end);
  }

 private:
  Operand a_, b_, y_;
};

// y = x + vector in every row: the bias that follows a sum over ranks.
class AddVector final : public RowOp {
 public:
  AddVector(Fields& f, const OpResources& r) : x_(f.operand("x")), y_(f.operand("y")), vector_(f.integer("vector")) {
    if (r.weights.vector_size(vector_) != x_.width) throw f.error("x", "does not fit the vector");
    describe({{x_, false}, {y_, true}}, x_.width);
  }

  void run_rows(const StepContext& step, int64_t begin, int64_t end) const override {
    const ElementwiseArgs args{f32(step, x_), x_.row_stride, step.weights.vector(vector_), 0, 1.0f, x_.width,
                               f32(step, y_), y_.row_stride};
    run_kernel(step.kernels.rows.add, args, begin, end);
  }

 private:
  Operand x_, y_;
  int64_t vector_;
};

// scale and softcap: one operand and one number.
template <RangeKernel<ElementwiseArgs> RowKernels::* kKernel>
class Valued final : public RowOp {
 public:
  Valued(Fields& f, const OpResources&) : x_(f.operand("x")), y_(f.operand("y")), value_(f.real("value")) {
    describe({{x_, false}, {y_, true}}, x_.width);
  }

  void run_rows(const StepContext& step, int64_t begin, int64_t end) const override {
    const ElementwiseArgs args{f32(step, x_), x_.row_stride, nullptr,       0,
                               value_,        x_.width,      f32(step, y_), y_.row_stride};
    run_kernel(step.kernels.rows.*kKernel, args, begin, end);
  }

 private:
  Operand x_, y_;
  float value_;
};

// Rows of the embedding table; or of a packed matrix, when a tied head wants the same weight in panels.
class Embedding final : public Op {
 public:
  Embedding(Fields& f, const OpResources& r)
      : ids_(f.operand("ids")),
        y_(f.operand("y")),
        table_(f.optional_integer("table")),
        linear_(f.optional_integer("linear")),
        scale_(f.real("scale")) {
    if ((table_ < 0) == (linear_ < 0)) throw f.error("table", "or linear must be given, not both");
    const int64_t dim = table_ >= 0 ? r.weights.table(table_).dim : r.weights.linear(linear_).k;
    if (dim != y_.width) throw f.error("y", "does not fit the table");
  }

  void run(StepContext& step) override {
    if (table_ < 0) return gather_packed(step);
    const EmbeddingTable& table = step.weights.table(table_);
    const EmbeddingArgs args{step.pointer<int32_t>(ids_),
                             table.rows,
                             table.dtype,
                             table.num_rows,
                             table.dim,
                             scale_,
                             table.dim,
                             f32(step, y_),
                             y_.row_stride};
    step.run(step.kernels.rows.embedding, args, step.rows(y_), y_.width);
  }

 private:
  void gather_packed(StepContext& step) const {
    const PackedLinear& weight = step.weights.linear(linear_);
    const int32_t* ids = step.pointer<int32_t>(ids_);
    float* y = f32(step, y_);
    step.pool.parallel_for(
        step.rows(y_),
        [&](int64_t begin, int64_t end, int) {
          for (int64_t row = begin; row < end; ++row) {
            float* out = y + row * y_.row_stride;
            if (ids[row] < 0 || ids[row] >= weight.n) {
              std::fill_n(out, weight.k, 0.0f);
              continue;
            }
            step.kernels.linear[index_of(weight.format)].unpack(weight, ids[row], ids[row] + 1, out);
            if (scale_ != 1.0f)
              for (int64_t i = 0; i < weight.k; ++i) out[i] *= scale_;
          }
        },
        4);
  }

  Operand ids_, y_;
  int64_t table_, linear_;
  float scale_;
};

class TakeRows final : public Op {
 public:
  TakeRows(Fields& f, const OpResources&) : x_(f.operand("x")), rows_(f.operand("rows")), y_(f.operand("y")) {}

  void run(StepContext& step) override {
    const EmbeddingArgs args{step.pointer<int32_t>(rows_),
                             f32(step, x_),
                             DType::f32,
                             step.rows(x_),
                             x_.row_stride,
                             1.0f,
                             x_.width,
                             f32(step, y_),
                             y_.row_stride};
    step.run(step.kernels.rows.embedding, args, step.rows(y_), y_.width);
  }

 private:
  Operand x_, rows_, y_;
};

// y[r, o, i] = x[r, o * outer_stride + i]: makes a view whose inner dimensions are not contiguous whole.
class CopyView final : public Op {
 public:
  CopyView(Fields& f, const OpResources&)
      : x_(f.operand("x")), y_(f.operand("y")), sizes_(f.integers("sizes")), strides_(f.integers("strides")) {
    int64_t width = 1;
    for (const int64_t size : sizes_) width *= size;
    if (sizes_.size() != strides_.size() || sizes_.empty() || width != y_.width) throw f.error("sizes", "do not fit y");
  }

  void run(StepContext& step) override {
    const float* x = f32(step, x_);
    float* y = f32(step, y_);
    step.pool.parallel_for(
        step.rows(y_),
        [&](int64_t begin, int64_t end, int) {
          for (int64_t row = begin; row < end; ++row) copy(x + row * x_.row_stride, y + row * y_.row_stride, 0);
        },
        1 + StepContext::kChunkElements / y_.width);
  }

 private:
  float* copy(const float* x, float* y, size_t axis) const {
    for (int64_t i = 0; i < sizes_[axis]; ++i) {
      const float* from = x + i * strides_[axis];
      if (axis + 1 < sizes_.size()) y = copy(from, y, axis + 1);
      else *y++ = *from;
    }
    return y;
  }

  Operand x_, y_;
  std::vector<int64_t> sizes_, strides_;
};

}  // namespace

OpMakers row_ops() {
  return {{"rms_norm", make<RmsNorm>},
          {"add_rms_norm", make<AddRmsNorm>},
          {"layer_norm", make<LayerNorm>},
          {"activation", make<ActivationOp>},
          {"gated_activation", make<GatedActivation>},
          {"add", make<Add>},
          {"add_vector", make<AddVector>},
          {"scale", make<Valued<&RowKernels::scale>>},
          {"softcap", make<Valued<&RowKernels::softcap>>},
          {"embedding", make<Embedding>},
          {"take_rows", make<TakeRows>},
          {"copy_view", make<CopyView>}};
}

}  // namespace quire
