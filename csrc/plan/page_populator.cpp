#include "page_populator.h"

#include <sys/mman.h>
#if defined(__linux__)
#include <sys/resource.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <cerrno>
#include <utility>

#include "../threads/fork_generation.h"
#include "buffer.h"

namespace quire {

namespace {

constexpr int64_t kPiece = int64_t{2} << 20;  // of one buffer at a time: a huge page, some milliseconds at worst
constexpr int kNiceness = 10;
constexpr std::chrono::milliseconds kQuiet{50};  // since the last step, or since the start
constexpr std::chrono::milliseconds kLook{10};   // how often a busy plan is looked at again

// Whole pages of [data, data + bytes); false where the system cannot.
bool populate_pages(std::byte* data, int64_t bytes) {
#if defined(__linux__)
  constexpr int kPopulateWrite = 23;  // MADV_POPULATE_WRITE, which older headers do not name
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = reinterpret_cast<uintptr_t>(data) / page * page;
  const size_t length = static_cast<size_t>(reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(bytes) - begin);
  while (madvise(reinterpret_cast<void*>(begin), length, kPopulateWrite) != 0)
    if (errno != EINTR) return false;
  return true;
#else
  (void)data, (void)bytes;
  return false;
#endif
}

}  // namespace

PagePopulator::PagePopulator(std::vector<Lane> lanes)
    : lanes_(std::move(lanes)),
      fork_generation_(fork_generation()),
      progress_(lanes_.size()),
      used_(lanes_.size()),
      last_step_(std::chrono::steady_clock::now()) {
  for (size_t lane = 0; lane < lanes_.size(); ++lane) use(static_cast<int64_t>(lane), 0);
  thread_ = std::thread([this] { loop(); });
}

PagePopulator::~PagePopulator() {
  if (fork_generation() != fork_generation_) {
    thread_.detach();
    monitor_.release();
    return;
  }
  {
    std::lock_guard<std::mutex> lock(monitor_->mutex);
    stop_ = true;
    monitor_->changed.notify_all();
  }
  thread_.join();
}

void PagePopulator::use(int64_t lane, int64_t bytes) {
  const auto at = static_cast<size_t>(lane);
  Progress& progress = progress_[at];
  if (bytes > 0 && bytes <= used_[at].load(std::memory_order_relaxed)) return;
  if (fork_generation() != fork_generation_ || lanes_[at].buffers.empty()) return;
  const int64_t ahead = lanes_[at].ahead_bytes / static_cast<int64_t>(lanes_[at].buffers.size());
  std::lock_guard<std::mutex> lock(monitor_->mutex);
  used_[at].store(bytes, std::memory_order_relaxed);
  progress.wanted = std::max(progress.wanted, std::min(lanes_[at].buffer_bytes, round_up(bytes + ahead, kPiece)));
  monitor_->changed.notify_all();
}

bool PagePopulator::next_lane(size_t& lane) const {
  int64_t most = 0;
  for (size_t i = 0; i < progress_.size(); ++i) {
    const int64_t left = progress_[i].wanted - progress_[i].done;
    if (left > most) most = left, lane = i;
  }
  return most > 0;
}

bool PagePopulator::quiet() const {
  return pauses_.load() == 0 && std::chrono::steady_clock::now() - last_step_.load() >= kQuiet;
}

// False when it was told to stop, or cannot.
bool PagePopulator::populate(const Lane& lane, int64_t begin, int64_t end) {
  for (std::byte* buffer : lane.buffers) {
    while (!quiet()) {
      std::unique_lock<std::mutex> lock(monitor_->mutex);
      if (monitor_->changed.wait_for(lock, kLook, [&] { return stop_.load(); })) return false;
    }
    if (stop_ || !populate_pages(buffer + begin, end - begin)) return false;
    populated_bytes_.fetch_add(end - begin);
  }
  return true;
}

void PagePopulator::loop() {
#if defined(__linux__)
  setpriority(PRIO_PROCESS, 0, kNiceness);  // of this thread alone; a wish
#endif
  std::unique_lock<std::mutex> lock(monitor_->mutex);
  while (true) {
    size_t lane = 0;
    monitor_->changed.wait(lock, [&] { return stop_ || next_lane(lane); });
    if (stop_) return;
    const int64_t begin = progress_[lane].done, end = std::min(begin + kPiece, progress_[lane].wanted);
    lock.unlock();
    const bool went_on = populate(lanes_[lane], begin, end);
    lock.lock();
    progress_[lane].done = end;
    if (!went_on) return;
  }
}

}  // namespace quire
