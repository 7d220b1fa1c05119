#include "thread_pool.h"


#include <algorithm>
#include <stdexcept>

#include "fork_generation.h"
#include "spin.h"

namespace quire {

namespace {
constexpr std::chrono::microseconds kIdleSpin{1000};
}

ThreadPool::ThreadPool(int num_threads)
    : num_threads_(std::max(num_threads, 1)), fork_generation_(fork_generation()) {
  threads_.reserve(static_cast<size_t>(num_threads_ - 1));
  for (int thread = 1; thread < num_threads_; ++thread) threads_.emplace_back([this, thread] { worker(thread); });
}

ThreadPool::~ThreadPool() {
  if (fork_generation() != fork_generation_) {  // the threads stayed with the parent: nothing to join
    for (std::thread& thread : threads_) thread.detach();
    sleep_.release();
    return;
  }
  stop_.store(true);
  {
    std::lock_guard<std::mutex> lock(sleep_->mutex);
    sleep_->wake.notify_all();
  }
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::run(Function function, void* context, int64_t items, int64_t min_chunk) {
  if (fork_generation() != fork_generation_) return function(context, 0, items, 0);
  if (items >= static_cast<int64_t>(kItemMask)) throw std::length_error("too many items for one parallel loop");
  std::lock_guard<std::mutex> lock(leader_);
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
    std::lock_guard<std::mutex> wake_lock(sleep_->mutex);
    sleep_->wake.notify_all();
  }
  while (work(0)) {
  }
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

void ThreadPool::worker(int thread) {
  while (!stop_.load(std::memory_order_relaxed)) {
    const uint64_t seen = claim_.load(std::memory_order_acquire);
    if (work(thread)) continue;
    SpinWait wait(kIdleSpin);
    while (claim_.load(std::memory_order_acquire) == seen && !stop_.load(std::memory_order_relaxed)) {
      if (wait.turn()) continue;
      sleep(seen);
      break;
    }
  }
}

void ThreadPool::sleep(uint64_t seen) {
  std::unique_lock<std::mutex> lock(sleep_->mutex);
  sleepers_.fetch_add(1, std::memory_order_seq_cst);
  // The leader publishes, then looks for sleepers; we count ourselves, then look: one of the two sees the other.
  sleep_->wake.wait(lock, [&] { return claim_.load(std::memory_order_seq_cst) != seen || stop_.load(); });
  sleepers_.fetch_sub(1, std::memory_order_seq_cst);
}

}  // namespace quire
