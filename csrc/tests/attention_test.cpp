#include <algorithm>
#include <utility>

#include "harness.h"

namespace quire::testing {
namespace {

struct Case {
  DType dtype = DType::f32;
  int64_t block_size = 16, head_dim = 16, v_head_dim = 16, kv_heads = 2, group = 2, window = 0;
  float softcap = 0;
  bool causal = true, sinks = false, alibi = false;
  std::string name() const {
    return std::string("attention ") + dtype_name(dtype) + " block " + std::to_string(block_size) + " dims " +
           std::to_string(head_dim) + "/" + std::to_string(v_head_dim) + " heads " + std::to_string(kv_heads) + "x" +
           std::to_string(group) + " window " + std::to_string(window) + (softcap > 0 ? " softcap" : "") +
           (causal ? "" : " full") + (sinks ? " sinks" : "") + (alibi ? " alibi" : "");
  }
};

// Sequences in a cache of shuffled blocks whose other slots are NaN, and whose queries, keys and values are known.
class World {
 public:
  World(const KernelTable& table, const Case& c, std::vector<int64_t> lengths, uint64_t seed)
      : table_(table), case_(c), lengths_(std::move(lengths)), random_(seed) {
    const int64_t seqs = static_cast<int64_t>(lengths_.size());
    for (int64_t length : lengths_)
      blocks_per_seq_ = std::max(blocks_per_seq_, (length + c.block_size - 1) / c.block_size + 1);
    cache_ = KvCache{.data = nullptr,
                     .dtype = c.dtype,
                     .num_blocks = seqs * blocks_per_seq_ + 3,
                     .kv_heads = c.kv_heads,
                     .head_dim = c.head_dim,
                     .v_head_dim = c.v_head_dim,
                     .block_size = c.block_size};
    memory_ = std::make_unique<AlignedBytes>(kv_layer_bytes(cache_));  // all NaN
    cache_.data = memory_->as();
    std::vector<int32_t> ids(cache_.num_blocks);
    for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i);
    for (size_t i = ids.size(); i > 1; --i) std::swap(ids[i - 1], ids[random_.below(static_cast<int64_t>(i))]);
    tables_.assign(seqs * blocks_per_seq_, -1);
    size_t next = 0;
    for (int64_t s = 0; s < seqs; ++s) {
      const int64_t length = lengths_[s];
      for (int64_t b = 0; b * c.block_size < length; ++b) tables_[s * blocks_per_seq_ + b] = ids[next++];
      const std::vector<float> q = random_.floats(length * heads() * c.head_dim, -2, 2);
      q_.push_back(rounds() ? typed(q, DType::bf16).values : q);
      // int8 rounds once more where it is written, and its values do not change by being rounded again.
      const std::vector<float> k = random_.floats(length * c.kv_heads * c.head_dim, -2, 2),
                               v = random_.floats(length * c.kv_heads * c.v_head_dim, -2, 2);
      k_.push_back(c.dtype == DType::i8 ? quantized(k, c.head_dim).values : typed(k, c.dtype).values);
      v_.push_back(c.dtype == DType::i8 ? quantized(v, c.v_head_dim).values : typed(v, c.dtype).values);
      std::vector<int32_t> slots;
      for (int64_t i = 0; i < length; ++i)
        slots.push_back(
            static_cast<int32_t>(tables_[s * blocks_per_seq_ + i / c.block_size] * c.block_size + i % c.block_size));
      CacheWriteArgs w{.cache = cache_,
                       .k = k_[s].data(),
                       .k_stride = c.kv_heads * c.head_dim,
                       .v = v_[s].data(),
                       .v_stride = c.kv_heads * c.v_head_dim,
                       .slots = slots.data(),
                       .rotary = nullptr};
      table.rows.cache_write(w, 0, length, nullptr);
    }
    sinks_ = random_.floats(heads(), -1, 3);
    slopes_ = random_.floats(heads(), 0.01f, 0.5f);
  }

