// Speed of the kernels beside the machine's limits, measured in the same rounds:
//   kernel_bench [threads] [rounds] [isa or ""] [one format, or "attention"]
// A memory-bound kernel is given as a share of read4 (four read streams per thread; attention of read1, as it reads one
// sequence of blocks), a compute-bound one as a share of the processor's f32 multiply-add peak and of the peak of the
// products it uses (bf16 or int8), with the widest instructions there are, whatever the table uses. Shares are medians
// over rounds of kernel / limit measured next to each other.
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>

#include "kernel_table.h"
#include "weight_formats.h"
#include "limit_loops.h"
#include "team.h"

namespace quire::bench {
namespace {

volatile uint64_t sink;

struct Buffer {
  explicit Buffer(int64_t bytes) : bytes(bytes) {
    if (posix_memalign(&data, 1 << 21, static_cast<size_t>(std::max<int64_t>(bytes, 64))) != 0) std::abort();
#ifdef MADV_HUGEPAGE
    madvise(data, static_cast<size_t>(bytes), MADV_HUGEPAGE);  // as the runtime does with its weights and cache
#endif
    std::memset(data, 0, static_cast<size_t>(std::max<int64_t>(bytes, 64)));
  }
  ~Buffer() { std::free(data); }
  Buffer(const Buffer&) = delete;
  int64_t bytes;
  void* data = nullptr;
};

void fill(float* p, int64_t count, uint32_t seed) {
  for (int64_t i = 0; i < count; ++i) {
    seed = seed * 1664525u + 1013904223u;
    p[i] = static_cast<float>(seed >> 8) / 16777216.0f - 0.5f;
  }
}

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

class Bench {
 public:
  Bench(int threads, int rounds, const KernelTable& table)
      : team_(threads), rounds_(rounds), table_(table), readable_(int64_t{256} << 20) {}

  double read_bandwidth(int streams) {
    const auto read = streams == 4 ? loops_.read_four_streams : loops_.read_one_stream;
    const int64_t share = readable_.bytes / team_.size() / 4096 * 4096;
    const double seconds =
        team_.run([&](int t) { sink = read(static_cast<const std::byte*>(readable_.data) + t * share, share); });
    return static_cast<double>(share * team_.size()) / seconds;
  }
  double peak(const ArithmeticLoop& loop) {
    constexpr int64_t kIterations = 1000000;
    const double seconds = team_.run([&](int t) { sink = loop.run(kIterations, 1 + t); });
    return static_cast<double>(kIterations) * loop.operations * team_.size() / seconds;
  }

  // What bounds a kernel: reading memory (no loop), or the products of `loop`.
  struct Bound {
    const char* name;
    const ArithmeticLoop* loop;
    int streams = 4;  // read streams per thread
  };
  double limit(const Bound& bound) { return bound.loop ? peak(*bound.loop) : read_bandwidth(bound.streams); }
  Bound products(WeightFormat format) const {
    if (row_of(format).integers && loops_.int8.run) return {"int8 peak", &loops_.int8};
    if (format == WeightFormat::bf16 && loops_.bf16.run && std::string_view(table_.isa) == "avx512_bf16")
      return {"bf16 peak", &loops_.bf16};
    return {"f32 peak", &loops_.f32};
  }

  // work() is one timed run and returns its time.
  template <class F>
  void report(const std::string& name, double amount, const Bound& bound, F&& work) {
    std::vector<double> rates, shares, f32_shares;
    const bool other_products = bound.loop && bound.loop != &loops_.f32;
    work();
    for (int r = 0; r < rounds_; ++r) {
      const double before = limit(bound);
      const double rate = amount / work();
      const double after = limit(bound);
      rates.push_back(rate);
      shares.push_back(rate / (0.5 * (before + after)));
      if (other_products) f32_shares.push_back(rate / peak(loops_.f32));
    }
    std::printf("%-34s %8.1f %s  %5.2f of %s", name.c_str(), median(rates) / 1e9, bound.loop ? "Gop/s " : "GB/s  ",
                median(shares), bound.name);
    if (other_products) std::printf(", %.2f of f32 peak", median(f32_shares));
    std::printf(" (best round %.1f)\n", *std::max_element(rates.begin(), rates.end()) / 1e9);
    std::fflush(stdout);
  }

