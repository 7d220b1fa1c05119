// Ops on positions and the paged KV cache.
#include <algorithm>

#include "op_families.h"
#include "row_op.h"

namespace quire {

namespace {

RotaryStyle style_named(const Fields& f, const std::string& name) {
  if (name == "neox") return RotaryStyle::neox;
  if (name == "gptj") return RotaryStyle::gptj;
  throw f.error("style", "names no rotary style: " + name);
}

// Fields shared by `rotary` and `rotary_cache_write`.
struct RotaryFields {
  RotaryFields(Fields& f, const OpResources& r, int64_t head_dim)
      : positions(f.operand("positions")), table(f.integer("table")), style(style_named(f, f.text("style"))) {
    if (r.weights.rotary(table).dims > head_dim) throw f.error("table", "rotates more than a head");
  }

  RotaryArgs args(const StepContext& step) const {
    const RotaryTable& rotary = step.weights.rotary(table);
    RotaryArgs args;
    args.dims = rotary.dims;
    args.style = style;
    args.positions = step.pointer<int32_t>(positions);
    args.cos = rotary.cos.as<float>();
    args.sin = rotary.sin.as<float>();
    return args;
  }

  Operand positions;
  int64_t table;
  RotaryStyle style;
};

class Rotary final : public RowOp {
 public:
  Rotary(Fields& f, const OpResources& r)
      : x_(f.operand("x")),
        y_(f.operand("y")),
        heads_(f.integer("heads")),
        rotary_(f, r, heads_ > 0 ? x_.width / heads_ : 0) {
    if (heads_ < 1 || x_.width % heads_ || y_.width != x_.width) throw f.error("heads", "does not divide x");
    describe({{x_, false}, {y_, true}}, x_.width);
  }

  void run_rows(const StepContext& step, int64_t begin, int64_t end) const override {
    RotaryArgs args = rotary_.args(step);
    args.x = step.pointer<float>(x_);
    args.x_stride = x_.row_stride;
    args.heads = heads_;
    args.head_dim = x_.width / heads_;
    args.y = step.pointer<float>(y_);
    args.y_stride = y_.row_stride;
    run_kernel(step.kernels.rows.rotary, args, begin, end);
  }

 private:
  Operand x_, y_;
  int64_t heads_;
  RotaryFields rotary_;
};

// Where k and v go: a layer slot of a group.
struct CacheFields {
  CacheFields(Fields& f, const OpResources& r) : group(f.integer("group")), slot(f.integer("slot")) {
    if (slot < 0 || slot >= r.kv.group(group).layers) throw f.error("slot", "is outside its group");
  }

  int64_t group, slot;
};

CacheWriteArgs write_args(const StepContext& step, const CacheFields& at, const Operand& k, const Operand& v) {
  CacheWriteArgs args;
  args.cache = step.kv.cache(at.group, at.slot);
  args.k = step.pointer<float>(k);
  args.k_stride = k.row_stride;
  args.v = step.pointer<float>(v);
  args.v_stride = v.row_stride;
  args.slots = step.groups[static_cast<size_t>(at.group)].slots.data();
  return args;
}

void check_kv(const Fields& f, const OpResources& r, const CacheFields& at, const Operand& k, const Operand& v) {
  const KvCache& shape = r.kv.group(at.group).shape;
  if (k.width != shape.kv_heads * shape.head_dim) throw f.error("k", "does not fit the cache");
  if (v.width != shape.kv_heads * shape.v_head_dim) throw f.error("v", "does not fit the cache");
}

// Neighbours go into one cache line of a key's, and are written faster together.
int64_t tokens_together(int64_t tokens) {
  constexpr int64_t kPiece = 32, kPieces = 4;
  return tokens < kPiece * kPieces ? 1 : kPiece;
}

class CacheWrite final : public RowOp {
 public:
  CacheWrite(Fields& f, const OpResources& r) : at_(f, r), k_(f.operand("k")), v_(f.operand("v")) {
    check_kv(f, r, at_, k_, v_);
    describe({{k_, false}, {v_, false}}, 4 * (k_.width + v_.width));
  }

  int64_t piece(int64_t tokens) const override { return tokens_together(tokens); }
  void run_rows(const StepContext& step, int64_t begin, int64_t end) const override {
    run_kernel(step.kernels.rows.cache_write, write_args(step, at_, k_, v_), begin, end);
  }

 private:
  CacheFields at_;
  Operand k_, v_;
};

// Rotates k on its way into the cache.
class RotaryCacheWrite final : public RowOp {
 public:
  RotaryCacheWrite(Fields& f, const OpResources& r)
      : at_(f, r), k_(f.operand("k")), v_(f.operand("v")), rotary_(f, r, r.kv.group(at_.group).shape.head_dim) {
    check_kv(f, r, at_, k_, v_);
    describe({{k_, false}, {v_, false}}, 4 * (k_.width + v_.width));
  }

  int64_t piece(int64_t tokens) const override { return tokens_together(tokens); }
  void run_rows(const StepContext& step, int64_t begin, int64_t end) const override {
    const RotaryArgs rotary = rotary_.args(step);  // of no queries
    CacheWriteArgs args = write_args(step, at_, k_, v_);
    args.rotary = &rotary;
    run_kernel(step.kernels.rows.cache_write, args, begin, end);
  }

