// Types of the kernel interface: argument structs, packed weights, the table of function pointers.
// Included by every per-ISA translation unit, so it holds plain data only: no std:: code that would
// be compiled with ISA flags and then picked by the linker for everybody (ODR).
//
// Conventions
//  - Sizes and strides count elements unless a name ends in _bytes. int64_t everywhere.
//  - Activations are float32. "[T, F] stride s" means row t starts at p + t * s, F elements are used.
//  - A kernel never creates a thread. It is called with a half-open range of *work items*
//    [begin, end); the items of one call may be split over threads in any way, and the result's bits
//    do not depend on the split. Items of one call never write the same memory.
//  - `scratch` is per thread, 64-byte aligned, of the size the kernel's *_scratch_bytes states;
//    its contents need not survive a call. Kernels without such a function take nullptr.
//  - A result row depends on its own input row only: never on the other rows, their number, or the chunking.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace quire {

template <class Args>
using RangeKernel = void (*)(const Args& args, int64_t begin, int64_t end, void* scratch);

enum class DType : int32_t { f32 = 0, bf16 = 1, f16 = 2, i8 = 3, i32 = 4 };
constexpr int kCacheDTypes = 4;  // of a KV cache: f32, bf16, f16, i8
constexpr int index_of(DType t) { return static_cast<int>(t); }

constexpr int64_t dtype_bytes(DType t) { return t == DType::f32 || t == DType::i32 ? 4 : (t == DType::i8 ? 1 : 2); }

enum class Activation : int32_t { silu = 0, gelu = 1, gelu_tanh = 2, relu = 3, quick_gelu = 4 };
// gelu: erf form. gelu_tanh: also called gelu_new, gelu_pytorch_tanh. quick_gelu: x * sigmoid(1.702 x).

// ---------------------------------------------------------------------------------------------
// Linear: y[M, N] = x[M, K] @ W[N, K]^T (+ bias[N]) (+ residual[M, N]); gated: y = act(y) * that

enum class WeightFormat : int32_t {
  f32 = 0,
  bf16 = 1,
  f16 = 2,
  int8 = 3,  // signed, symmetric; one scale per output channel (group_size 0) or per group of inputs.
             // Activations are quantized to 16 bits per row (avx2, portable) or, as for int4, to 8 bits per (row, 32
             // inputs) (avx512 and neon tables); sums of products are exact int32.
  int4 = 4,  // 4 bits, scale per group (32, 64, 128); zero point 8, or per group when has_zeros.
             // Activations are quantized to 8 bits per (row, 32 inputs).
};
constexpr int kWeightFormats = 5;
constexpr int index_of(WeightFormat f) { return static_cast<int>(f); }

// Rows [n, n + num_rows) of a weight matrix, K elements each, as they lie in a checkpoint (maybe mmap).
// Several segments in order make one packed matrix: a merged linear needs no joined copy.
struct RowSegment {
  const void* rows = nullptr;
  DType dtype = DType::f32;  // f32, bf16, f16; i8 for values that are already quantized (see QuantSource)
  int64_t row_stride = 0;
  int64_t num_rows = 0;
};

// Values that a checkpoint (GPTQ, AWQ, GGUF...) already quantized. Weight = scale * (q - zero).
// With RowSegment::dtype i8 the segments hold q, one per byte: int8 -127..127, int4 0..15.
struct QuantSource {
  const float* scales = nullptr;  // [N, num_groups] stride scale_stride; num_groups = 1 for per-channel
  const float* zeros = nullptr;  // [N, num_groups] stride scale_stride, in units of q; nullptr = 8 (int4) or 0 (int8)
  int64_t scale_stride = 0;
};

// A weight matrix in the layout of one table. Make it with LinearKernels::layout, allocate `bytes`
// at 64-byte alignment, point `data` there, then run LinearKernels::pack over all panels.
struct PackedLinear {
  WeightFormat format = WeightFormat::f32;
  int64_t n = 0;  // output features
  int64_t k = 0;  // input features
  int64_t group_size = 0;  // quantized formats; 0 = per channel
  int32_t has_zeros = 0;  // int4 with zero points of its own
  int64_t num_panels = 0;  // items of pack; a panel is `panel_columns` output features
  int64_t panel_columns = 0;
  int64_t panel_bytes = 0;
  int64_t bytes = 0;  // of the whole matrix
  void* data = nullptr;  // 64-byte aligned, owned by the caller
};

