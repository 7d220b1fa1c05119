// A persistent team of threads that shares the items of one loop at a time.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace quire {

// The thread that calls `parallel_for` (the leader) works too, so a pool of n threads starts n - 1.
//
// Items are claimed in chunks from one atomic word that holds the loop's number beside the next item. A
// worker that the operating system took off its core therefore delays nobody unless it holds a chunk:
// the leader waits for items, not for threads.
//
// Between loops workers spin (loops of one step are microseconds apart), then yield, then sleep after
// about a millisecond. No thread is pinned. One leader at a time; calls from two threads are serialized.
// A process made by fork() has no workers: there the pool runs every loop on the calling thread.
class ThreadPool {
 public:
  // num_threads < 1 is taken as 1.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return num_threads_; }

  // Calls body(begin, end, thread) over disjoint ranges that cover [0, items), 0 <= thread < num_threads().
  // `min_chunk` is the smallest range worth claiming. `body` must not throw and must not call the pool.
  template <class Body>
  void parallel_for(int64_t items, Body&& body, int64_t min_chunk = 1) {
    if (items <= 0) return;
    if (num_threads_ == 1 || items <= min_chunk) {
      body(int64_t{0}, items, 0);
      return;
    }
    using Plain = std::remove_reference_t<Body>;
    run([](void* context, int64_t begin, int64_t end, int thread) {
      (*static_cast<Plain*>(context))(begin, end, thread);
    }, const_cast<void*>(static_cast<const void*>(&body)), items, min_chunk);
  }

 private:
  using Function = void (*)(void* context, int64_t begin, int64_t end, int thread);

  void run(Function function, void* context, int64_t items, int64_t min_chunk);
  void worker(int thread);
  bool work(int thread);  // false when there was nothing to claim
  void sleep(uint64_t seen);

  // claim_ = loop number << kItemBits | next item. The number changes twice a loop: to "closed" while the
  // fields below are rewritten, then to the open loop; so a claim can only succeed on the fields it was read with.
  static constexpr int kItemBits = 28;
  static constexpr uint64_t kItemMask = (uint64_t{1} << kItemBits) - 1;

  const int num_threads_;
  const int fork_generation_;
  alignas(64) std::atomic<uint64_t> claim_{kItemMask};
  alignas(64) std::atomic<int64_t> done_{0};
  alignas(64) std::atomic<Function> function_{nullptr};
  std::atomic<void*> context_{nullptr};
  std::atomic<int64_t> items_{0};
  std::atomic<int64_t> min_chunk_{1};
  alignas(64) std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
  std::mutex leader_;
  // After fork() the child's copy counts sleepers that do not exist; destroying it would wait for them for ever.
  struct Sleep {
    std::mutex mutex;
    std::condition_variable wake;
  };
  std::unique_ptr<Sleep> sleep_ = std::make_unique<Sleep>();
  std::vector<std::thread> threads_;
};

}  // namespace quire
