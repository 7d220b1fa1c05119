// The pool under stress: every item once, back to back, after sleep; tasks led by one member or another.
#include <atomic>
#include <chrono>
#include <ctime>
#include <future>
#include <memory>
#include <stdexcept>
#include <thread>
#include <vector>

#include "../../threads/thread_pool.h"
#include "expect.h"

namespace quire::testing {

namespace {

void every_item_runs_once(int num_threads) {
  ThreadPool pool(num_threads);
  for (const int64_t items : {0, 1, 2, 3, 7, 64, 1000, 4097}) {
    for (const int64_t min_chunk : {1, 5, 5000}) {
      std::vector<int> count(static_cast<size_t>(items), 0);  // plain ints: a race would show under tsan
      std::vector<int64_t> sums(static_cast<size_t>(num_threads), 0);
      pool.parallel_for(
          items,
          [&](int64_t begin, int64_t end, int thread) {
            for (int64_t i = begin; i < end; ++i) {
              ++count[static_cast<size_t>(i)];
              sums[static_cast<size_t>(thread)] += i;
            }
          },
          min_chunk);
      bool once = true;
      for (const int c : count) once = once && c == 1;
      int64_t sum = 0;
      for (const int64_t s : sums) sum += s;
      expect(once && sum == items * (items - 1) / 2, "items of a loop of " + std::to_string(items));
    }
  }
}

// Each loop reads what the one before wrote: a worker that is late must not touch the next loop's items.
void loops_follow_each_other(int num_threads, int loops) {
  ThreadPool pool(num_threads);
  std::vector<int64_t> values(37, 0);
  pool.lead([&] {
    for (int loop = 0; loop < loops; ++loop) {
      const auto items = static_cast<int64_t>(1 + loop % 37);
      pool.parallel_for(items, [&, loop](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) values[static_cast<size_t>(i)] += loop;
      });
    }
  });
  int64_t expected = 0, found = 0;
  for (int loop = 0; loop < loops; ++loop) expected += static_cast<int64_t>(loop) * (1 + loop % 37);
  for (const int64_t value : values) found += value;
  expect(found == expected, "sums over loops that follow each other");
}

void workers_wake_from_sleep() {
  ThreadPool pool(4);
  std::vector<int> hits(64, 0);
  for (int round = 0; round < 20; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(round % 2 ? 3 : 1));
    pool.parallel_for(64, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) ++hits[static_cast<size_t>(i)];
    });
  }
  bool all = true;
  for (const int hit : hits) all = all && hit == 20;
  expect(all, "loops after sleep");
}

void outside_threads_take_turns() {
  ThreadPool pool(3);
  std::vector<int64_t> sums(4, 0);
  std::vector<std::thread> leaders;
  for (size_t leader = 0; leader < sums.size(); ++leader) {
    leaders.emplace_back([&pool, &sums, leader] {
      for (int loop = 0; loop < 300; ++loop) {
        std::vector<int64_t> squares(50, 0);
        pool.parallel_for(50, [&](int64_t begin, int64_t end, int) {
          for (int64_t i = begin; i < end; ++i) squares[static_cast<size_t>(i)] = i * i;
        });
        for (const int64_t square : squares) sums[leader] += square;
      }
    });
  }
  for (std::thread& leader : leaders) leader.join();
  for (const int64_t sum : sums) expect(sum == 300 * 40425, "a leader's sums");
}

// Plain ints and a sum per thread: two leaders at a time, or two threads of one number, would show under tsan.
void tasks_run_one_at_a_time_in_order() {
  ThreadPool pool(3);
  constexpr int kTasks = 500;
  std::vector<int> order;
  std::vector<int64_t> sums(3, 0);
  std::atomic<int> ended{0};
  for (int task = 0; task < kTasks; ++task) {
    pool.post(
        [&, task] {
          order.push_back(task);
          pool.parallel_for(
              20, [&](int64_t begin, int64_t end, int thread) { sums[static_cast<size_t>(thread)] += end - begin; });
        },
        [&] { ended.fetch_add(1); });
    if (task % 100 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(3));  // some find the members asleep
  }
  while (ended.load() < kTasks) std::this_thread::yield();
  bool in_order = order.size() == kTasks;
  for (size_t i = 0; i < order.size(); ++i) in_order = in_order && order[i] == static_cast<int>(i);
  expect(in_order && sums[0] + sums[1] + sums[2] == kTasks * 20, "tasks in the order of posting");
}

void a_task_begins_while_the_member_before_is_held_up() {
  std::promise<std::thread::id> second_leader, first_leader;
  std::future<std::thread::id> second = second_leader.get_future(), first = first_leader.get_future();
  ThreadPool pool(2);
  pool.post([] {}, [&] {  // as if the thread that it wakes took this member's core
    const bool led = second.wait_for(std::chrono::seconds(20)) == std::future_status::ready;
    expect(led, "a task is led while the member before it is held up");
    first_leader.set_value(std::this_thread::get_id());
  });
  pool.post([&] { second_leader.set_value(std::this_thread::get_id()); });
  const std::thread::id held_up = first.get();
  expect(second.get() != held_up, "another member leads it");
}

void errors_of_a_task_come_back() {
  ThreadPool pool(2);
  for (int round = 0; round < 100; ++round)
    expect_error([&] { pool.lead([] { throw std::runtime_error("what the task says"); }); }, "what the task says");
  int64_t items = 0;
  pool.lead([&] {
    pool.lead([&] { pool.parallel_for(1, [&](int64_t begin, int64_t end, int) { items += end - begin; }); });
  });
  expect(items == 1, "a task inside a task runs at once");
}

double cpu_seconds() {
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

void an_idle_pool_sleeps() {
  ThreadPool pool(2);
  pool.lead([] {});
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  const double before = cpu_seconds();
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  expect(cpu_seconds() - before < 0.02, "an idle pool takes no core");
}

void pools_come_and_go() {
  for (int round = 0; round < 50; ++round) {
    auto pool = std::make_unique<ThreadPool>(1 + round % 5);
    int64_t sum = 0;
    if (round % 3) pool->parallel_for(1, [&](int64_t, int64_t, int) { ++sum; });
    if (round % 7 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

}  // namespace

void test_pool() {
  for (const int num_threads : {0, 1, 2, 3, 8}) every_item_runs_once(num_threads < 1 ? 1 : num_threads);
  expect(ThreadPool(-3).num_threads() == 1, "a pool has at least one member");
  loops_follow_each_other(2, 20000);
  loops_follow_each_other(6, 3000);
  workers_wake_from_sleep();
  outside_threads_take_turns();
  tasks_run_one_at_a_time_in_order();
  a_task_begins_while_the_member_before_is_held_up();
  errors_of_a_task_come_back();
  an_idle_pool_sleeps();
  pools_come_and_go();
  ThreadPool pool(2);
  expect_error([&] { pool.parallel_for(int64_t{1} << 40, [](int64_t, int64_t, int) {}); }, "too many items");
}

}  // namespace quire::testing