struct PackArgs {
  const PackedLinear* weight = nullptr;  // its data is written
  const RowSegment* segments = nullptr;  // their num_rows sum to weight->n
  int64_t num_segments = 0;
  const QuantSource* quant = nullptr;  // needed for i8 segments; nullptr: float rows, rounded to nearest here
};

struct ActivationArgs;

struct LinearArgs {
  const float* x = nullptr;  // [M, K] stride x_stride
  int64_t x_stride = 0;
  int64_t m = 0;
  const PackedLinear* weight = nullptr;
  const float* bias = nullptr;  // [N] or nullptr
  const float* residual = nullptr;  // [M, N] stride residual_stride, added last; may be y itself; or nullptr
  int64_t residual_stride = 0;
  float* y = nullptr;  // [M, N] stride y_stride; must not overlap x
  int64_t y_stride = 0;
  void* workspace = nullptr;  // workspace_bytes(), shared by all threads, 64-byte aligned
  int64_t next_bytes = 0;  // a hint: from a call's last item's weights to those the thread needs next; 0 = not known
  // Not null (then it is the table's own `activation`): y holds the gate's values, and becomes act(y) * result.
  RangeKernel<ActivationArgs> gate = nullptr;
  Activation act = Activation::silu;
};

// ---------------------------------------------------------------------------------------------
// Row-wise kernels. Items are rows unless said otherwise. In and out may be the same pointer and stride.

// y = x / sqrt(mean(x^2) + eps) * (w + weight_offset), for each of `groups` slices of `dim` in a row
// (groups = num_heads for the norms of q and k, weight shared by the slices).
struct RmsNormArgs {
  const float* x = nullptr;
  int64_t x_stride = 0;
  const float* weight = nullptr;  // [dim]; nullptr = ones
  float weight_offset = 0.0f;
  float eps = 1e-6f;
  int64_t dim = 0;
  int64_t groups = 1;
  float* y = nullptr;
  int64_t y_stride = 0;
};

// sum = x + residual; y = rms_norm(sum). Both are written; sum may be residual or x.
struct AddRmsNormArgs {
  const float* x = nullptr;
  int64_t x_stride = 0;
  const float* residual = nullptr;
  int64_t residual_stride = 0;
  const float* weight = nullptr;  // [dim]; nullptr = ones
  float weight_offset = 0.0f;
  float eps = 1e-6f;
  int64_t dim = 0;
  float* sum = nullptr;
  int64_t sum_stride = 0;
  float* y = nullptr;
  int64_t y_stride = 0;
};

struct LayerNormArgs {
  const float* x = nullptr;
  int64_t x_stride = 0;
  const float* weight = nullptr;  // [dim]; nullptr = ones
  const float* bias = nullptr;  // [dim]; nullptr = zeros
  float eps = 1e-5f;
  int64_t dim = 0;
  float* y = nullptr;
  int64_t y_stride = 0;
};

// y = act(x), or y = act(gate) * up when up is given.
struct ActivationArgs {
  Activation act = Activation::silu;
  const float* x = nullptr;  // x or gate
  int64_t x_stride = 0;
  const float* up = nullptr;
  int64_t up_stride = 0;
  int64_t dim = 0;
  float* y = nullptr;
  int64_t y_stride = 0;
};

// add, mul: y = a (op) b.  scale: y = a * value.  softcap: y = value * tanh(a / value).
struct ElementwiseArgs {
  const float* a = nullptr;
  int64_t a_stride = 0;
  const float* b = nullptr;  // add, mul
  int64_t b_stride = 0;  // 0 = one row for all
  float value = 1.0f;  // scale, softcap
  int64_t dim = 0;
  float* y = nullptr;
  int64_t y_stride = 0;
};

