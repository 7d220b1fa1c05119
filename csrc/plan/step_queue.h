// Runs steps of a plan in order on the plan's threads, so that the caller can prepare the next one meanwhile.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "plan.h"

namespace quire {

// Each step is a task of the plan's pool, posted once it can run: whichever member finds it first leads it. Who waits for
// a step is woken when the next one may already be led.
//
// A step whose token ids hold -1 waits until the step before knows all its tokens: those drawn here at once,
// those sampled by the host when `provide_tokens` brings them.
class StepQueue {
 public:
  explicit StepQueue(Plan& plan);
  ~StepQueue();  // as close()
  StepQueue(const StepQueue&) = delete;
  StepQueue& operator=(const StepQueue&) = delete;

  // Takes the step and returns its number, counted from 0. Throws std::runtime_error after close() or fork().
  int64_t submit(std::unique_ptr<StepInput> input);

  // Waits for a step and hands out what it made, once. A failed step's output has only an error.
  // Throws std::runtime_error when the queue was closed before the step ran.
  std::unique_ptr<StepOutput> wait(int64_t number);

  // All R tokens of a step that left some to the host; called after wait(number).
  void provide_tokens(int64_t number, std::vector<int32_t> tokens);

  // Says that no tokens will come: a step that waits for them fails.
  void fail(int64_t number);

  void close();  // drops steps that have not begun, waits for the one that runs

 private:
  struct Ticket {
    std::unique_ptr<StepInput> input;
    std::unique_ptr<StepOutput> output;  // set when the step is done
    std::vector<int32_t> tokens;         // as fed to the next step
    bool tokens_known = false;
    bool failed = false;
  };

  void post_next();  // with the lock held
  void run_next();
  std::unique_ptr<StepOutput> run(Ticket& ticket, const Ticket* before);
  Ticket* find(int64_t number);
  bool ready(const Ticket& ticket, const Ticket* before) const;
  void drop_old();
  void check_process() const;  // throws std::runtime_error after fork()

  Plan& plan_;
  const int fork_generation_;
  // Shared with the tasks: one may still wake the waiters when the queue is gone. After fork() the child's copy may be
  // locked, and counts a waiter that does not exist: it is left behind there.
  struct Monitor {
    std::mutex mutex;
    std::condition_variable changed;
  };
  std::shared_ptr<Monitor> monitor_ = std::make_shared<Monitor>();
  std::deque<std::unique_ptr<Ticket>> tickets_;  // numbers first_ ...
  int64_t first_ = 0;
  int64_t next_run_ = 0;
  bool posted_ = false;  // step next_run_ is a task of the pool
  bool closed_ = false;
};

}  // namespace quire
