// Gives a KV cache its pages before steps write to them, on a thread of its own, while no step runs.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace quire {

// The first touch of a page costs far more than a write: the system has to find and clear it, inside a virtual
// machine also the host. Populating changes no byte, so it may meet a step's writes.
//
// A lane is the memory of blocks 0, 1, ... in every layer of a pool; all its buffers are filled side by side, since
// blocks are handed out from the lowest on. Each lane is kept `ahead_bytes` (over all its buffers) ahead of what is used.
// Where the system cannot populate (Linux before 5.14, others), pages come at first touch.
class PagePopulator {
 public:
  struct Lane {
    std::vector<std::byte*> buffers;
    int64_t buffer_bytes = 0;  // of each
    int64_t ahead_bytes = 0;
  };

  explicit PagePopulator(std::vector<Lane> lanes);
  ~PagePopulator();  // waits for the piece that is being populated
  PagePopulator(const PagePopulator&) = delete;
  PagePopulator& operator=(const PagePopulator&) = delete;

  // The first `bytes` of each buffer of the lane are in use. Cheap when that is no news.
  void use(int64_t lane, int64_t bytes);

  // While one exists, and for a moment after, nothing is populated: a step has the cores to itself.
  class Pause {
   public:
    explicit Pause(PagePopulator& populator) : populator_(populator) { populator_.pauses_.fetch_add(1); }
    ~Pause() {
      populator_.last_step_.store(std::chrono::steady_clock::now());
      populator_.pauses_.fetch_sub(1);
    }
    Pause(const Pause&) = delete;
    Pause& operator=(const Pause&) = delete;

   private:
    PagePopulator& populator_;
  };

  int64_t populated_bytes() const { return populated_bytes_.load(); }

 private:
  struct Progress {
    int64_t wanted = 0, done = 0;  // bytes of each buffer
  };

  void loop();
  bool next_lane(size_t& lane) const;  // the lane with most left to do, if any
  bool populate(const Lane& lane, int64_t begin, int64_t end);
  bool quiet() const;

  const std::vector<Lane> lanes_;
  const int fork_generation_;
  std::vector<Progress> progress_;
  std::vector<std::atomic<int64_t>> used_;
  std::atomic<int> pauses_{0};
  std::atomic<std::chrono::steady_clock::time_point> last_step_;
  std::atomic<int64_t> populated_bytes_{0};
  std::atomic<bool> stop_{false};
  // As in StepQueue: the copy of a forked child is left behind.
  struct Monitor {
    std::mutex mutex;
    std::condition_variable changed;
  };
  std::unique_ptr<Monitor> monitor_ = std::make_unique<Monitor>();
  std::thread thread_;
};

}  // namespace quire
