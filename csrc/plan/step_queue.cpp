#include "step_queue.h"

#include <algorithm>
#include <stdexcept>

#include "../threads/fork_generation.h"

namespace quire {

namespace {

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
        throw std::invalid_argument("step: prev_row " + std::to_string(row) +
                                    " is no row that the step before sampled");
      id = std::max(tokens[static_cast<size_t>(row)], 0);
    }
  }
}

void check_prev_rows(const StepInput& input) {
  const size_t seqs = input.num_computed.size();
  if (input.prev_row.size() != seqs || input.query_start_loc.size() != seqs + 1)
    throw std::invalid_argument("step: prev_row is not [S] or query_start_loc is not [S + 1]");
  for (size_t s = 0; s <= seqs; ++s)
    if (input.query_start_loc[s] < (s ? input.query_start_loc[s - 1] : 0) ||
        input.query_start_loc[s] > input.num_tokens())
      throw std::invalid_argument("step: query_start_loc does not grow");
}

}  // namespace

StepQueue::StepQueue(Plan& plan) : plan_(plan), fork_generation_(fork_generation()) {}

StepQueue::~StepQueue() { close(); }

void StepQueue::check_process() const {
  if (fork_generation() != fork_generation_)
    throw std::runtime_error("the plan was made before fork(); its threads stayed with the parent");
}

int64_t StepQueue::submit(std::unique_ptr<StepInput> input) {
  check_process();
  auto ticket = std::make_unique<Ticket>();
  ticket->input = std::move(input);
  std::lock_guard<std::mutex> lock(monitor_->mutex);
  if (closed_) throw std::runtime_error("the plan is closed");
  tickets_.push_back(std::move(ticket));
  post_next();
  return first_ + static_cast<int64_t>(tickets_.size()) - 1;
}

StepQueue::Ticket* StepQueue::find(int64_t number) {
  const int64_t index = number - first_;
  return index < 0 || index >= static_cast<int64_t>(tickets_.size()) ? nullptr
                                                                     : tickets_[static_cast<size_t>(index)].get();
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
  post_next();
}

void StepQueue::fail(int64_t number) {
  check_process();
  std::lock_guard<std::mutex> lock(monitor_->mutex);
  if (Ticket* ticket = find(number); ticket && !ticket->tokens_known) ticket->failed = true;
  post_next();
}

// Forgets steps that nobody will ask about: read, their tokens known, and not the last one begun.
void StepQueue::drop_old() {
  while (first_ + 1 < next_run_ && !tickets_.front()->input && !tickets_.front()->output) {
    tickets_.pop_front();
    ++first_;
  }
}

void StepQueue::close() {
  if (fork_generation() != fork_generation_) {
    if (monitor_) static_cast<void>(new std::shared_ptr<Monitor>(std::move(monitor_)));
    return;
  }
  std::unique_lock<std::mutex> lock(monitor_->mutex);
  closed_ = true;
  monitor_->changed.notify_all();
  monitor_->changed.wait(lock, [&] { return !posted_; });
}

bool StepQueue::ready(const Ticket& ticket, const Ticket* before) const {
  return !needs_tokens(*ticket.input) || !before || before->tokens_known || before->failed;
}

void StepQueue::post_next() {
  Ticket* const ticket = find(next_run_);
  if (posted_ || closed_ || !ticket || !ready(*ticket, find(next_run_ - 1))) return;
  posted_ = true;
  plan_.pool().post([this] { run_next(); }, [monitor = monitor_] { monitor->changed.notify_all(); });
}

void StepQueue::run_next() {
  std::unique_lock<std::mutex> lock(monitor_->mutex);
  if (closed_) {
    posted_ = false;
    return;
  }
  Ticket& ticket = *find(next_run_);
  const Ticket* const before = find(next_run_ - 1);
  lock.unlock();
  std::unique_ptr<StepOutput> output = run(ticket, before);
  lock.lock();
  ticket.failed = !output->error.empty();
  ticket.tokens = output->tokens;
  const std::vector<int32_t>& sampled = ticket.input->sampled_rows;
  ticket.tokens_known = !ticket.failed && std::find(sampled.begin(), sampled.end(), -1) == sampled.end();
  ticket.input.reset();
  ticket.output = std::move(output);
  ++next_run_;
  drop_old();
  posted_ = false;
  post_next();
}

std::unique_ptr<StepOutput> StepQueue::run(Ticket& ticket, const Ticket* before) {
  auto output = std::make_unique<StepOutput>();
  try {
    if (needs_tokens(*ticket.input)) {
      check_prev_rows(*ticket.input);
      if (!before || !before->tokens_known)
        throw std::invalid_argument("step: a token id is -1, but the step before gave no tokens");
      feed_tokens(*ticket.input, before->tokens);
    }
    plan_.run(*ticket.input, *output);
  } catch (const std::exception& error) {
    output = std::make_unique<StepOutput>();
    output->error = *error.what() ? error.what() : "unknown error";
  }
  return output;
}

}  // namespace quire
