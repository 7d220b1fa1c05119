// A one-layer model with every kind of op, built by hand as the flattener would.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "../plan.h"

namespace quire::testing {

constexpr int64_t kVocab = 40, kHidden = 32, kHeads = 4, kKvHeads = 2, kHeadDim = 8, kMlp = 24, kExperts = 5, kTop = 2;
constexpr int64_t kBlockSize = 16, kBlocks = 12, kMaxTokens = 48, kMaxLen = 64;

// Loaded, with its cache, memory poisoned. The embedding is tied: rows come from the head's panels.
std::unique_ptr<Plan> small_model(const std::string& kernels, int num_threads, DType dtype);

// Tokens of one sequence whose cache holds `computed` tokens, in blocks 3, 0, 7, 5; logits of all rows wanted back.
std::unique_ptr<StepInput> chunk(const std::vector<int32_t>& tokens, int32_t computed);

}  // namespace quire::testing