// y[i] = table[ids[i]] * scale. Items: output rows. ids outside [0, num_rows) give a row of zeros.
struct EmbeddingArgs {
  const int32_t* ids = nullptr;
  const void* table = nullptr;  // [num_rows, dim] stride table_stride, of `dtype`
  DType dtype = DType::f32;  // f32 (then it is also take_rows), bf16, f16
  int64_t num_rows = 0;
  int64_t table_stride = 0;
  float scale = 1.0f;
  int64_t dim = 0;
  float* y = nullptr;
  int64_t y_stride = 0;
};

// MoE combine. y[t] = (accumulate ? y[t] : 0) + sum over j < k, in that order, of weights[t, j] * x[rows[t, j]].
// rows[t, j] < 0 is skipped (an expert that another rank holds). Items: tokens.
struct CombineRowsArgs {
  const float* x = nullptr;  // [rows of all experts, dim] stride x_stride
  int64_t x_stride = 0;
  const int32_t* rows = nullptr;  // [T, k]
  const float* weights = nullptr;  // [T, k]
  int64_t k = 0;
  int32_t accumulate = 0;
  int64_t dim = 0;
  float* y = nullptr;
  int64_t y_stride = 0;
};

// Per row r: argmax (lowest index of the largest value; NaN never wins unless all are NaN, then 0),
// max, log(sum(exp(x))). Outputs that are nullptr are not computed. Items: rows.
struct RowReduceArgs {
  const float* x = nullptr;
  int64_t x_stride = 0;
  int64_t dim = 0;
  int32_t* argmax = nullptr;  // [M]
  float* max = nullptr;  // [M]
  float* logsumexp = nullptr;  // [M]
};

// ---------------------------------------------------------------------------------------------
// Positions and the paged KV cache

enum class RotaryStyle : int32_t { neox = 0, gptj = 1 };  // pairs (i, i + dims/2), or (2i, 2i + 1)

// Rotates the first `dims` of each head, copies the rest. Items: tokens. y may be x.
struct RotaryArgs {
  const float* x = nullptr;  // [T, heads, head_dim], row stride x_stride, heads contiguous
  int64_t x_stride = 0;
  int64_t heads = 0;
  int64_t head_dim = 0;
  int64_t dims = 0;
  RotaryStyle style = RotaryStyle::neox;
  const int32_t* positions = nullptr;  // [T], rows of cos and sin
  const float* cos = nullptr;  // [max_len, dims / 2]
  const float* sin = nullptr;
  float* y = nullptr;
  int64_t y_stride = 0;
};

// One layer's cache: [num_blocks][kv_heads]{ K [head_dim][block_size] ; V [block_size][v_head_dim] }.
// Base 64-byte aligned. block_size is a multiple of 16.
// i8: each key and value vector is scale * q with q in -127..127 and scale = max|x| / 127, rounded to nearest even;
// behind V lie the scales: K's f32 [block_size], V's f32 [block_size]. A vector that is not finite has a NaN scale.
struct KvCache {
  void* data = nullptr;
  DType dtype = DType::f32;  // f32, bf16, f16, i8
  int64_t num_blocks = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t v_head_dim = 0;
  int64_t block_size = 0;
};

constexpr int64_t kv_block_head_elements(const KvCache& c) { return c.block_size * (c.head_dim + c.v_head_dim); }
constexpr int64_t kv_block_head_bytes(const KvCache& c) {
  const int64_t scales = c.dtype == DType::i8 ? 2 * c.block_size * 4 : 0;
  return kv_block_head_elements(c) * dtype_bytes(c.dtype) + scales;
}
constexpr int64_t kv_block_bytes(const KvCache& c) { return c.kv_heads * kv_block_head_bytes(c); }
constexpr int64_t kv_layer_bytes(const KvCache& c) { return c.num_blocks * kv_block_bytes(c); }

