// A model as a flat list of native calls over one arena, run step by step.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "greedy.h"
#include "kv_store.h"
#include "op.h"
#include "page_populator.h"
#include "step.h"
#include "weight_store.h"

namespace quire {

// Build order: add weights and groups, add ops (body, then head), set_logits, prepare; pack the weights and
// allocate the cache in any order; then run steps. Built by one thread. A step is led by a member of the pool: `run`
// called elsewhere waits for one.
class Plan {
 public:
  struct Options {
    std::string kernels;         // name of a kernel table, "" = the best of this machine
    int num_threads = 1;
    bool poison = false;         // fill the arena before each step and a fresh cache with NaN
    DType kv_dtype = DType::f32;
    int64_t block_size = 64;
    PlanLimits limits;
  };

  explicit Plan(const Options& options);

  WeightStore& weights() { return weights_; }
  KvStore& kv() { return kv_; }
  const KvStore& kv() const { return kv_; }
  ThreadPool& pool() { return pool_; }
  const KernelTable& kernels() const { return kernels_; }
  const PlanLimits& limits() const { return options_.limits; }

  void add_op(Fields fields, bool head);
  // Rows [L, vocab] that the head leaves behind. Without it a step with logits_indices is refused.
  void set_logits(const Operand& logits) { logits_ = logits; }
  // Allocates the arena and what the ops need beside it.
  void prepare(int64_t arena_bytes);
  // The cache's pages are there `ahead_bytes` ahead of use (PagePopulator); 0 = they come at first touch.
  void allocate_kv(const std::vector<int64_t>& blocks_per_pool, int64_t ahead_bytes = 0);
  int64_t populated_bytes() const { return populator_ ? populator_->populated_bytes() : 0; }

  int64_t activation_bytes() const;  // arena, workspaces, scratch, attention's lists and partial sums
  std::vector<std::string> ops()
      const;  // names in order, the head's last; once prepared, those of chains (row_chain.h)

  // Runs one step. Token ids must be resolved (not -1). Throws std::invalid_argument on a batch that does not
  // fit the plan, before anything is computed.
  void run(const StepInput& input, StepOutput& output);

  // Seconds spent in each op (sampling is one) since the last call, by name, while profiling is on.
  void set_profiling(bool on);
  std::vector<std::pair<std::string, double>> take_profile();

  // Seconds: when `run` began and ended, by the steady clock, and how much of that was in ops.
  struct StepTimes {
    double begin, end, ops;
  };
  // Of each step since the last call, while profiling is on.
  std::vector<StepTimes> take_step_times();

 private:
  void check(const StepInput& input) const;
  void check_groups(const StepInput& input) const;
  void derive(const StepInput& input, StepContext& step);
  void expect_use(const StepInput& input);
  void run_profiled(const StepInput& input, StepOutput& output);
  void run_step(const StepInput& input, StepOutput& output);
  void run_ops(const std::vector<std::unique_ptr<Op>>& ops, size_t first, StepContext& step);
  void run_head(const StepInput& input, StepContext& step, StepOutput& output);
  void sample(const StepInput& input, StepContext& step, int64_t first, StepOutput& output);
  void take_logits(const StepInput& input, StepContext& step, int64_t first, StepOutput& output);

  using Clock = std::chrono::steady_clock;
  double op_ended(Clock::time_point& began);  // seconds since `began`, which is now

  const Options options_;
  const KernelTable& kernels_;
  ThreadPool pool_;
  WeightStore weights_;
  KvStore kv_;
  std::optional<PagePopulator> populator_;  // of kv_
  std::vector<AttentionWork> attention_;
  std::vector<std::unique_ptr<Op>> body_, head_;
  std::optional<Operand> logits_;
  Buffer arena_, workspace_, scratch_, partials_;
  Requirements needs_;
  bool prepared_ = false;
  bool profiling_ = false;
  std::vector<double> seconds_;  // of body ops, then head ops
  double sample_seconds_ = 0.0, op_seconds_ = 0.0;  // op_seconds_: of the running step
  std::vector<StepTimes> step_times_;
  // Of the running step; kept to save allocations.
  std::vector<int32_t> positions_, seq_lens_, sampled_;
  std::vector<GreedyPart> largest_, largest_work_;
  std::vector<DrawWork> draw_work_;  // by thread
};

}  // namespace quire
