// One native call of a plan.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "context.h"
#include "fields.h"

namespace quire {

struct PlanLimits {
  int64_t max_tokens = 0;   // T
  int64_t max_seqs = 0;     // S
  int64_t max_logits = 0;   // L of one slice of the head
  int64_t max_len = 0;      // tokens of a sequence
  int64_t vocab_size = 0;   // token ids are below it; 0 = not checked
};

// What an op is built from; `attention` grows as shapes are met.
struct OpResources {
  const KernelTable& kernels;
  const WeightStore& weights;
  const KvStore& kv;
  std::vector<AttentionWork>& attention;
};

// Most bytes any op of the plan needs at a time.
struct Requirements {
  int64_t workspace_bytes = 0;
  int64_t scratch_bytes = 0;
  int64_t partial_floats = 0;
  int num_threads = 1;

  void workspace(int64_t bytes) { workspace_bytes = bytes > workspace_bytes ? bytes : workspace_bytes; }
  void scratch(int64_t bytes) { scratch_bytes = bytes > scratch_bytes ? bytes : scratch_bytes; }
  void partials(int64_t floats) { partial_floats = floats > partial_floats ? floats : partial_floats; }
};

class Op {
 public:
  virtual ~Op() = default;
  virtual void run(StepContext& step) = 0;
  const std::string& name() const { return name_; }
  void set_name(std::string name) { name_ = std::move(name); }
  // States what the largest step needs; called once, when every op is known.
  virtual void require(const PlanLimits&, Requirements&) {}

 protected:
  static int64_t max_rows(const Operand& operand, const PlanLimits& limits) {
    return (operand.rows == RowSymbol::T ? limits.max_tokens : limits.max_logits) * operand.rows_per_symbol;
  }

 private:
  std::string name_;
};

// The op named fields.op(). Throws std::invalid_argument on an unknown op or fields that do not fit it,
// std::out_of_range on a weight, table or group that does not exist.
std::unique_ptr<Op> make_op(Fields& fields, const OpResources& resources);

// Names that make_op knows, sorted.
std::vector<std::string> op_names();

}  // namespace quire
