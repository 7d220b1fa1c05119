// Drawing a token from a row of logits: temperature, min_p, top_k, top_p, then Gumbel-max with counter-based noise.
//
// The definition is quire.sampling (sampler, filters, draw, philox); this computes the same numbers faster.
// Source: Philox, Salmon et al., SC'11; Gumbel-max, arXiv:1411.0030; top_p, arXiv:1904.09751; min_p, arXiv:2407.01082.
#pragma once

#include <cstdint>
#include <vector>

#include "kernel_table.h"

namespace quire {

struct DrawParams {
  float temperature = 0.0f;  // above 0
  int32_t top_k = 0;         // 0 = off
  float top_p = 1.0f;        // 1 = off
  float min_p = 0.0f;        // 0 = off
  uint64_t seed = 0;
  uint32_t sequence_index = 0;
  int32_t position = 0;
};

// Scratch of one thread.
struct DrawWork {
  std::vector<float> maxima, scores, masses, chosen;
};

// The drawn token. `largest` is the row's largest logit, `likeliest` its lowest index; it is finite, and no entry is
// NaN or +inf (-inf is never drawn).
int32_t draw_token(const float* logits, int64_t vocab, float largest, int32_t likeliest, const DrawParams& params,
                   const KernelTable& kernels, DrawWork& work);

// Standard Gumbel noise of a token, as quire.sampling.philox.gumbel gives it.
float gumbel_noise(const DrawParams& params, int32_t token, const KernelTable& kernels);

}  // namespace quire
