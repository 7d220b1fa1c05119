#include "thread_pool.h"

#include <algorithm>
#include <exception>
#include <stdexcept>
#include <utility>

#include "fork_generation.h"
#include "spin.h"

namespace quire {

namespace {

constexpr std::chrono::microseconds kIdleSpin{1000};

// Whose member the running thread is, and which.
struct Membership {
  const ThreadPool* pool = nullptr;
  int thread = 0;
};
thread_local Membership membership;

}  // namespace

ThreadPool::ThreadPool(int num_threads) : num_threads_(std::max(num_threads, 1)), fork_generation_(fork_generation()) {
  threads_.reserve(static_cast<size_t>(num_threads_));
  for (int thread = 0; thread < num_threads_; ++thread) threads_.emplace_back([this, thread] { member(thread); });
}

ThreadPool::~ThreadPool() {
  if (fork_generation() != fork_generation_) {  // the threads stayed with the parent: nothing to join
    for (std::thread& thread : threads_) thread.detach();
    monitor_.release();
    return;
  }
  {
    std::lock_guard<std::mutex> lock(monitor_->mutex);
    stop_.store(true);
    monitor_->wake.notify_all();
  }
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::post(std::function<void()> work, std::function<void()> after) {
  std::lock_guard<std::mutex> lock(monitor_->mutex);
  monitor_->tasks.push_back({std::move(work), std::move(after)});
  offer_next();
}

void ThreadPool::lead(const std::function<void()>& work) {
  if (membership.pool == this || fork_generation() != fork_generation_) return work();
  struct {
    std::mutex mutex;
    std::condition_variable changed;
    bool ended = false;
    std::exception_ptr error;  // the member keeps no part of it
  } outcome;
  post(
      [&] {
        try {
          work();
        } catch (...) { outcome.error = std::current_exception(); }
      },
      [&] {
        std::lock_guard<std::mutex> lock(outcome.mutex);
        outcome.ended = true;
        outcome.changed.notify_one();
      });
  std::unique_lock<std::mutex> lock(outcome.mutex);
  outcome.changed.wait(lock, [&] { return outcome.ended; });
  if (outcome.error) std::rethrow_exception(std::move(outcome.error));
}

void ThreadPool::offer_next() {
  if (monitor_->led || monitor_->tasks.empty()) return;
  task_open_.store(true, std::memory_order_release);
  if (sleepers_.load(std::memory_order_relaxed) > 0) monitor_->wake.notify_all();
}

bool ThreadPool::lead_next() {
  if (!task_open_.load(std::memory_order_relaxed) || !task_open_.exchange(false, std::memory_order_acq_rel))
    return false;
  Task task;
  {
    std::lock_guard<std::mutex> lock(monitor_->mutex);
    if (monitor_->led || monitor_->tasks.empty())
      return false;  // another post let a second member in, which was faster
    task = std::move(monitor_->tasks.front());
    monitor_->tasks.pop_front();
    monitor_->led = true;
  }
  task.work();
  {
    std::lock_guard<std::mutex> lock(monitor_->mutex);
    monitor_->led = false;
    offer_next();
  }
  if (task.after) task.after();
  return true;
}

void ThreadPool::run(Function function, void* context, int64_t items, int64_t min_chunk) {
  if (fork_generation() != fork_generation_) return function(context, 0, items, 0);
  if (items >= static_cast<int64_t>(kItemMask)) throw std::length_error("too many items for one parallel loop");
  if (membership.pool == this) return share(function, context, items, min_chunk, membership.thread);
  lead([&] { share(function, context, items, min_chunk, membership.thread); });
}

void ThreadPool::share(Function function, void* context, int64_t items, int64_t min_chunk, int thread) {
  const uint64_t number = claim_.load(std::memory_order_relaxed) >> kItemBits;
  claim_.store((number + 1) << kItemBits | kItemMask, std::memory_order_relaxed);
  // Release: who sees a new field also sees that the old loop is closed.
  function_.store(function, std::memory_order_release);
  context_.store(context, std::memory_order_release);
  items_.store(items, std::memory_order_release);
  min_chunk_.store(min_chunk, std::memory_order_release);
  done_.store(0, std::memory_order_relaxed);
  claim_.store((number + 2) << kItemBits, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) > 0) {
    std::lock_guard<std::mutex> lock(monitor_->mutex);
    monitor_->wake.notify_all();
  }
  while (work(thread)) {}
  SpinWait wait;
  while (done_.load(std::memory_order_acquire) != items) wait.turn();
}

bool ThreadPool::work(int thread) {
  uint64_t claim = claim_.load(std::memory_order_acquire);
  const Function function = function_.load(std::memory_order_acquire);
  void* const context = context_.load(std::memory_order_acquire);
  const int64_t items = items_.load(std::memory_order_acquire);
  const int64_t min_chunk = min_chunk_.load(std::memory_order_acquire);
  const uint64_t number = claim >> kItemBits;
  bool worked = false;
  while (claim >> kItemBits == number) {
    const int64_t next = static_cast<int64_t>(claim & kItemMask);
    if (next >= items) break;
    const int64_t fair = (items - next) / (2 * num_threads_);
    const int64_t count = std::min(std::max(fair, min_chunk), items - next);
    if (!claim_.compare_exchange_weak(claim, claim + static_cast<uint64_t>(count), std::memory_order_acq_rel,
                                      std::memory_order_acquire))
      continue;
    function(context, next, next + count, thread);
    done_.fetch_add(count, std::memory_order_acq_rel);
    worked = true;
    claim = claim_.load(std::memory_order_acquire);
  }
  return worked;
}

void ThreadPool::member(int thread) {
  membership = {this, thread};
  while (!stop_.load(std::memory_order_relaxed)) {
    const uint64_t seen = claim_.load(std::memory_order_acquire);
    if (!work(thread) && !lead_next()) wait_for_work(seen);
  }
}

bool ThreadPool::anything_new(uint64_t seen) const {
  return claim_.load(std::memory_order_seq_cst) != seen || task_open_.load(std::memory_order_acquire) ||
         stop_.load(std::memory_order_relaxed);
}

// What an idle member does until a loop opens, a task is to be led, or the pool ends.
void ThreadPool::wait_for_work(uint64_t seen) {
  SpinWait wait(kIdleSpin);
  while (!anything_new(seen))
    if (!wait.turn()) return sleep(seen);
}

void ThreadPool::sleep(uint64_t seen) {
  std::unique_lock<std::mutex> lock(monitor_->mutex);
  sleepers_.fetch_add(1, std::memory_order_seq_cst);
  // A leader publishes a loop, then looks for sleepers; we count ourselves, then look: one of the two sees the other.
  monitor_->wake.wait(lock, [&] { return anything_new(seen); });
  sleepers_.fetch_sub(1, std::memory_order_seq_cst);
}

}  // namespace quire