 private:
  CacheFields at_;
  Operand k_, v_;
  RotaryFields rotary_;
};

class PagedAttention final : public Op {
 public:
  PagedAttention(Fields& f, const OpResources& r)
      : at_(f, r),
        q_(f.operand("q")),
        y_(f.operand("y")),
        heads_(f.integer("heads")),
        window_(f.integer("window")),
        scale_(f.real("scale")),
        softcap_(f.real("softcap")),
        causal_(f.boolean("causal")),
        sinks_(f.optional_integer("sinks")),
        alibi_slopes_(f.optional_integer("alibi_slopes")) {
    const KvCache& cache = r.kv.group(at_.group).shape;
    if (heads_ < 1 || heads_ % cache.kv_heads) throw f.error("heads", "is not a multiple of the KV heads");
    if (q_.width != heads_ * cache.head_dim) throw f.error("q", "does not fit the cache");
    if (y_.width != heads_ * cache.v_head_dim) throw f.error("y", "does not fit the cache");
    if (!causal_ && window_ != 0) throw f.error("window", "needs causal attention");
    for (const int64_t per_head : {sinks_, alibi_slopes_})
      if (per_head >= 0 && r.weights.vector_size(per_head) != heads_)
        throw f.error("heads", "are not those of sinks or slopes");
    const AttentionShape shape{at_.group, heads_, window_, causal_};
    const auto known = std::find_if(r.attention.begin(), r.attention.end(),
                                    [&](const AttentionWork& work) { return work.shape == shape; });
    work_ = static_cast<size_t>(known - r.attention.begin());
    if (known == r.attention.end()) {
      r.attention.emplace_back();
      r.attention.back().shape = shape;
    }
    kernels_ = &r.kernels.attention[index_of(cache.dtype)];
    attention_ = &r.attention;
    shape_ = cache;
  }

  void require(const PlanLimits& limits, Requirements& needs) override {
    AttentionWork& work = (*attention_)[work_];
    if (work.items.empty())
      work.items.resize(static_cast<size_t>(kernels_->item_capacity(
          limits.max_tokens, limits.max_seqs, shape_.kv_heads, limits.max_len, shape_.block_size, needs.num_threads)));
    needs.partials(kernels_->partial_floats(limits.max_len, heads_, shape_.kv_heads, shape_.v_head_dim,
                                            shape_.block_size, needs.num_threads));
    needs.scratch(
        kernels_->scratch_bytes(heads_, shape_.kv_heads, shape_.head_dim, shape_.v_head_dim, shape_.block_size));
  }

  void run(StepContext& step) override {
    AttentionArgs args = arguments(step);
    AttentionWork& work = step.attention[work_];
    if (!work.planned) {
      kernels_->plan(args, step.pool.num_threads());
      work.num_items = args.num_items;
      work.num_merges = args.num_merges;
      work.planned = true;
    }
    args.num_items = work.num_items;
    args.num_merges = work.num_merges;
    step.run(kernels_->run, args, args.num_items, StepContext::kInlineElements);
    if (args.num_merges) step.run(kernels_->merge, args, args.num_merges, heads_ * shape_.v_head_dim);
  }

 private:
  AttentionArgs arguments(StepContext& step) const {
    const GroupStep& group = step.groups[static_cast<size_t>(at_.group)];
    AttentionWork& work = step.attention[work_];
    AttentionArgs args;
    args.q = step.pointer<float>(q_);
    args.q_stride = q_.row_stride;
    args.out = step.pointer<float>(y_);
    args.out_stride = y_.row_stride;
    args.heads = heads_;
    args.cache = step.kv.cache(at_.group, at_.slot);
    args.num_seqs = step.num_seqs;
    args.query_start_loc = step.query_start_loc;
    args.seq_lens = step.seq_lens;
    args.block_tables = group.block_tables;
    args.block_table_stride = group.block_table_stride;
    args.scale = scale_;
    args.softcap = softcap_;
    args.window = window_;
    args.causal = causal_ ? 1 : 0;
    args.sinks = step.weights.vector(sinks_);
    args.alibi_slopes = step.weights.vector(alibi_slopes_);
    args.items = work.items.data();
    args.item_capacity = static_cast<int64_t>(work.items.size());
    args.partials = step.partials;
    args.partial_capacity = step.partial_floats;
    return args;
  }

  CacheFields at_;
  Operand q_, y_;
  int64_t heads_, window_;
  float scale_, softcap_;
  bool causal_;
  int64_t sinks_, alibi_slopes_;  // vectors [heads], -1 = none
  size_t work_ = 0;
  KvCache shape_;
  const AttentionKernels* kernels_;  // of the cache's dtype
  std::vector<AttentionWork>* attention_;
};

}  // namespace

OpMakers cache_ops() {
  return {{"rotary", make<Rotary>},
          {"cache_write", make<CacheWrite>},
          {"rotary_cache_write", make<RotaryCacheWrite>},
          {"paged_attention", make<PagedAttention>}};
}

}  // namespace quire
