// Steps submitted ahead of their tokens, closed queues, failed steps.
#include <thread>

#include "../step_queue.h"
#include "expect.h"
#include "small_model.h"

namespace quire::testing {

namespace {

constexpr int kSteps = 12;

std::vector<int32_t> one_at_a_time() {
  const auto plan = small_model("", 2, DType::f32);
  StepQueue queue(*plan);
  std::vector<int32_t> tokens = queue.wait(queue.submit(chunk({3, 1, 4}, 0)))->tokens;
  for (int step = 0; step < kSteps; ++step)
    tokens.push_back(queue.wait(queue.submit(chunk({tokens.back()}, 3 + step)))->tokens[0]);
  return tokens;
}

// Two steps deep; with `by_host` the tokens of every step are handed in from outside.
std::vector<int32_t> overlapped(bool by_host, int num_threads) {
  const auto plan = small_model("", num_threads, DType::f32);
  StepQueue queue(*plan);
  std::vector<int32_t> tokens;
  const auto read = [&](int64_t number, bool host) {
    const auto output = queue.wait(number);
    int32_t token = output->tokens[0];
    if (host) {
      const float* row = output->logits.get() + (output->logits_rows - 1) * output->vocab;
      token = 0;
      for (int32_t v = 1; v < output->vocab; ++v) token = row[v] > row[token] ? v : token;
      queue.provide_tokens(number, {token});
    }
    tokens.push_back(token);
  };
  int64_t last = queue.submit(chunk({3, 1, 4}, 0));
  for (int step = 0; step < kSteps; ++step) {
    auto input = chunk({-1}, 3 + step);
    input->prev_row = {0};
    if (by_host) input->sampled_rows = {-1};
    const int64_t next = queue.submit(std::move(input));
    read(last, by_host && step > 0);
    last = next;
  }
  read(last, by_host);
  return tokens;
}

void failures_stay_with_their_step() {
  const auto plan = small_model("", 2, DType::f32);
  StepQueue queue(*plan);
  const int64_t wrong = queue.submit(chunk({kVocab}, 0));
  auto follower = chunk({-1}, 1);
  follower->prev_row = {0};
  const int64_t following = queue.submit(std::move(follower));
  const int64_t right = queue.submit(chunk({1}, 0));
  expect(queue.wait(wrong)->error.find("token id 40") != std::string::npos, "the failed step says why");
  expect(queue.wait(following)->error.find("gave no tokens") != std::string::npos, "who needs its tokens fails");
  expect(queue.wait(right)->error.empty(), "the step after works");
  expect_error([&] { queue.wait(right); }, "no such step");
  expect_error([&] { queue.wait(17); }, "no such step");
}

void a_host_that_gives_up_fails_the_next_step() {
  const auto plan = small_model("", 1, DType::f32);
  StepQueue queue(*plan);
  auto first = chunk({1}, 0);
  first->sampled_rows = {-1};
  const int64_t number = queue.submit(std::move(first));
  auto follower = chunk({-1}, 1);
  follower->prev_row = {0};
  const int64_t following = queue.submit(std::move(follower));
  queue.wait(number);
  queue.fail(number);
  expect(!queue.wait(following)->error.empty(), "a step whose tokens never come fails");
}

void closing_drops_what_has_not_begun() {
  const auto plan = small_model("", 2, DType::f32);
  StepQueue queue(*plan);
  auto waiting = chunk({-1}, 0);  // needs tokens that nobody brings
  auto host = chunk({1}, 0);
  host->sampled_rows = {-1};
  queue.submit(std::move(host));
  waiting->prev_row = {0};
  const int64_t number = queue.submit(std::move(waiting));
  std::thread closer([&] { queue.close(); });
  expect_error([&] { queue.wait(number); }, "closed");
  closer.join();
  queue.close();
  expect_error([&] { queue.submit(chunk({1}, 0)); }, "closed");
}

// The reader goes away as soon as it has its step: whoever woke it must not touch the queue any more.
void queues_come_and_go() {
  const auto plan = small_model("", 3, DType::f32);
  for (int round = 0; round < 50; ++round) {
    StepQueue queue(*plan);
    const int64_t number = queue.submit(chunk({1, 2}, 0));
    if (round % 2) queue.submit(chunk({3}, 0));  // closed while it runs, or before it began
    if (round % 5) expect(queue.wait(number)->error.empty(), "a step of a queue that goes away");
  }
}

}  // namespace

void test_queue() {
  const std::vector<int32_t> expected = one_at_a_time();
  for (const int num_threads : {1, 2, 4}) {
    expect(overlapped(false, num_threads) == expected, "tokens fed back natively");
    expect(overlapped(true, num_threads) == expected, "tokens fed back by the host");
  }
  failures_stay_with_their_step();
  a_host_that_gives_up_fails_the_next_step();
  closing_drops_what_has_not_begun();
  queues_come_and_go();
}

}  // namespace quire::testing
