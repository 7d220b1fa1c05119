#include "step_queue.h"

#include <algorithm>
#include <stdexcept>

#include "../threads/fork_generation.h"
#include "../threads/spin.h"

namespace quire {

namespace {

// How long the step thread stays awake for the next step; waking a sleeper costs some 50 us.
constexpr std::chrono::microseconds kIdleSpin{500};

bool needs_tokens(const StepInput& input) {
  return std::find(input.token_ids.begin(), input.token_ids.end(), -1) != input.token_ids.end();
}

void feed_tokens(StepInput& input, const std::vector<int32_t>& tokens) {
  for (size_t s = 0; s < input.num_computed.size(); ++s) {
    const int32_t begin = input.query_start_loc[s], end = input.query_start_loc[s + 1];
    for (int32_t t = begin; t < end; ++t) {
      int32_t& id = input.token_ids[static_cast<size_t>(t)];
      if (id != -1) continue;
      const int32_t row = input.prev_row[s];
      if (row < 0 || row >= static_cast<int32_t>(tokens.size()))
        throw std::invalid_argument("step: prev_row " + std::to_string(row) + " is no row that the step before sampled");
      id = std::max(tokens[static_cast<size_t>(row)], 0);
    }
  }
}

void check_prev_rows(const StepInput& input) {
  const size_t seqs = input.num_computed.size();
  if (input.prev_row.size() != seqs || input.query_start_loc.size() != seqs + 1)
    throw std::invalid_argument("step: prev_row is not [S] or query_start_loc is not [S + 1]");
  for (size_t s = 0; s <= seqs; ++s)
    if (input.query_start_loc[s] < (s ? input.query_start_loc[s - 1] : 0) || input.query_start_loc[s] > input.num_tokens())
      throw std::invalid_argument("step: query_start_loc does not grow");
}

}  // namespace

StepQueue::StepQueue(Plan& plan)
    : plan_(plan), fork_generation_(fork_generation()), thread_([this] { loop(); }) {}

StepQueue::~StepQueue() { close(); }

void StepQueue::check_process() const {
  if (fork_generation() != fork_generation_)
    throw std::runtime_error("the plan was made before fork(); its threads stayed with the parent");
}

int64_t StepQueue::submit(std::unique_ptr<StepInput> input) {
  check_process();
  if (closed_) throw std::runtime_error("the plan is closed");
  auto ticket = std::make_unique<Ticket>();
  ticket->input = std::move(input);
  std::lock_guard<std::mutex> lock(monitor_->mutex);
  tickets_.push_back(std::move(ticket));
  const int64_t number = submitted_.fetch_add(1);
  monitor_->changed.notify_all();
  return number;
}

StepQueue::Ticket* StepQueue::find(int64_t number) {
  const int64_t index = number - first_;
  return index < 0 || index >= static_cast<int64_t>(tickets_.size()) ? nullptr : tickets_[static_cast<size_t>(index)].get();
}

std::unique_ptr<StepOutput> StepQueue::wait(int64_t number) {
  check_process();
  std::unique_lock<std::mutex> lock(monitor_->mutex);
  Ticket* ticket = find(number);
  if (!ticket || (!ticket->input && !ticket->output)) throw std::runtime_error("no such step is waiting to be read");
  monitor_->changed.wait(lock, [&] { return ticket->output || (closed_ && ticket->input); });
  if (!ticket->output) throw std::runtime_error("the plan was closed before this step ran");
  std::unique_ptr<StepOutput> output = std::move(ticket->output);
  drop_old();
  return output;
}

void StepQueue::provide_tokens(int64_t number, std::vector<int32_t> tokens) {
  check_process();
  std::lock_guard<std::mutex> lock(monitor_->mutex);
  Ticket* ticket = find(number);
  if (!ticket && number >= first_) throw std::runtime_error("no such step waits for tokens");
  if (!ticket) return;  // later steps have run without them
  ticket->tokens = std::move(tokens);
  ticket->tokens_known = true;
  drop_old();
  monitor_->changed.notify_all();
}

void StepQueue::fail(int64_t number) {
  check_process();
  std::lock_guard<std::mutex> lock(monitor_->mutex);
  if (Ticket* ticket = find(number); ticket && !ticket->tokens_known) ticket->failed = true;
  monitor_->changed.notify_all();
}

// Forgets steps that nobody will ask about: read, their tokens known, and not the last one begun.
void StepQueue::drop_old() {
  while (first_ + 1 < next_run_ && !tickets_.front()->input && !tickets_.front()->output) {
    tickets_.pop_front();
    ++first_;
  }
}

void StepQueue::close() {
  if (fork_generation() != fork_generation_) {  // the thread is the parent's
    if (thread_.joinable()) thread_.detach();
    monitor_.release();
    return;
  }
  {
    std::lock_guard<std::mutex> lock(monitor_->mutex);
    closed_ = true;
    monitor_->changed.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

bool StepQueue::ready(const Ticket& ticket, const Ticket* before) const {
  return !needs_tokens(*ticket.input) || !before || before->tokens_known || before->failed;
}

void StepQueue::loop() {
  std::unique_lock<std::mutex> lock(monitor_->mutex);
  while (true) {
    if (!closed_ && !find(next_run_)) {  // stay awake for a moment without holding the lock
      const int64_t number = next_run_;
      lock.unlock();
      SpinWait wait(kIdleSpin);
      while (submitted_.load(std::memory_order_relaxed) <= number && !closed_ && wait.turn()) {
      }
      lock.lock();
    }
    Ticket* ticket = nullptr;
    Ticket* before = nullptr;
    monitor_->changed.wait(lock, [&] {
      ticket = find(next_run_);
      before = find(next_run_ - 1);
      return closed_ || (ticket && ready(*ticket, before));
    });
    if (closed_) return;
    lock.unlock();
    auto output = std::make_unique<StepOutput>();
    bool failed = false;
    try {
      if (needs_tokens(*ticket->input)) {
        check_prev_rows(*ticket->input);
        if (!before || !before->tokens_known) throw std::invalid_argument("step: a token id is -1, but the step before gave no tokens");
        feed_tokens(*ticket->input, before->tokens);
      }
      plan_.run(*ticket->input, *output);
    } catch (const std::exception& error) {
      failed = true;
      output = std::make_unique<StepOutput>();
      output->error = *error.what() ? error.what() : "unknown error";
    }
    lock.lock();
    ticket->failed = failed;
    ticket->tokens = output->tokens;
    const std::vector<int32_t>& sampled = ticket->input->sampled_rows;
    ticket->tokens_known = !failed && std::find(sampled.begin(), sampled.end(), -1) == sampled.end();
    ticket->input.reset();
    ticket->output = std::move(output);
    ++next_run_;
    drop_old();
    monitor_->changed.notify_all();
  }
}

}  // namespace quire
