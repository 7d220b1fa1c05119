#include "draw.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

namespace quire {

namespace {

constexpr float kEverything = -std::numeric_limits<float>::infinity();
constexpr float kGumbelMax = 16.64f;  // -log(-log(1 - 2^-24)) is 16.636
constexpr int kTopPPasses = 4;        // each narrows the bracket around top_p's threshold sevenfold

// Scores (logit - largest) / temperature of a row, made where they are needed.
struct Row {
  const float* logits;
  int64_t vocab;
  float largest, temperature;
  const std::vector<float>& maxima;  // by block

  float score(float logit) const { return (logit - largest) / temperature; }
  int64_t end_of(size_t block) const { return std::min<int64_t>(static_cast<int64_t>(block + 1) * kDrawBlock, vocab); }

  // Calls visit(score) for every score of at least `limit`.
  template <class Visit>
  void at_least(float limit, Visit&& visit) const {
    for (size_t block = 0; block < maxima.size(); ++block) {
      if (score(maxima[block]) < limit) continue;
      for (int64_t i = static_cast<int64_t>(block) * kDrawBlock; i < end_of(block); ++i)
        if (const float s = score(logits[i]); s >= limit) visit(s);
    }
  }
};

DrawNoise noise_of(const DrawParams& params) {
  return {params.seed, params.sequence_index, static_cast<uint32_t>(params.position)};
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

// The score at which the most likely of `chosen`, taken in falling order after `before`, reach `needed`.
float score_that_reaches(std::vector<float>& chosen, double before, double needed) {
  std::sort(chosen.begin(), chosen.end(), std::greater<>());
  for (const float score : chosen) {
    before += static_cast<double>(std::exp(score));
    if (before >= needed) return score;
  }
  return chosen.back();
}

// The lowest score that the most likely of all tokens, `top_p` of the whole, reach down to.
// A bracket around it is narrowed, some thresholds a pass, until few scores are left to sort.
float top_p_limit_of_all(const Row& row, float top_p, const KernelTable& kernels, DrawWork& work) {
  work.scores.resize(static_cast<size_t>(row.vocab));
  work.masses.resize(static_cast<size_t>(row.vocab));
  const double total = kernels.draw.score_masses(row.logits, row.vocab, row.largest, row.temperature,
                                                 work.scores.data(), work.masses.data());
  const double needed = static_cast<double>(top_p) * total;
  float limits[kMassLimits] = {-1.0f, -2.5f, -5.0f, -8.0f, -12.0f, -20.0f};
  float low = kEverything, high = 1.0f;  // the bracket: [low, high)
  double above = 0.0;                    // the mass from `high` up
  for (int pass = 0; pass < kTopPPasses; ++pass) {
    double sums[kMassLimits];
    kernels.draw.masses_above(work.scores.data(), work.masses.data(), row.vocab, limits, sums);
    for (int l = 0; l < kMassLimits; ++l) {
      if (sums[l] >= needed) {
        low = limits[l];
        break;
      }
      high = limits[l];
      above = sums[l];
    }
    if (low == kEverything) break;  // beyond the last threshold of the first pass: a tail of next to no mass
    const float step = (high - low) / (kMassLimits + 1);
    for (int l = 0; l < kMassLimits; ++l) limits[l] = high - step * static_cast<float>(l + 1);
  }
  work.chosen.resize(work.scores.size());
  size_t count = 0;
  for (const float score : work.scores) {  // without branches, which no processor could predict
    work.chosen[count] = score;
    count += static_cast<size_t>(static_cast<int>(score >= low) & static_cast<int>(score < high));
  }
  work.chosen.resize(count);
  if (work.chosen.empty()) return kEverything;  // rounding left the sums just below what all hold
  return score_that_reaches(work.chosen, above, needed);
}

// The same among the scores of at least `limit`, which top_k or min_p left over.
float top_p_limit_of_survivors(const Row& row, float limit, float top_p, DrawWork& work) {
  double total = 0.0;
  work.chosen.clear();
  row.at_least(limit, [&](float score) {
    work.chosen.push_back(score);
    total += static_cast<double>(std::exp(score));
  });
  return score_that_reaches(work.chosen, 0.0, static_cast<double>(top_p) * total);
}

float survival_limit(const Row& row, const DrawParams& params, const KernelTable& kernels, DrawWork& work) {
  float limit = params.min_p > 0.0f ? std::log(params.min_p) : kEverything;
  if (params.top_k > 0 && params.top_k < row.vocab) limit = std::max(limit, kth_largest(row, params.top_k, work));
  if (params.top_p >= 1.0f) return limit;
  if (limit == kEverything) return top_p_limit_of_all(row, params.top_p, kernels, work);
  return std::max(limit, top_p_limit_of_survivors(row, limit, params.top_p, work));
}

}  // namespace

float gumbel_noise(const DrawParams& params, int32_t token, const KernelTable& kernels) {
  uint32_t bits[kDrawBlock];
  kernels.draw.noise_bits(noise_of(params), static_cast<uint32_t>(token) & ~3u, bits);
  return gumbel_of_bits(bits[token & 3]);
}

int32_t draw_token(const float* logits, int64_t vocab, float largest, int32_t likeliest, const DrawParams& params,
                   const KernelTable& kernels, DrawWork& work) {
  work.maxima.resize(static_cast<size_t>((vocab + kDrawBlock - 1) / kDrawBlock));
  kernels.draw.block_maxima(logits, vocab, work.maxima.data());
  const Row row{logits, vocab, largest, params.temperature, work.maxima};
  const float limit = survival_limit(row, params, kernels, work);
  // The likeliest token first: its total tells which others have a chance. Then in order of id, so that of equal
  // totals the lowest id wins.
  int32_t token = likeliest;
  float best = gumbel_noise(params, likeliest, kernels);
  const DrawNoise noise = noise_of(params);
  float contender = std::max(limit, best - kGumbelMax);
  uint32_t needed = bits_needed(best);
  for (size_t block = 0; block < work.maxima.size(); ++block) {
    if (row.score(work.maxima[block]) < contender) continue;
    const auto first = static_cast<int64_t>(block) * kDrawBlock;
    uint32_t bits[kDrawBlock];
    if (kernels.draw.noise_bits(noise, static_cast<uint32_t>(first), bits) < needed) continue;
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