  int64_t heads() const { return case_.kv_heads * case_.group; }
  // Queries and weights in bf16; the reference then takes the queries so, and allows for the weights.
  const AttentionKernels& kernels() const { return table_.attention[index_of(case_.dtype)]; }
  bool rounds() const { return case_.dtype == DType::bf16 && std::string_view(table_.isa) == "avx512_bf16"; }
  int64_t row_floats() const { return heads() * case_.v_head_dim; }
  const std::vector<float>& q(int64_t s) const { return q_[s]; }

  // Attention of rows [from, to) of each sequence in one batch, when `to` keys are in the cache.
  std::vector<std::vector<float>> run(const std::vector<int64_t>& from, const std::vector<int64_t>& to, int64_t threads,
                                      bool with_partials) {
    const int64_t seqs = static_cast<int64_t>(lengths_.size()), q_floats = heads() * case_.head_dim,
                  q_stride = q_floats + 3;
    std::vector<int32_t> starts = {0}, lens;
    std::vector<float> q;
    std::vector<int32_t> tables = tables_;
    for (int64_t s = 0; s < seqs; ++s) {
      for (int64_t i = from[s]; i < to[s]; ++i) {
        q.insert(q.end(), &q_[s][i * q_floats], &q_[s][i * q_floats] + q_floats);
        q.insert(q.end(), q_stride - q_floats, kNaN);
      }
      starts.push_back(starts.back() + static_cast<int32_t>(to[s] - from[s]));
      lens.push_back(static_cast<int32_t>(to[s]));
      const int64_t oldest = case_.window > 0 ? std::max<int64_t>(0, from[s] - case_.window + 1) : 0;
      for (int64_t b = 0; (b + 1) * case_.block_size <= oldest; ++b) tables[s * blocks_per_seq_ + b] = -1;  // freed
    }
    const int64_t tokens = starts.back();
    std::vector<float> out(tokens * (row_floats() + 1), kNaN);
    AttentionArgs a;
    a.q = q.data();
    a.q_stride = q_stride;
    a.out = out.data();
    a.out_stride = row_floats() + 1;
    a.heads = heads();
    a.cache = cache_;
    a.num_seqs = seqs;
    a.query_start_loc = starts.data();
    a.seq_lens = lens.data();
    a.block_tables = tables.data();
    a.block_table_stride = blocks_per_seq_;
    a.scale = 1.0f / std::sqrt(static_cast<float>(case_.head_dim));
    a.softcap = case_.softcap;
    a.window = case_.window;
    a.causal = case_.causal;
    a.sinks = case_.sinks ? sinks_.data() : nullptr;
    a.alibi_slopes = case_.alibi ? slopes_.data() : nullptr;
    const int64_t max_len = *std::max_element(lengths_.begin(), lengths_.end());
    std::vector<AttentionItem> items(
        kernels().item_capacity(tokens, seqs, case_.kv_heads, max_len, case_.block_size, threads));
    std::vector<float> partials(with_partials ? kernels().partial_floats(max_len, heads(), case_.kv_heads,
                                                                         case_.v_head_dim, case_.block_size, threads)
                                              : 0,
                                kNaN);
    a.items = items.data();
    a.item_capacity = static_cast<int64_t>(items.size());
    a.partials = with_partials ? partials.data() : nullptr;
    a.partial_capacity = static_cast<int64_t>(partials.size());
    const int64_t scratch_bytes =
        kernels().scratch_bytes(heads(), case_.kv_heads, case_.head_dim, case_.v_head_dim, case_.block_size);
    kernels().plan(a, threads);
    merges += a.num_merges;
    run_in_pieces(kernels().run, std::as_const(a), a.num_items, scratch_bytes);
    run_in_pieces(kernels().merge, std::as_const(a), a.num_merges);
    std::vector<std::vector<float>> rows(seqs);
    for (int64_t s = 0; s < seqs; ++s)
      for (int64_t t = starts[s]; t < starts[s + 1]; ++t)
        rows[s].insert(rows[s].end(), &out[t * (row_floats() + 1)], &out[t * (row_floats() + 1)] + row_floats());
    return rows;
  }

