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
constexpr int kBlock = 64;            // tokens whose largest logit is known: most blocks are never looked into

// Scores (logit - largest) / temperature of a row, made where they are needed.
struct Row {
  const float* logits;
  int64_t vocab;
  float largest, temperature;
  const std::vector<float>& maxima;  // by block

  float score(float logit) const { return (logit - largest) / temperature; }
  int64_t end_of(size_t block) const { return std::min<int64_t>(static_cast<int64_t>(block + 1) * kBlock, vocab); }

  // Calls visit(score) for every score of at least `limit`.
  template <class Visit>
  void at_least(float limit, Visit&& visit) const {
    for (size_t block = 0; block < maxima.size(); ++block) {
      if (score(maxima[block]) < limit) continue;
      for (int64_t i = static_cast<int64_t>(block) * kBlock; i < end_of(block); ++i)
        if (const float s = score(logits[i]); s >= limit) visit(s);
    }
  }
};

void block_maxima(const float* logits, int64_t vocab, std::vector<float>& maxima) {
  maxima.resize(static_cast<size_t>((vocab + kBlock - 1) / kBlock));
  for (size_t block = 0; block < maxima.size(); ++block) {
    const float* x = logits + static_cast<int64_t>(block) * kBlock;
    const int64_t size = std::min<int64_t>(kBlock, vocab - static_cast<int64_t>(block) * kBlock);
    if (size < kBlock) {
      maxima[block] = *std::max_element(x, x + size);
      continue;
    }
    float lanes[16];
    for (int lane = 0; lane < 16; ++lane) {
      const float a = x[lane] > x[lane + 16] ? x[lane] : x[lane + 16];
      const float b = x[lane + 32] > x[lane + 48] ? x[lane + 32] : x[lane + 48];
      lanes[lane] = a > b ? a : b;
    }
    maxima[block] = *std::max_element(lanes, lanes + 16);
  }
}

