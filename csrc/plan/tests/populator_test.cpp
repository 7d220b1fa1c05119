// Pages that are there before anybody writes, beside writers, when steps run, when it ends early, after fork().
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "../buffer.h"
#include "../page_populator.h"
#include "expect.h"

namespace quire::testing {

namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

struct Cache {
  explicit Cache(int num_buffers, int64_t bytes) {
    for (int i = 0; i < num_buffers; ++i) buffers.emplace_back(bytes);
  }

  PagePopulator::Lane lane(int64_t ahead_bytes) const {
    PagePopulator::Lane lane{{}, buffers.front().bytes(), ahead_bytes};
    for (const Buffer& buffer : buffers) lane.buffers.push_back(buffer.data());
    return lane;
  }

  // Bytes from the start of a buffer that have pages, without a gap.
  static int64_t resident(const Buffer& buffer) {
    const int64_t page = sysconf(_SC_PAGESIZE);
    std::vector<unsigned char> there(static_cast<size_t>((buffer.bytes() + page - 1) / page));
    mincore(buffer.data(), static_cast<size_t>(buffer.bytes()), there.data());
    const auto gap = std::find_if(there.begin(), there.end(), [](unsigned char flag) { return (flag & 1) == 0; });
    return std::min((gap - there.begin()) * page, buffer.bytes());
  }

  std::vector<Buffer> buffers;
};

bool within_seconds(int seconds, const std::function<bool()>& reached) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
  while (!reached() && std::chrono::steady_clock::now() < end)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  return reached();
}

// An emulator may say that it did, and not have done it.
bool system_populates() {
  const Buffer probe(kMiB);
  constexpr int kPopulateWrite = 23;
  return madvise(probe.data(), static_cast<size_t>(probe.bytes()), kPopulateWrite) == 0 &&
         Cache::resident(probe) == probe.bytes();
}

void pages_are_ahead_of_use() {
  const Cache cache(3, 16 * kMiB);
  PagePopulator populator({cache.lane(12 * kMiB)});
  for (const auto& [used, expected] : {std::pair<int64_t, int64_t>{0, 4}, {5, 10}, {11, 16}}) {
    populator.use(0, used * kMiB);  // 4 MiB of each buffer beyond that, in pieces of 2
    expect(within_seconds(20, [&] { return populator.populated_bytes() == 3 * expected * kMiB; }), "pages come");
    for (const Buffer& buffer : cache.buffers)
      expect(Cache::resident(buffer) >= expected * kMiB, "pages of " + std::to_string(expected) + " MiB are resident");
  }
}

void writes_beside_it_stay() {
  const Cache cache(2, 24 * kMiB);
  PagePopulator populator({cache.lane(48 * kMiB)});
  const auto writer = [&](const Buffer& buffer) {
    for (int64_t at = 0; at < buffer.bytes(); at += 1024)
      buffer.as<uint8_t>()[at] = static_cast<uint8_t>(at / 1024 + 1);
  };
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  std::thread other([&] { writer(cache.buffers[0]); });
  writer(cache.buffers[1]);
  other.join();
  expect(within_seconds(20, [&] { return populator.populated_bytes() == 48 * kMiB; }), "pages come beside writers");
  bool right = true;
  for (const Buffer& buffer : cache.buffers)
    for (int64_t at = 0; at < buffer.bytes(); ++at)
      right = right && buffer.as<uint8_t>()[at] == (at % 1024 ? 0 : static_cast<uint8_t>(at / 1024 + 1));
  expect(right, "populating changes no byte");
}

void steps_pause_it() {
  const Cache cache(1, 8 * kMiB);
  PagePopulator populator({cache.lane(8 * kMiB)});
  {
    const PagePopulator::Pause pause(populator);
    std::this_thread::sleep_for(std::chrono::milliseconds(150));
    expect(populator.populated_bytes() == 0 && Cache::resident(cache.buffers[0]) == 0,
           "nothing comes while a step runs");
  }
  expect(within_seconds(20, [&] { return populator.populated_bytes() == 8 * kMiB; }), "and all of it after the step");
}

void it_ends_early() {
  for (const int milliseconds : {0, 52, 60}) {
    const Cache cache(4, 64 * kMiB);
    PagePopulator populator({cache.lane(256 * kMiB)});
    std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
  }
}

void a_forked_child_lets_go_of_it() {
  const Cache cache(2, 32 * kMiB);
  auto populator = std::make_unique<PagePopulator>(std::vector{cache.lane(64 * kMiB)});
  std::this_thread::sleep_for(std::chrono::milliseconds(55));
  const pid_t child = fork();
  if (child == 0) {
    populator->use(0, 32 * kMiB);
    populator.reset();
    _exit(0);
  }
  int status = -1;
  expect(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0,
         "the child closes its copy");
}

}  // namespace

void test_populator() {
  if (!system_populates()) {
    std::printf("skipped: this system cannot populate pages: no tests of PagePopulator\n");
    return;
  }
  pages_are_ahead_of_use();
  writes_beside_it_stay();
  steps_pause_it();
  it_ends_early();
  a_forked_child_lets_go_of_it();
}

}  // namespace quire::testing