  void limits() {
    std::vector<double> one, four, f32, bf16, int8;
    for (int r = 0; r < rounds_; ++r) {
      one.push_back(read_bandwidth(1));
      four.push_back(read_bandwidth(4));
      f32.push_back(peak(loops_.f32));
      bf16.push_back(loops_.bf16.run ? peak(loops_.bf16) : 0.0);
      int8.push_back(loops_.int8.run ? peak(loops_.int8) : 0.0);
    }
    std::printf(
        "%s, %d threads: read1 %.1f GB/s, read4 %.1f GB/s; peaks f32 %.0f GFLOP/s, bf16 %.0f, int8 %.0f Gop/s (0 = "
        "none)\n",
        table_.isa, team_.size(), median(one) / 1e9, median(four) / 1e9, median(f32) / 1e9, median(bf16) / 1e9,
        median(int8) / 1e9);
  }

  template <class Args>
  double run_items(RangeKernel<Args> kernel, const Args& args, int64_t items,
                   std::vector<std::unique_ptr<Buffer>>& scratch) {
    std::atomic<int64_t> next{0};
    return team_.run([&](int t) {
      for (int64_t i = next; i < items;) {  // claims that shrink, as the runtime's pool makes them
        const int64_t end = std::min(items, i + std::max<int64_t>(1, (items - i) / (2 * team_.size())));
        if (!next.compare_exchange_weak(i, end)) continue;
        kernel(args, i, end, scratch[t]->data);
        i = next;
      }
    });
  }

  // The linears of a layer of a 0.6B model, `copies` times, so that no cache holds the weights.
  void linear(WeightFormat format, int64_t group, bool zeros, const char* name, int64_t m, int copies) {
    const int64_t shapes[][2] = {{4096, 1024}, {1024, 2048}, {6144, 1024}, {1024, 3072}};
    const LinearKernels& kernels = table_.linear[index_of(format)];
    std::vector<std::unique_ptr<Buffer>> memory, scratch;
    std::vector<PackedLinear> weights;
    double bytes = 0, ops = 0;
    int64_t workspace_bytes = 0, scratch_bytes = 0;
    std::vector<float> source(int64_t{6144} * 1024);
    fill(source.data(), static_cast<int64_t>(source.size()), 5);
    for (int c = 0; c < copies; ++c)
      for (auto [n, k] : shapes) {
        PackedLinear w = kernels.layout(n, k, group, zeros);
        memory.push_back(std::make_unique<Buffer>(w.bytes));
        w.data = memory.back()->data;
        if (c == 0) {
          RowSegment segment{source.data(), DType::f32, k, n};
          PackArgs pack{&w, &segment, 1, nullptr};
          std::atomic<int64_t> next{0};
          team_.run([&](int) {
            for (int64_t i; (i = next.fetch_add(1)) < w.num_panels;) kernels.pack(pack, i, i + 1, nullptr);
          });
        } else {
          std::memcpy(w.data, weights[weights.size() - 4].data, static_cast<size_t>(w.bytes));
        }
        weights.push_back(w);
        bytes += static_cast<double>(w.bytes);
        ops += 2.0 * static_cast<double>(m * n * k);
        workspace_bytes = std::max(workspace_bytes, kernels.workspace_bytes(w, m));
        scratch_bytes = std::max(scratch_bytes, kernels.scratch_bytes(w, m));
      }
    Buffer x(m * 3072 * 4), y(m * 6144 * 4), workspace(workspace_bytes);
    fill(static_cast<float*>(x.data), m * 3072, 9);
    for (int t = 0; t < team_.size(); ++t) scratch.push_back(std::make_unique<Buffer>(scratch_bytes));
    const std::string label = std::string(name) + " linear M=" + std::to_string(m);
    const bool memory_bound = m <= 4;
    report(label, memory_bound ? bytes : ops, memory_bound ? kMemory : products(format), [&] {
      double seconds = 0;
      for (const PackedLinear& w : weights) {
        LinearArgs a;
        a.x = static_cast<const float*>(x.data);
        a.x_stride = w.k;
        a.m = m;
        a.weight = &w;
        a.y = static_cast<float*>(y.data);
        a.y_stride = w.n;
        a.workspace = workspace.data;
        if (const int64_t items = kernels.prepare_items(w, m)) seconds += run_items(kernels.prepare, a, items, scratch);
        seconds += run_items(kernels.run, a, kernels.items(w, m), scratch);
      }
      return seconds;
    });
  }