// Noise bits of the tokens [first, first + kBlock), first a multiple of 4.
void noise_bits(uint32_t first, const DrawParams& params, uint32_t (&bits)[kBlock]) {
  constexpr int kLanes = kBlock / 4;
  uint32_t c0[kLanes], c1[kLanes], c2[kLanes], c3[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) {
    c0[lane] = first / 4 + static_cast<uint32_t>(lane);
    c1[lane] = static_cast<uint32_t>(params.position);
    c2[lane] = params.sequence_index;
    c3[lane] = 0;
  }
  auto k0 = static_cast<uint32_t>(params.seed), k1 = static_cast<uint32_t>(params.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const uint64_t product0 = uint64_t{0xD2511F53u} * c0[lane], product1 = uint64_t{0xCD9E8D57u} * c2[lane];
      c0[lane] = static_cast<uint32_t>(product1 >> 32) ^ c1[lane] ^ k0;
      c1[lane] = static_cast<uint32_t>(product1);
      c2[lane] = static_cast<uint32_t>(product0 >> 32) ^ c3[lane] ^ k1;
      c3[lane] = static_cast<uint32_t>(product0);
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    bits[4 * lane] = c0[lane];
    bits[4 * lane + 1] = c1[lane];
    bits[4 * lane + 2] = c2[lane];
    bits[4 * lane + 3] = c3[lane];
  }
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

float kth_largest(const Row& row, int64_t k, DrawWork& work) {
  float bound = kEverything;  // the k-th largest score is not below the k-th largest of the blocks' maxima
  const auto blocks = static_cast<int64_t>(row.maxima.size());
  work.chosen = row.maxima;
  const auto nth = [&](int64_t n) {
    std::nth_element(work.chosen.begin(), work.chosen.begin() + n, work.chosen.end(), std::greater<>());
    return work.chosen[static_cast<size_t>(n)];
  };
  if (k <= blocks) bound = row.score(nth(k - 1));
  work.chosen.clear();
  row.at_least(bound, [&](float score) { work.chosen.push_back(score); });
  return nth(k - 1);
}

// Sum of exp(score) over the scores that survived so far.
double total_mass(const Row& row, float limit, const KernelTable& kernels, DrawWork& work) {
  double total = 0.0;
  if (limit > kEverything) {
    row.at_least(limit, [&](float score) { total += static_cast<double>(std::exp(score)); });
    return total;
  }
  work.chosen.resize(static_cast<size_t>(row.vocab));
  for (int64_t i = 0; i < row.vocab; ++i) work.chosen[static_cast<size_t>(i)] = row.score(row.logits[i]);
  float logsumexp = 0.0f;
  RowReduceArgs args;
  args.x = work.chosen.data();
  args.x_stride = args.dim = row.vocab;
  args.logsumexp = &logsumexp;
  kernels.row_reduce(args, 0, 1, nullptr);
  return std::exp(static_cast<double>(logsumexp));
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
float top_p_limit(const Row& row, float limit, float top_p, const KernelTable& kernels, DrawWork& work) {
  const double needed = static_cast<double>(top_p) * total_mass(row, limit, kernels, work);
  const float lowest = std::max(limit, kHead);
  const auto bucket = [](float score) {
    return std::min(static_cast<size_t>(score * (kBuckets / kHead)), static_cast<size_t>(kBuckets - 1));
  };
  work.mass.assign(kBuckets, 0.0);
  row.at_least(lowest, [&](float score) { work.mass[bucket(score)] += static_cast<double>(std::exp(score)); });
  double before = 0.0;
  size_t reached = 0;
  while (reached < kBuckets && before + work.mass[reached] < needed) before += work.mass[reached++];
  work.chosen.clear();
  if (reached < kBuckets) {
    row.at_least(lowest, [&](float score) {
      if (bucket(score) == reached) work.chosen.push_back(score);
    });
  } else {
    row.at_least(std::max(limit, std::numeric_limits<float>::lowest()), [&](float score) {
      if (score < lowest) work.chosen.push_back(score);
    });
  }
  if (work.chosen.empty()) return limit;  // rounding left the sums just below what all survivors hold
  return score_that_reaches(work.chosen, before, needed);
}

float survival_limit(const Row& row, const DrawParams& params, const KernelTable& kernels, DrawWork& work) {
  float limit = params.min_p > 0.0f ? std::log(params.min_p) : kEverything;
  if (params.top_k > 0 && params.top_k < row.vocab) limit = std::max(limit, kth_largest(row, params.top_k, work));
  if (params.top_p < 1.0f) limit = std::max(limit, top_p_limit(row, limit, params.top_p, kernels, work));
  return limit;
}

}  // namespace

float gumbel_noise(const DrawParams& params, int32_t token) {
  uint32_t bits[kBlock];
  noise_bits(static_cast<uint32_t>(token) & ~3u, params, bits);
  return gumbel_of_bits(bits[token & 3]);
}

int32_t draw_token(const float* logits, int64_t vocab, float largest, int32_t likeliest, const DrawParams& params,
                   const KernelTable& kernels, DrawWork& work) {
  block_maxima(logits, vocab, work.maxima);
  const Row row{logits, vocab, largest, params.temperature, work.maxima};
  const float limit = survival_limit(row, params, kernels, work);
  // The likeliest token first: its total tells which others have a chance. Then in order of id, so that of equal
  // totals the lowest id wins.
  int32_t token = likeliest;
  float best = gumbel_noise(params, likeliest);
  float contender = std::max(limit, best - kGumbelMax);
  uint32_t needed = bits_needed(best);
  for (size_t block = 0; block < work.maxima.size(); ++block) {
    if (row.score(work.maxima[block]) < contender) continue;
    const auto first = static_cast<int64_t>(block) * kBlock;
    uint32_t bits[kBlock];
    noise_bits(static_cast<uint32_t>(first), params, bits);
    for (int64_t i = first; i < row.end_of(block); ++i) {
      if (bits[i - first] < needed) continue;
      const float score = row.score(logits[i]);
      if (score < contender || score == kEverything) continue;
      const float total = score + gumbel_of_bits(bits[i - first]);
      const auto id = static_cast<int32_t>(i);
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