  struct Expected {
    double value, slack;
  };
  Expected reference(int64_t s, int64_t i, int64_t h, int64_t d) const {
    const int64_t g = h / case_.group, last = case_.causal ? i + 1 : lengths_[s];
    const int64_t first = case_.window > 0 ? std::max<int64_t>(0, i - case_.window + 1) : 0;
    std::vector<double> scores;
    double top = case_.sinks ? sinks_[h] : -1e300;
    for (int64_t j = first; j < last; ++j) {
      double score = 0;
      for (int64_t e = 0; e < case_.head_dim; ++e)
        score += static_cast<double>(q_[s][(i * heads() + h) * case_.head_dim + e]) *
                 k_[s][(j * case_.kv_heads + g) * case_.head_dim + e];
      score /= std::sqrt(static_cast<double>(case_.head_dim));
      if (case_.softcap > 0) score = case_.softcap * std::tanh(score / case_.softcap);
      if (case_.alibi) score += slopes_[h] * static_cast<double>(j - i);
      scores.push_back(score);
      top = std::max(top, score);
    }
    double total = case_.sinks ? std::exp(sinks_[h] - top) : 0, value = 0;
    auto v = [&](size_t j) {
      return v_[s][((first + static_cast<int64_t>(j)) * case_.kv_heads + g) * case_.v_head_dim + d];
    };
    for (size_t j = 0; j < scores.size(); ++j) {
      total += std::exp(scores[j] - top);
      value += std::exp(scores[j] - top) * v(j);
    }
    value /= total;
    if (!rounds()) return {value, 0};
    // A weight w is off by e * w, |e| <= 2^-8 and independent, and moves the result by e * w * (v - value) / total.
    double squares = 0, sum = 0;
    for (size_t j = 0; j < scores.size(); ++j) {
      const double move = std::exp(scores[j] - top) / total * std::abs(v(j) - value);
      squares += move * move;
      sum += move;
    }
    return {value, std::min(sum, 4 * std::sqrt(squares)) / 256 + 2e-4 * sum + 2e-6};
  }

  int64_t merges = 0;

 private:
  const KernelTable& table_;
  Case case_;
  std::vector<int64_t> lengths_;
  Random random_;
  int64_t blocks_per_seq_ = 0;
  KvCache cache_;
  std::unique_ptr<AlignedBytes> memory_;
  std::vector<int32_t> tables_;
  std::vector<std::vector<float>> q_, k_, v_;
  std::vector<float> sinks_, slopes_;
};

void test_case(const KernelTable& table, Checker& check, const Case& c, const std::vector<int64_t>& lengths,
               int64_t reference_step) {
  World world(table, c, lengths, 5);
  const std::vector<int64_t> none(lengths.size(), 0);
  const auto all = world.run(none, lengths, 1, false);
  const int64_t row = world.row_floats();
  for (size_t s = 0; s < lengths.size(); ++s)
    for (int64_t i = 0; i < lengths[s]; i += reference_step)
      for (int64_t h = 0; h < world.heads(); ++h)
        for (int64_t d = 0; d < c.v_head_dim; ++d) {
          const World::Expected expected = world.reference(s, i, h, d);
          check.close(all[s][i * row + h * c.v_head_dim + d], expected.value, 4e-6 + expected.slack, 4e-6, c.name());
        }
  if (!c.causal) return;
  // Any chunking and any split over threads gives the same bits; the last chunk is one row: decode.
  for (int64_t chunk : {7, 1}) {
    std::vector<int64_t> from = none, to = none;
    if (chunk == 1)
      for (size_t s = 0; s < lengths.size(); ++s) from[s] = std::max<int64_t>(0, lengths[s] - 3 * c.block_size / 2);
    bool work = true;
    for (int step = 0; work; ++step) {
      work = false;
      for (size_t s = 0; s < lengths.size(); ++s) {
        const int64_t size = chunk == 1 ? 1 : chunk + static_cast<int64_t>(s) * 5 + step % 3 * 11;
        to[s] = std::min(lengths[s], from[s] + size);
        work = work || to[s] > from[s];
      }
      if (!work) break;
      const auto part = world.run(from, to, step % 2 ? 16 : 2, step % 3 != 2);
      for (size_t s = 0; s < lengths.size(); ++s)
        check.same_bits(part[s].data(), &all[s][from[s] * row], (to[s] - from[s]) * row,
                        c.name() + " chunked by " + std::to_string(chunk));
      from = to;
    }
  }
}

}  // namespace

