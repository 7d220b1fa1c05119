#include "draw.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

namespace quire {

namespace {

constexpr float kEverything = -std::numeric_limits<float>::infinity();
constexpr float kGumbelMax = 16.64f;  // -log(-log(1 - 2^-24)) is 16.636
constexpr float kHead = -10.0f;       // top_p: scores below it seldom matter
constexpr int kBuckets = 512;         // of the head's scores

struct Words {
  uint32_t word[4];
};

Words philox(uint32_t block, const DrawParams& params) {
  uint32_t c0 = block, c1 = static_cast<uint32_t>(params.position), c2 = params.sequence_index, c3 = 0;
  auto k0 = static_cast<uint32_t>(params.seed), k1 = static_cast<uint32_t>(params.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53u} * c0, product1 = uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(product1);
    c2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(product0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

float gumbel_of_bits(uint32_t bits) {
  constexpr float kLargest = 1.0f - 0x1p-24f;
  const float uniform = std::min((static_cast<float>(bits >> 8) + 0.5f) * 0x1p-24f, kLargest);
  return -std::log(-std::log(uniform));
}

// Bits below this cannot give noise above `noise`; a little lower than exact, to be safe from rounding.
uint32_t bits_needed(float noise) {
  const double uniform = std::exp(-std::exp(-static_cast<double>(noise) + 1e-4)) - 1e-6;
  return uniform <= 0.0 ? 0u : static_cast<uint32_t>(uniform * 0x1p24) << 8;
}

float kth_largest(const float* scores, int64_t count, int64_t k, std::vector<float>& heap) {
  heap.assign(scores, scores + k);
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  for (int64_t i = k; i < count; ++i) {
    if (scores[i] <= heap.front()) continue;
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    heap.back() = scores[i];
    std::push_heap(heap.begin(), heap.end(), std::greater<>());
  }
  return heap.front();
}

// Sum of exp(score) over the scores that survived so far.
double total_mass(const float* scores, int64_t count, float limit, const KernelTable& kernels) {
  if (limit == kEverything) {
    float logsumexp = 0.0f;
    RowReduceArgs args;
    args.x = scores;
    args.x_stride = args.dim = count;
    args.logsumexp = &logsumexp;
    kernels.row_reduce(args, 0, 1, nullptr);
    return std::exp(static_cast<double>(logsumexp));
  }
  double total = 0.0;
  for (int64_t i = 0; i < count; ++i)
    if (scores[i] >= limit) total += static_cast<double>(std::exp(scores[i]));
  return total;
}

// The score at which the most likely of `chosen`, taken in falling order after `before`, reach `needed`.
float score_that_reaches(std::vector<float>& chosen, double before, double needed) {
  std::sort(chosen.begin(), chosen.end(), std::greater<>());
  for (const float score : chosen) {
    before += static_cast<double>(std::exp(score));
    if (before >= needed) return score;
  }
  return chosen.back();
}

// Scores in [kHead, 0] are summed in buckets, so that only those of one bucket have to be sorted.
float top_p_limit(const float* scores, int64_t count, float limit, float top_p, const KernelTable& kernels, DrawWork& work) {
  const double needed = static_cast<double>(top_p) * total_mass(scores, count, limit, kernels);
  const float lowest = std::max(limit, kHead);
  const auto bucket = [](float score) {
    return std::min(static_cast<int>(score * (kBuckets / kHead)), kBuckets - 1);
  };
  work.mass.assign(kBuckets, 0.0);
  for (int64_t i = 0; i < count; ++i)
    if (scores[i] >= lowest) work.mass[static_cast<size_t>(bucket(scores[i]))] += static_cast<double>(std::exp(scores[i]));
  double before = 0.0;
  int reached = 0;
  while (reached < kBuckets && before + work.mass[static_cast<size_t>(reached)] < needed) before += work.mass[static_cast<size_t>(reached++)];
  work.chosen.clear();
  for (int64_t i = 0; i < count; ++i) {
    if (scores[i] < limit || scores[i] == kEverything) continue;
    const bool in_head = scores[i] >= lowest;
    if (reached < kBuckets ? in_head && bucket(scores[i]) == reached : !in_head) work.chosen.push_back(scores[i]);
  }
  if (work.chosen.empty()) return limit;  // rounding kept the head's sum just below what it holds in full
  return score_that_reaches(work.chosen, before, needed);
}

float survival_limit(const float* scores, int64_t count, const DrawParams& params, const KernelTable& kernels, DrawWork& work) {
  float limit = params.min_p > 0.0f ? std::log(params.min_p) : kEverything;
  if (params.top_k > 0 && params.top_k < count)
    limit = std::max(limit, kth_largest(scores, count, params.top_k, work.chosen));
  if (params.top_p < 1.0f) limit = std::max(limit, top_p_limit(scores, count, limit, params.top_p, kernels, work));
  return limit;
}

}  // namespace

float gumbel_noise(const DrawParams& params, int32_t token) {
  return gumbel_of_bits(philox(static_cast<uint32_t>(token) >> 2, params).word[token & 3]);
}

int32_t draw_token(const float* logits, int64_t vocab, float largest, const DrawParams& params,
                   const KernelTable& kernels, DrawWork& work) {
  work.scores.resize(static_cast<size_t>(vocab));
  float* scores = work.scores.data();
  for (int64_t i = 0; i < vocab; ++i) scores[i] = (logits[i] - largest) / params.temperature;
  const float limit = survival_limit(scores, vocab, params, kernels, work);
  // The likeliest token first: its total tells which others have a chance. Then in order of id, so that of equal
  // totals the lowest id wins.
  const auto likeliest = static_cast<int32_t>(std::max_element(scores, scores + vocab) - scores);
  float best = gumbel_noise(params, likeliest);
  int32_t token = likeliest;
  float contender = std::max(limit, best - kGumbelMax);
  uint32_t needed = bits_needed(best);
  for (int64_t first = 0; first < vocab; first += 4) {
    const auto size = static_cast<int>(std::min<int64_t>(4, vocab - first));
    bool any = false;
    for (int i = 0; i < size; ++i) any |= scores[first + i] >= contender;
    if (!any) continue;
    const Words words = philox(static_cast<uint32_t>(first >> 2), params);
    for (int i = 0; i < size; ++i) {
      const float score = scores[first + i];
      if (score < contender || score == kEverything || words.word[i] < needed) continue;
      const float total = score + gumbel_of_bits(words.word[i]);
      const auto id = static_cast<int32_t>(first + i);
      if (total < best || (total == best && id > token)) continue;
      best = total;
      token = id;
      contender = std::max(limit, best - kGumbelMax);
      needed = bits_needed(best);
    }
  }
  return token;
}

}  // namespace quire
