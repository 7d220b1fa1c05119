// One step as the plan takes it and what it gives back. Shapes: T tokens, S sequences, L logits rows, R sampled rows.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "draw.h"

namespace quire {

struct GroupInput {
  std::vector<int32_t> block_tables;  // [S, blocks_per_seq], -1 = not resident
  int64_t blocks_per_seq = 0;
  std::vector<int32_t> copies;        // [n, 2] source and destination blocks
};

struct StepInput {
  std::vector<int32_t> token_ids;        // [T], -1 = what row prev_row[s] of the step before sampled
  std::vector<int32_t> query_start_loc;  // [S + 1]
  std::vector<int32_t> num_computed;     // [S]
  std::vector<int32_t> prev_row;         // [S], -1 = none
  std::vector<int32_t> positions;        // [T], or empty: the KV index
  std::vector<int32_t> logits_indices;   // [L]
  std::vector<GroupInput> groups;
  std::vector<int32_t> sampled_rows;     // [R] logits row of each sampled row, -1 = the host samples this one
  std::vector<DrawParams> draws;         // [R], temperature 0 = the largest logit; empty: all are so
  std::vector<int32_t> returned_rows;    // logits rows to hand back, in this order

  int64_t num_tokens() const { return static_cast<int64_t>(token_ids.size()); }
  int64_t num_seqs() const { return static_cast<int64_t>(num_computed.size()); }
  int64_t num_logits() const { return static_cast<int64_t>(logits_indices.size()); }
};

struct StepOutput {
  std::vector<int32_t> tokens;      // [R], -1 where the host samples or every logit is -inf
  std::unique_ptr<float[]> logits;  // [returned rows, vocab]
  int64_t logits_rows = 0;
  int64_t vocab = 0;
  std::string error;                // not empty: the step failed
};

}  // namespace quire
