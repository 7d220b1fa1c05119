// The AVX-512 VNNI kernels with bf16 weights, and attention over bf16 caches, multiplied by AVX512_BF16 (vdpbf16ps): twice
// the rate of f32 multiply-adds. Activations of these linears, queries and the weights of the softmax are rounded to bf16.
// Compiled with ISA flags: no std:: headers here.
#include "attention/zmm/bf16.h"
#include "isa/tables.h"
#include "linear/zmm/float.h"

namespace quire::avx512_bf16 {

int64_t linear_workspace_bytes(const PackedLinear& w, int64_t m) {
  if (w.format == WeightFormat::bf16) return float_workspace_bytes<WeightFormat::bf16>(w, m);
  return avx512_vnni::table().linear_workspace_bytes(w, m);
}
int64_t linear_prepare_items(const PackedLinear& w, int64_t m) {
  return w.format == WeightFormat::bf16 ? m : avx512_vnni::table().linear_prepare_items(w, m);
}
void linear_prepare(const LinearArgs& a, int64_t begin, int64_t end, void* scratch) {
  if (a.weight->format == WeightFormat::bf16) return copy_rows<WeightFormat::bf16>(a, begin, end);
  avx512_vnni::table().linear_prepare(a, begin, end, scratch);
}
void linear(const LinearArgs& a, int64_t begin, int64_t end, void* scratch) {
  if (a.weight->format == WeightFormat::bf16)
    return float_items<WeightFormat::bf16>(a, begin, end, static_cast<float*>(scratch));
  avx512_vnni::table().linear(a, begin, end, scratch);
}

// Caches of other dtypes are those tables' matter.
int64_t attention_table_partial_floats(int64_t max_len, int64_t heads, int64_t kv_heads, int64_t v_head_dim,
                                       int64_t block_size, int64_t num_threads) {
  return max_of(
      attention_partial_floats(max_len, heads, kv_heads, v_head_dim, block_size, num_threads),
      avx512_vnni::table().attention_partial_floats(max_len, heads, kv_heads, v_head_dim, block_size, num_threads));
}
void attention_table_plan(AttentionArgs& a, int64_t num_threads) {
  if (a.cache.dtype == DType::bf16) attention_plan(a, num_threads);
  else avx512_vnni::table().attention_plan(a, num_threads);
}
int64_t attention_scratch_bytes(int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t v_head_dim,
                                int64_t block_size) {
  return max_of(pair_scratch_bytes(heads, kv_heads, head_dim, v_head_dim, block_size),
                avx512_vnni::table().attention_scratch_bytes(heads, kv_heads, head_dim, v_head_dim, block_size));
}
void attention(const AttentionArgs& a, int64_t begin, int64_t end, void* scratch) {
  if (a.cache.dtype != DType::bf16) return avx512_vnni::table().attention(a, begin, end, scratch);
  for (int64_t i = begin; i < end; ++i) attention_item_bf16(a, a.items[i], scratch);
}

const KernelTable& table() {
  static const KernelTable kernels = [] {
    KernelTable t = avx512_vnni::table();
    t.isa = "avx512_bf16";
    t.linear_workspace_bytes = linear_workspace_bytes;
    t.linear_prepare_items = linear_prepare_items;
    t.linear_prepare = linear_prepare;
    t.linear = linear;
    t.attention_partial_floats = attention_table_partial_floats;
    t.attention_plan = attention_table_plan;
    t.attention_scratch_bytes = attention_scratch_bytes;
    t.attention = attention;
    return t;
  }();
  return kernels;
}

}  // namespace quire::avx512_bf16