// Stores k and v of each token at slots[t] = block_id * block_size + offset (-1: not stored), rounded to
// nearest even (i8: quantized, see KvCache). With `rotary` given (its x, y, heads describe q; cos, sin, dims, style, positions serve both),
// q is rotated into rotary->y and k is rotated on its way into the cache. Items: tokens.
struct CacheWriteArgs {
  KvCache cache;
  const float* k = nullptr;  // [T, kv_heads, head_dim] stride k_stride
  int64_t k_stride = 0;
  const float* v = nullptr;  // [T, kv_heads, v_head_dim] stride v_stride
  int64_t v_stride = 0;
  const int32_t* slots = nullptr;  // [T]
  const RotaryArgs* rotary = nullptr;  // nullptr: k is stored as it is
};

// ---------------------------------------------------------------------------------------------
// Paged attention over ragged queries

// A unit of work: `num_rows` query rows of one sequence with all query heads of one KV head.
struct AttentionItem {
  int32_t seq = 0;
  int32_t row = 0;  // first query row, counted from the sequence's query start
  int32_t num_rows = 0;
  int32_t kv_head = 0;
  int32_t span_begin = 0;  // spans of KV to visit: [span_begin, span_end)
  int32_t span_end = 0;
  int64_t partial = -1;  // >= 0: offset in floats into AttentionArgs::partials, one state per span and row
};

struct AttentionArgs {
  const float* q = nullptr;  // [T, heads, head_dim] row stride q_stride, heads contiguous
  int64_t q_stride = 0;
  float* out = nullptr;  // [T, heads, v_head_dim] row stride out_stride; must not overlap q
  int64_t out_stride = 0;
  int64_t heads = 0;  // a multiple of cache.kv_heads; head h reads KV head h / (heads / kv_heads)
  KvCache cache;
  int64_t num_seqs = 0;
  const int32_t* query_start_loc = nullptr;  // [S + 1]
  const int32_t* seq_lens = nullptr;  // [S] keys in the cache, this step's included
  const int32_t* block_tables = nullptr;  // [S, *] row stride block_table_stride; -1 = not resident, never read
  int64_t block_table_stride = 0;
  float scale = 1.0f;
  float softcap = 0.0f;  // > 0: scores become softcap * tanh(score / softcap)
  int64_t window = 0;  // > 0: row index i sees keys j > i - window
  int32_t causal = 1;  // 0: every row sees all seq_lens[s] keys (window must be 0)
  const float* sinks = nullptr;  // [heads] logits that take part in the denominator only
  const float* alibi_slopes = nullptr;  // [heads] adds slope * (j - i) to the score
  // Filled by AttentionKernels::plan, or by the caller before it:
  AttentionItem* items = nullptr;  // [item_capacity]: work list, then (behind it) the merge list
  int64_t item_capacity = 0;  // AttentionKernels::item_capacity()
  int64_t num_items = 0;
  int64_t num_merges = 0;
  float* partials = nullptr;  // scratch for split contexts; nullptr or small: fewer splits, same bits
  int64_t partial_capacity = 0;  // floats
};

// ---------------------------------------------------------------------------------------------
// Drawing a token from a row of logits

constexpr int64_t kDrawBlock = 64;  // tokens that are looked at or left out together
constexpr int kMassLimits = 6;  // thresholds of one masses_above

// The key of a row's random numbers; with the token id it makes the Philox counter.
struct DrawNoise {
  uint64_t seed = 0;
  uint32_t sequence_index = 0;
  uint32_t position = 0;
};

// ---------------------------------------------------------------------------------------------

