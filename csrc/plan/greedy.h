// Greedy sampling: the largest logit of each row, found by the whole team.
#pragma once

#include <cstdint>
#include <vector>

#include "../threads/thread_pool.h"

namespace quire {

// What one piece of a row holds.
struct GreedyPart {
  float value = 0.0f;
  int32_t index = 0;
  bool finite = true;  // no NaN and no +inf
};

// tokens[i] = lowest index of the largest logit of rows[i], or -1 where the row holds NaN or +inf (-inf is allowed).
// `work` is scratch.
void greedy_tokens(const float* logits, int64_t row_stride, int64_t vocab, const std::vector<int32_t>& rows,
                   ThreadPool& pool, std::vector<GreedyPart>& work, std::vector<int32_t>& tokens);

}  // namespace quire