  // 16 query heads on 8 KV heads of 128, several layers, blocks shuffled.
  void attention(DType dtype, const char* name, int64_t context, int64_t queries, int layers) {
    const AttentionKernels& kernels = table_.attention[index_of(dtype)];
    KvCache cache{.data = nullptr,
                  .dtype = dtype,
                  .num_blocks = (context + 63) / 64,
                  .kv_heads = 8,
                  .head_dim = 128,
                  .v_head_dim = 128,
                  .block_size = 64};
    std::vector<std::unique_ptr<Buffer>> memory, scratch;
    const int64_t heads = 16, q_floats = heads * 128;
    for (int l = 0; l < layers; ++l) memory.push_back(std::make_unique<Buffer>(kv_layer_bytes(cache)));
    std::vector<int32_t> blocks(cache.num_blocks), starts = {0, static_cast<int32_t>(queries)},
                                                   lens = {static_cast<int32_t>(context)};
    for (int64_t i = 0; i < cache.num_blocks; ++i) blocks[i] = static_cast<int32_t>(i * 37 % cache.num_blocks);
    Buffer q(queries * q_floats * 4), out(queries * q_floats * 4);
    fill(static_cast<float*>(q.data), queries * q_floats, 3);
    const int64_t scratch_bytes = kernels.scratch_bytes(heads, 8, 128, 128, 64);
    for (int t = 0; t < team_.size(); ++t) scratch.push_back(std::make_unique<Buffer>(scratch_bytes));
    AttentionArgs a;
    a.q = static_cast<const float*>(q.data);
    a.out = static_cast<float*>(out.data);
    a.q_stride = a.out_stride = q_floats;
    a.heads = heads;
    a.num_seqs = 1;
    a.query_start_loc = starts.data();
    a.seq_lens = lens.data();
    a.block_tables = blocks.data();
    a.block_table_stride = cache.num_blocks;
    a.scale = 0.088f;
    std::vector<AttentionItem> items(kernels.item_capacity(queries, 1, 8, context, 64, team_.size()));
    std::vector<float> partials(kernels.partial_floats(context, heads, 8, 128, 64, team_.size()));
    a.items = items.data();
    a.item_capacity = static_cast<int64_t>(items.size());
    a.partials = partials.data();
    a.partial_capacity = static_cast<int64_t>(partials.size());
    const bool memory_bound = queries == 1;
    const double keys = static_cast<double>(queries) * static_cast<double>(context - queries) +
                        0.5 * static_cast<double>(queries * queries);
    const double amount =
        layers * (memory_bound ? static_cast<double>(kv_layer_bytes(cache)) : 4.0 * 128 * heads * keys);
    report(std::string(name) + " attention " + std::to_string(queries) + " of " + std::to_string(context), amount,
           memory_bound ? kOneStream : Bound{"f32 peak", &loops_.f32}, [&] {
             double seconds = 0;
             for (int l = 0; l < layers; ++l) {
               a.cache = cache;
               a.cache.data = memory[l]->data;
               kernels.plan(a, team_.size());
               seconds += run_items(kernels.run, a, a.num_items, scratch);
               if (a.num_merges) seconds += run_items(kernels.merge, a, a.num_merges, scratch);
             }
             return seconds;
           });
  }

 private:
  Team team_;
  int rounds_;
  const KernelTable& table_;
  const LimitLoops loops_ = limit_loops();
  const Bound kMemory = {"read4", nullptr}, kOneStream = {"read1", nullptr, 1};
  Buffer readable_;
};

}  // namespace
}  // namespace quire::bench

int main(int argc, char** argv) {
  using namespace quire;
  const int threads = argc > 1 ? std::atoi(argv[1]) : 2, rounds = argc > 2 ? std::atoi(argv[2]) : 7;
  const std::string only = argc > 4 ? argv[4] : "";
  bench::Bench b(threads, rounds, select_kernels(argc > 3 ? argv[3] : ""));
  b.limits();
  const struct {
    WeightFormat format;
    int64_t group;
    bool zeros;
    const char* name;
    int copies;
  } formats[] = {{WeightFormat::f32, 0, false, "f32", 4},           {WeightFormat::bf16, 0, false, "bf16", 8},
                 {WeightFormat::f16, 0, false, "f16", 8},           {WeightFormat::int8, 0, false, "int8", 16},
                 {WeightFormat::int8, 128, false, "int8-g128", 16}, {WeightFormat::int4, 32, false, "int4-g32", 32}};
  for (const auto& f : formats) {
    if (!only.empty() && only != f.name) continue;
    for (int64_t m : {1, 2, 4, 8, 32}) b.linear(f.format, f.group, f.zeros, f.name, m, f.copies);
    b.linear(f.format, f.group, f.zeros, f.name, 512, 1);
  }
  for (auto [dtype, name] : {std::pair<DType, const char*>{DType::f32, "f32"},
                             {DType::bf16, "bf16"},
                             {DType::f16, "f16"},
                             {DType::i8, "int8"}}) {
    if (!only.empty() && only != name && only != "attention") continue;
    b.attention(dtype, name, 4096, 1, 8);
    b.attention(dtype, name, 32768, 1, 4);
    b.attention(dtype, name, 512, 512, 4);
    b.attention(dtype, name, 4096, 256, 1);
  }
  return 0;
}