// The kernels of one weight format. N, K >= 1, any. A table has no kernels of a format whose `run` is nullptr.
struct LinearKernels {
  // The layout belongs to the table that made it. Which group sizes and zero points a format has: weight_formats.h.
  PackedLinear (*layout)(int64_t n, int64_t k, int64_t group_size, bool has_zeros);
  RangeKernel<PackArgs> pack;  // items: weight->num_panels; no scratch
  // Inverse of pack, for tests and export: f32 rows [begin, end) of W into out [end - begin, K].
  void (*unpack)(const PackedLinear& weight, int64_t begin, int64_t end, float* out);
  // A linear is: (prepare over its items, barrier,) run over its items. No prepare when prepare_items is 0.
  // Item i of prepare reads rows [i * r, (i + 1) * r) of x, r = prepare_rows; items past the last row read none.
  // What it leaves in the workspace depends on x and on the weight's format, k, group_size and has_zeros: matrices of
  // different n share it. Items of the linear are cut by n and m: matrices of equal n and format are cut alike.
  int64_t (*workspace_bytes)(const PackedLinear& weight, int64_t m);  // shared; grows with m
  int64_t (*prepare_items)(const PackedLinear& weight, int64_t m);
  RangeKernel<LinearArgs> prepare;  // no scratch
  int64_t (*prepare_rows)(const PackedLinear& weight, int64_t m);  // rows of x that one of its items reads
  int64_t (*items)(const PackedLinear& weight, int64_t m);
  int64_t (*scratch_bytes)(const PackedLinear& weight, int64_t m);  // per thread; grows with m, bounded
  RangeKernel<LinearArgs> run;
};

// The kernels of one cache dtype: one thread calls plan; then run over args.num_items; and, when args.num_merges > 0, a
// barrier and merge over args.num_merges.
// Contexts are always summed in fixed spans of positions, so a split never changes a bit.
struct AttentionKernels {
  int64_t (*item_capacity)(int64_t max_tokens, int64_t max_seqs, int64_t kv_heads, int64_t max_len, int64_t block_size,
                           int64_t num_threads);
  int64_t (*partial_floats)(int64_t max_len, int64_t heads, int64_t kv_heads, int64_t v_head_dim, int64_t block_size,
                            int64_t num_threads);  // enough for every useful split
  void (*plan)(AttentionArgs& args, int64_t num_threads);  // aborts on a too small item_capacity
  int64_t (*scratch_bytes)(int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t v_head_dim, int64_t block_size);
  RangeKernel<AttentionArgs> run;
  RangeKernel<AttentionArgs> merge;  // no scratch
};

// Rows to rows, and rows into the cache.
struct RowKernels {
  RangeKernel<RmsNormArgs> rms_norm;
  RangeKernel<AddRmsNormArgs> add_rms_norm;
  RangeKernel<LayerNormArgs> layer_norm;
  RangeKernel<ActivationArgs> activation;  // plain, and gated when up is given
  RangeKernel<ElementwiseArgs> add;
  RangeKernel<ElementwiseArgs> mul;
  RangeKernel<ElementwiseArgs> scale;
  RangeKernel<ElementwiseArgs> softcap;
  RangeKernel<EmbeddingArgs> embedding;  // and take_rows / gather of MoE: table = x, dtype f32
  RangeKernel<CombineRowsArgs> combine_rows;
  RangeKernel<RowReduceArgs> row_reduce;
  RangeKernel<RotaryArgs> rotary;
  RangeKernel<CacheWriteArgs> cache_write;  // with args.rotary: the fused rotary_cache_write
};

// The passes over a row of logits that drawing a token takes.
struct DrawKernels {
  // maxima[b] = the largest of block b of x[n]; the last block may be short.
  void (*block_maxima)(const float* x, int64_t n, float* maxima);
  // Random bits of the kDrawBlock tokens from `first`, a multiple of 4; returns the largest.
  uint32_t (*noise_bits)(const DrawNoise& noise, uint32_t first, uint32_t* bits);
  // scores[i] = (x[i] - largest) / temperature; masses[i] = exp(scores[i]). Returns the masses' sum.
  double (*score_masses)(const float* x, int64_t n, float largest, float temperature, float* scores, float* masses);
  // sums[l] = the masses of scores that are not below limits[l], for kMassLimits limits.
  void (*masses_above)(const float* scores, const float* masses, int64_t n, const float* limits, double* sums);
};

struct KernelTable {
  const char* isa;  // "portable", "avx2", ...
  LinearKernels linear[kWeightFormats];  // at index_of(format of the weight)
  AttentionKernels attention[kCacheDTypes];  // at index_of(dtype of the cache)
  RowKernels rows;
  DrawKernels draw;
};

}  // namespace quire