void test_attention(const KernelTable& table, Checker& check) {
  const std::vector<int64_t> lengths = {1, 37, 90, 16};
  for (DType dtype : {DType::f32, DType::bf16, DType::f16, DType::i8})
    for (int64_t block_size : {16, 64})
      for (auto [k_dim, v_dim, kv_heads, group] : {std::tuple<int64_t, int64_t, int64_t, int64_t>{16, 16, 2, 2},
                                                   {20, 12, 1, 3},
                                                   {64, 64, 2, 1},
                                                   {24, 40, 1, 5},
                                                   {6, 3, 1, 8},
                                                   {7, 5, 2, 3}}) {
        Case c{.dtype = dtype,
               .block_size = block_size,
               .head_dim = k_dim,
               .v_head_dim = v_dim,
               .kv_heads = kv_heads,
               .group = group};
        test_case(table, check, c, lengths, 5);
        c.window = 19;
        test_case(table, check, c, lengths, 5);
      }
  for (int option = 0; option < 10; ++option) {
    Case c{.dtype = option < 5 ? DType::bf16 : DType::i8, .block_size = 32, .group = 3};
    const int kind = option % 5;
    c.softcap = kind == 0 || kind == 4 ? 5.0f : 0.0f;
    c.sinks = kind == 1 || kind == 4;
    c.alibi = kind == 2 || kind == 4;
    c.causal = kind != 3;
    c.window = kind == 4 ? 33 : 0;
    test_case(table, check, c, lengths, 3);
  }
  // Several items of many rows, and blocks that an item's first rows do not reach.
  for (auto [k_dim, v_dim, window] : {std::tuple<int64_t, int64_t, int64_t>{128, 128, 0}, {96, 80, 77}}) {
    Case c{.dtype = DType::bf16,
           .block_size = 64,
           .head_dim = k_dim,
           .v_head_dim = v_dim,
           .kv_heads = 1,
           .group = 2,
           .window = window};
    test_case(table, check, c, {230, 3, 129}, 19);
  }
  // Contexts over several spans, with splits.
  for (auto [dtype, window] : {std::pair<DType, int64_t>{DType::f16, 0},
                               {DType::f16, 1500},
                               {DType::bf16, 0},
                               {DType::bf16, 1500},
                               {DType::i8, 0},
                               {DType::i8, 1500}}) {
    Case c{
        .dtype = dtype, .block_size = 48, .head_dim = 8, .v_head_dim = 8, .kv_heads = 1, .group = 2, .window = window};
    test_case(table, check, c, {2600, 1100}, 311);
    World world(table, c, {2600, 1100}, 9);
    const auto whole = world.run({2599, 1099}, {2600, 1100}, 1, true);
    check.expect(world.merges == 0, "one thread does not split");
    const auto split = world.run({2599, 1099}, {2600, 1100}, 8, true);
    check.expect(world.merges > 0, "few items on many threads are split");
    for (int s = 0; s < 2; ++s)
      check.same_bits(split[s].data(), whole[s].data(), world.row_floats(), "split over spans");
  }
}

}  // namespace quire::testing
