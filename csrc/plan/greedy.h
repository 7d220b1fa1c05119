// Greedy sampling: the largest logit of each row, found by the whole team.
#pragma once

#include <cstdint>
#include <vector>

#include "../threads/thread_pool.h"

namespace quire {

// The token of a row with NaN or +inf among its logits, as quire.sampling.batch.NOT_FINITE. Its request ends.
constexpr int32_t kNotFinite = -2;

// What a row, or a piece of one, holds.
struct GreedyPart {
  float value = 0.0f;
  int32_t index = 0;
  bool finite = true;  // no NaN and no +inf
};

// best[i] = the largest logit of rows[i] and its lowest index; of a row of -inf only, index -1.
// `work` is scratch.
void largest_logits(const float* logits, int64_t row_stride, int64_t vocab, const std::vector<int32_t>& rows,
                    ThreadPool& pool, std::vector<GreedyPart>& work, std::vector<GreedyPart>& best);

}  // namespace quire
