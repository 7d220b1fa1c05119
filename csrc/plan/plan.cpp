#include "plan.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <stdexcept>
#include <utility>

#include "row_chain.h"

namespace quire {

namespace {

[[noreturn]] void refuse(const std::string& problem) { throw std::invalid_argument("step: " + problem); }

std::string of(int64_t count, int64_t limit) {
  return std::to_string(count) + ", the plan holds " + std::to_string(limit);
}

}  // namespace

Plan::Plan(const Options& options)
    : options_(options),
      kernels_(select_kernels(options.kernels)),
      pool_(options.num_threads),
      weights_(kernels_),
      kv_(options.kv_dtype, options.block_size) {}

void Plan::add_op(Fields fields, bool head) {
  if (prepared_) throw std::logic_error("ops are added before prepare");
  if (!head && !head_.empty()) throw std::logic_error("body ops are added before the head's");
  std::unique_ptr<Op> op = make_op(fields, {kernels_, weights_, kv_, attention_});
  (head ? head_ : body_).push_back(std::move(op));
}

void Plan::prepare(int64_t arena_bytes) {
  needs_.num_threads = pool_.num_threads();
  for (auto* ops : {&body_, &head_}) {
    for (const std::unique_ptr<Op>& op : *ops) op->require(options_.limits, needs_);
    *ops = chain_rows(std::move(*ops), options_.limits);
  }
  arena_ = Buffer(arena_bytes);
  workspace_ = Buffer(needs_.workspace_bytes);
  needs_.scratch_bytes = round_up(needs_.scratch_bytes, 128) + 128;  // apart by a pair of cache lines
  scratch_ = Buffer(needs_.scratch_bytes * pool_.num_threads());
  partials_ = Buffer(needs_.partial_floats * 4);
  seconds_.assign(body_.size() + head_.size(), 0.0);
  prepared_ = true;
}

void Plan::allocate_kv(const std::vector<int64_t>& blocks_per_pool, int64_t ahead_bytes) {
  populator_.reset();
  kv_.allocate(blocks_per_pool);
  if (options_.poison) return kv_.poison();
  if (ahead_bytes <= 0 || kv_.bytes() == 0) return;
  std::vector<PagePopulator::Lane> lanes;
  for (const std::vector<Buffer>& pool : kv_.pools()) {
    PagePopulator::Lane& lane = lanes.emplace_back();
    for (const Buffer& buffer : pool) lane.buffers.push_back(buffer.data());
    lane.buffer_bytes = pool.empty() ? 0 : pool.front().bytes();
    const double share =
        static_cast<double>(lane.buffer_bytes) * static_cast<double>(pool.size()) / static_cast<double>(kv_.bytes());
    lane.ahead_bytes = static_cast<int64_t>(share * static_cast<double>(ahead_bytes));
  }
  populator_.emplace(std::move(lanes));
}

// Tells the populator up to which block each pool is used.
void Plan::expect_use(const StepInput& input) {
  for (size_t g = 0; g < input.groups.size(); ++g) {
    const std::vector<int32_t>& tables = input.groups[g].block_tables;
    const int64_t blocks = tables.empty() ? 0 : int64_t{1} + *std::max_element(tables.begin(), tables.end());
    const KvGroup& group = kv_.group(static_cast<int64_t>(g));
    if (blocks > 0) populator_->use(group.pool, blocks * kv_block_bytes(group.shape));
  }
}

int64_t Plan::activation_bytes() const {
  int64_t bytes = arena_.bytes() + workspace_.bytes() + scratch_.bytes() + partials_.bytes();
  for (const AttentionWork& work : attention_) bytes += static_cast<int64_t>(work.items.size() * sizeof(AttentionItem));
  return bytes;
}

void Plan::check(const StepInput& input) const {
  const PlanLimits& limits = options_.limits;
  const int64_t tokens = input.num_tokens(), seqs = input.num_seqs();
  if (!prepared_) throw std::logic_error("the plan is not prepared");
  if (tokens < 1 || tokens > limits.max_tokens) refuse("tokens " + of(tokens, limits.max_tokens));
  if (seqs < 1 || seqs > limits.max_seqs) refuse("sequences " + of(seqs, limits.max_seqs));
  if (static_cast<int64_t>(input.query_start_loc.size()) != seqs + 1) refuse("query_start_loc is not [S + 1]");
  if (input.query_start_loc.front() != 0 || input.query_start_loc.back() != tokens)
    refuse("query_start_loc does not span the tokens");
  for (int64_t s = 0; s < seqs; ++s) {
    const auto at = static_cast<size_t>(s);
    const int64_t length = input.query_start_loc[at + 1] - input.query_start_loc[at];
    if (length < 1) refuse("query_start_loc does not grow");
    if (input.num_computed[at] < 0 || input.num_computed[at] + length > limits.max_len)
      refuse("a sequence's length is " + of(input.num_computed[at] + length, limits.max_len));
  }
  if (!input.positions.empty() && static_cast<int64_t>(input.positions.size()) != tokens)
    refuse("positions are not [T]");
  for (const int32_t id : input.token_ids)
    if (id < 0 || (limits.vocab_size && id >= limits.vocab_size)) refuse("token id " + of(id, limits.vocab_size));
  for (const int32_t position : input.positions)
    if (position < 0 || position >= limits.max_len) refuse("position " + of(position, limits.max_len));
  for (const int32_t row : input.logits_indices)
    if (row < 0 || row >= tokens) refuse("logits index " + std::to_string(row) + " is no token row");
  for (const auto* rows : {&input.sampled_rows, &input.returned_rows})
    for (const int32_t row : *rows)
      if (row < -1 || row >= input.num_logits()) refuse("row " + std::to_string(row) + " is no logits row");
  if (!input.draws.empty() && input.draws.size() != input.sampled_rows.size()) refuse("draws are not [R]");
  if (input.num_logits() && !logits_) refuse("this plan has no logits head");
  check_groups(input);
}

void Plan::check_groups(const StepInput& input) const {
  if (static_cast<int64_t>(input.groups.size()) != kv_.num_groups())
    refuse("groups " + of(static_cast<int64_t>(input.groups.size()), kv_.num_groups()));
  for (int64_t g = 0; g < kv_.num_groups(); ++g) {
    const GroupInput& group = input.groups[static_cast<size_t>(g)];
    const int64_t blocks = kv_.num_blocks(g), width = group.blocks_per_seq;
    if (static_cast<int64_t>(group.block_tables.size()) != input.num_seqs() * width)
      refuse("block_tables are not [S, B]");
    for (const int32_t block : group.block_tables)
      if (block < -1 || block >= blocks) refuse("block id " + of(block, blocks));
    for (int64_t s = 0; s < input.num_seqs(); ++s) {
      const auto at = static_cast<size_t>(s);
      const int64_t length = input.num_computed[at] + input.query_start_loc[at + 1] - input.query_start_loc[at];
      if (length > width * kv_.block_size()) refuse("a block table is shorter than its sequence");
    }
    if (group.copies.size() % 2) refuse("copies are not [n, 2]");
  }
}

void Plan::derive(const StepInput& input, StepContext& step) {
  const auto tokens = static_cast<size_t>(input.num_tokens()), seqs = static_cast<size_t>(input.num_seqs());
  positions_.resize(tokens);
  seq_lens_.resize(seqs);
  step.groups.resize(input.groups.size());
  for (size_t g = 0; g < input.groups.size(); ++g) {
    step.groups[g].block_tables = input.groups[g].block_tables.data();
    step.groups[g].block_table_stride = input.groups[g].blocks_per_seq;
    step.groups[g].slots.resize(tokens);
  }
  const int64_t block_size = kv_.block_size();
  for (size_t s = 0; s < seqs; ++s) {
    const int32_t begin = input.query_start_loc[s], end = input.query_start_loc[s + 1];
    seq_lens_[s] = input.num_computed[s] + end - begin;
    for (int32_t t = begin; t < end; ++t) {
      const int32_t index = input.num_computed[s] + t - begin;
      positions_[static_cast<size_t>(t)] = index;
      for (GroupStep& group : step.groups) {
        const int32_t block =
            group.block_tables[static_cast<int64_t>(s) * group.block_table_stride + index / block_size];
        group.slots[static_cast<size_t>(t)] =
            block < 0 ? -1 : static_cast<int32_t>(block * block_size + index % block_size);
      }
    }
  }
  if (!input.positions.empty()) positions_ = input.positions;
  step.positions = positions_.data();
  step.seq_lens = seq_lens_.data();
}

void Plan::run(const StepInput& input, StepOutput& output) {
  pool_.lead([&] { profiling_ ? run_profiled(input, output) : run_step(input, output); });
}

void Plan::run_profiled(const StepInput& input, StepOutput& output) {
  const auto seconds = [] { return std::chrono::duration<double>(Clock::now().time_since_epoch()).count(); };
  op_seconds_ = 0.0;
  const double begin = seconds();
  run_step(input, output);
  step_times_.push_back({begin, seconds(), op_seconds_});
}

void Plan::run_step(const StepInput& input, StepOutput& output) {
  check(input);
  std::optional<PagePopulator::Pause> pause;
  if (populator_) {
    pause.emplace(*populator_);
    expect_use(input);
  }
  if (options_.poison) arena_.poison();
  StepContext step{kernels_,
                   pool_,
                   weights_,
                   kv_,
                   arena_.data(),
                   workspace_.data(),
                   scratch_.data(),
                   needs_.scratch_bytes,
                   partials_.as<float>(),
                   needs_.partial_floats,
                   attention_};
  step.num_tokens = input.num_tokens();
  step.num_seqs = input.num_seqs();
  step.token_ids = input.token_ids.data();
  step.query_start_loc = input.query_start_loc.data();
  for (AttentionWork& work : attention_) work.planned = false;
  derive(input, step);
  for (size_t g = 0; g < input.groups.size(); ++g)
    kv_.copy_blocks(static_cast<int64_t>(g), input.groups[g].copies.data(),
                    static_cast<int64_t>(input.groups[g].copies.size() / 2), pool_);
  run_ops(body_, 0, step);
  run_head(input, step, output);
}

void Plan::run_ops(const std::vector<std::unique_ptr<Op>>& ops, size_t first, StepContext& step) {
  if (!profiling_) {
    for (const std::unique_ptr<Op>& op : ops) op->run(step);
    return;
  }
  Clock::time_point began = Clock::now();
  for (size_t i = 0; i < ops.size(); ++i) {
    ops[i]->run(step);
    seconds_[first + i] += op_ended(began);
  }
}

double Plan::op_ended(Clock::time_point& began) {
  const Clock::time_point now = Clock::now();
  const double seconds = std::chrono::duration<double>(now - began).count();
  began = now;
  op_seconds_ += seconds;
  return seconds;
}

void Plan::run_head(const StepInput& input, StepContext& step, StepOutput& output) {
  output.tokens.assign(input.sampled_rows.size(), -1);
  output.logits_rows = static_cast<int64_t>(input.returned_rows.size());
  output.vocab = logits_ ? logits_->width : 0;
  output.logits = std::make_unique_for_overwrite<float[]>(static_cast<size_t>(output.logits_rows * output.vocab));
  for (int64_t first = 0; first < input.num_logits(); first += options_.limits.max_logits) {
    step.num_logits = std::min(options_.limits.max_logits, input.num_logits() - first);
    step.logits_indices = input.logits_indices.data() + first;
    run_ops(head_, body_.size(), step);
    Clock::time_point began;
    if (profiling_) began = Clock::now();
    sample(input, step, first, output);
    if (profiling_) sample_seconds_ += op_ended(began);
    take_logits(input, step, first, output);
  }
}

void Plan::sample(const StepInput& input, StepContext& step, int64_t first, StepOutput& output) {
  const float* logits = step.pointer<float>(*logits_);
  const int64_t vocab = logits_->width, stride = logits_->row_stride;
  std::vector<size_t> sampled;  // which of the R rows lie in this slice
  sampled_.clear();
  for (size_t r = 0; r < input.sampled_rows.size(); ++r) {
    const int64_t row = input.sampled_rows[r] - first;
    if (input.sampled_rows[r] < 0 || row < 0 || row >= step.num_logits) continue;
    sampled.push_back(r);
    sampled_.push_back(static_cast<int32_t>(row));
  }
  largest_logits(logits, stride, vocab, sampled_, pool_, largest_work_, largest_);
  for (size_t i = 0; i < sampled.size(); ++i) {
    if (!largest_[i].finite) largest_[i].index = kNotFinite;  // below 0: nothing is drawn from it
    output.tokens[sampled[i]] = largest_[i].index;
  }
  if (input.draws.empty()) return;
  draw_work_.resize(static_cast<size_t>(pool_.num_threads()));
  pool_.parallel_for(static_cast<int64_t>(sampled.size()), [&](int64_t begin, int64_t end, int thread) {
    for (int64_t item = begin; item < end; ++item) {
      const auto i = static_cast<size_t>(item);
      const DrawParams& params = input.draws[sampled[i]];
      if (params.temperature <= 0.0f || largest_[i].index < 0) continue;
      output.tokens[sampled[i]] = draw_token(logits + sampled_[i] * stride, vocab, largest_[i].value, largest_[i].index,
                                             params, kernels_, draw_work_[static_cast<size_t>(thread)]);
    }
  });
}

void Plan::take_logits(const StepInput& input, StepContext& step, int64_t first, StepOutput& output) {
  const float* logits = step.pointer<float>(*logits_);
  const auto inside = [&](int32_t row) { return row >= first && row < first + step.num_logits; };
  for (size_t r = 0; r < input.returned_rows.size(); ++r)
    if (inside(input.returned_rows[r]))
      std::memcpy(output.logits.get() + static_cast<int64_t>(r) * output.vocab,
                  logits + (input.returned_rows[r] - first) * logits_->row_stride,
                  static_cast<size_t>(output.vocab) * 4);
}

void Plan::set_profiling(bool on) {
  profiling_ = on;
  take_profile();
  take_step_times();
}

std::vector<std::string> Plan::ops() const {
  std::vector<std::string> names;
  for (const auto* ops : {&body_, &head_})
    for (const std::unique_ptr<Op>& op : *ops) names.push_back(op->name());
  return names;
}

std::vector<std::pair<std::string, double>> Plan::take_profile() {
  const std::vector<std::string> names = ops();
  std::map<std::string, double> sums;
  for (size_t i = 0; i < seconds_.size(); ++i) sums[names[i]] += seconds_[i];
  sums["sample"] = sample_seconds_;
  std::fill(seconds_.begin(), seconds_.end(), 0.0);
  sample_seconds_ = 0.0;
  return {sums.begin(), sums.end()};
}

std::vector<Plan::StepTimes> Plan::take_step_times() { return std::exchange(step_times_, {}); }

}  // namespace quire
