// A persistent team of threads that leads one task at a time and shares the items of its loops.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace quire {

// All n threads (members) are the pool's own. A task is led by the member that finds it first: it runs the task and
// opens loops, whose items the others claim with it. A member that the operating system took off its core therefore
// delays no task that another can lead, and no loop unless it holds a chunk of it: the leader waits for items, not
// for threads. The thread that posts a task does not work, so that no more than n threads compute.
//
// Items are claimed in chunks from one atomic word that holds the loop's number beside the next item.
//
// A member with nothing to do spins (loops of one step are microseconds apart), then yields, then sleeps after about
// a millisecond. No thread is pinned. A process made by fork() has no members: there everything runs on the caller.
class ThreadPool {
 public:
  // num_threads < 1 is taken as 1.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();  // tasks that have not begun are dropped
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return num_threads_; }

  // Queues a task: a member leads `work`, one task at a time, in the order of posting. `after` runs on that member when
  // the next task may already be led by another. So what wakes a thread outside the pool belongs there: the system may
  // put that thread on this member's core. Neither may throw; `after` must not call the pool.
  void post(std::function<void()> work, std::function<void()> after = nullptr);

  // Has a member lead `work` and waits for it, asleep; what it throws is thrown here. On a member it runs at once.
  void lead(const std::function<void()>& work);

  // Calls body(begin, end, thread) over disjoint ranges that cover [0, items), 0 <= thread < num_threads().
  // `min_chunk` is the smallest range worth claiming. `body` must not throw and must not call the pool. From a thread
  // that is no member the loop is a task; one too small to share runs where it is called, as thread 0.
  template <class Body>
  void parallel_for(int64_t items, Body&& body, int64_t min_chunk = 1) {
    if (items <= 0) return;
    if (num_threads_ == 1 || items <= min_chunk) {
      body(int64_t{0}, items, 0);
      return;
    }
    using Plain = std::remove_reference_t<Body>;
    run([](void* context, int64_t begin, int64_t end,
           int thread) { (*static_cast<Plain*>(context))(begin, end, thread); },
        const_cast<void*>(static_cast<const void*>(&body)), items, min_chunk);
  }

 private:
  using Function = void (*)(void* context, int64_t begin, int64_t end, int thread);

  struct Task {
    std::function<void()> work, after;
  };

  void run(Function function, void* context, int64_t items, int64_t min_chunk);
  void share(Function function, void* context, int64_t items, int64_t min_chunk, int thread);
  void member(int thread);
  bool work(int thread);  // false when there was nothing to claim
  bool lead_next();       // false when there was no task to lead
  void offer_next();      // with the lock held
  bool anything_new(uint64_t seen) const;
  void wait_for_work(uint64_t seen);
  void sleep(uint64_t seen);

  // claim_ = loop number << kItemBits | next item. The number changes twice a loop: to "closed" while the
  // fields below are rewritten, then to the open loop; so a claim can only succeed on the fields it was read with.
  static constexpr int kItemBits = 28;
  static constexpr uint64_t kItemMask = (uint64_t{1} << kItemBits) - 1;

  const int num_threads_;
  const int fork_generation_;
  alignas(64) std::atomic<uint64_t> claim_{kItemMask};
  std::atomic<bool> task_open_{false};  // a task waits and nobody leads
  alignas(64) std::atomic<int64_t> done_{0};
  alignas(64) std::atomic<Function> function_{nullptr};
  std::atomic<void*> context_{nullptr};
  std::atomic<int64_t> items_{0};
  std::atomic<int64_t> min_chunk_{1};
  alignas(64) std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
  // After fork() the child's copy may be locked, and counts sleepers that do not exist; destroying it would wait for
  // them for ever.
  struct Monitor {
    std::mutex mutex;
    std::condition_variable wake;
    std::deque<Task> tasks;
    bool led = false;
  };
  std::unique_ptr<Monitor> monitor_ = std::make_unique<Monitor>();
  std::vector<std::thread> threads_;
};

}  // namespace quire
