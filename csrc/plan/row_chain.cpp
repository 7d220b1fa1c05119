#include "row_chain.h"

#include <algorithm>
#include <utility>

namespace quire {

namespace {

constexpr int64_t kPieceElements = 4096;  // of work that goes from op to op at a time: a row of a larger model

// Bytes of an operand: from where to where in all, within a row, and from row to row (of the step's T or L).
struct Extent {
  int64_t begin, end, row_end, stride;
};
Extent extent(const Operand& operand, const PlanLimits& limits) {
  const int64_t rows = operand.rows == RowSymbol::T ? limits.max_tokens : limits.max_logits;
  const int64_t row = ((operand.rows_per_symbol - 1) * operand.row_stride + operand.width) * 4;
  const int64_t stride = operand.rows_per_symbol * operand.row_stride * 4;
  return {operand.offset_bytes, operand.offset_bytes + (rows - 1) * stride + row, operand.offset_bytes + row, stride};
}

// Whether what one op does to row r of `a` cannot meet what another does to other rows of `b`.
bool keep_apart(const RowAccess& a, const RowAccess& b, const PlanLimits& limits) {
  if (!a.written && !b.written) return true;
  if (a.operand.space != Space::arena || b.operand.space != Space::arena) return true;  // those are never written
  const Extent x = extent(a.operand, limits), y = extent(b.operand, limits);
  if (x.end <= y.begin || y.end <= x.begin) return true;
  return x.stride == y.stride && std::max(x.row_end, y.row_end) - std::min(x.begin, y.begin) <= x.stride;
}

class RowChain final : public Op {
 public:
  explicit RowChain(RowSymbol symbol) : symbol_(symbol) {}

  bool takes(const RowAccess& access, const PlanLimits& limits) const {
    return access.operand.rows == symbol_ && std::all_of(accesses_.begin(), accesses_.end(), [&](const RowAccess& own) {
             return keep_apart(own, access, limits);
           });
  }
  bool takes(const RowOp& op, const PlanLimits& limits) const {
    return op.symbol() == symbol_ &&
           std::all_of(op.accesses().begin(), op.accesses().end(), [&](const RowAccess& access) {
             return access.operand.space != Space::arena || takes(access, limits);
           });
  }
  void add(std::unique_ptr<RowOp> op) {
    for (const RowAccess& access : op->accesses())
      if (!access.written && !touches(access.operand)) fresh_.push_back(access.operand);
    accesses_.insert(accesses_.end(), op->accesses().begin(), op->accesses().end());
    elements_ += op->elements();
    set_name(links_.empty() ? op->name() : name() + "+" + op->name());
    links_.push_back(std::move(op));
  }
  void set_consumer(RowConsumer& consumer) {
    consumer.leave_preparing();
    consumer_ = &consumer;
    elements_ += consumer.consumed().width;
    set_name(name() + "+prepare");
  }
  bool is_one_op() const { return links_.size() == 1 && !consumer_; }
  std::unique_ptr<Op> take_only() { return std::move(links_.front()); }

  void run(StepContext& step) override {
    const int64_t rows = step.rows(symbol_), together = consumer_ ? consumer_->prepared_together(step) : 0;
    const int64_t small = std::max<int64_t>(1, kPieceElements / elements_);
    size_t alone =
        links_.size();  // the first link that wants more rows at a time: those before it do not wait for them
    int64_t piece = small;
    for (size_t i = links_.size(); i-- > 0;)
      if (const int64_t wanted = links_[i]->piece(rows); wanted > small) {
        alone = i;
        piece = std::max(piece, wanted);
      }
    if (together > 1) piece = round_up(piece, together);
    step.for_items((rows + piece - 1) / piece, piece * elements_, [&](int64_t begin, int64_t end, int) {
      for (int64_t row = begin * piece; row < std::min(end * piece, rows); row += piece) {
        const int64_t stop = std::min(row + piece, rows);
        for (int64_t at = row; at < stop; at += small) {
          const int64_t next = at + small, next_end = std::min({next + small, end * piece, rows});
          for (const Operand& x : fresh_) expect_rows(step, x, next * x.rows_per_symbol, next_end * x.rows_per_symbol);
          for (size_t i = 0; i < alone; ++i) links_[i]->run_rows(step, at, std::min(at + small, stop));
        }
        for (size_t i = alone; i < links_.size(); ++i) links_[i]->run_rows(step, row, stop);
        if (together) consumer_->prepare_rows(step, row, stop);
      }
    });
  }

 private:
  bool touches(const Operand& operand) const {
    return std::any_of(accesses_.begin(), accesses_.end(), [&](const RowAccess& own) {
      return own.operand.space == operand.space && own.operand.offset_bytes == operand.offset_bytes;
    });
  }

  RowSymbol symbol_;
  std::vector<std::unique_ptr<RowOp>> links_;
  std::vector<RowAccess> accesses_;
  std::vector<Operand> fresh_;  // what the chain reads and has not made itself
  RowConsumer* consumer_ = nullptr;  // the op behind the chain
  int64_t elements_ = 0;
};

}  // namespace

void RowOp::run(StepContext& step) {
  const int64_t rows = step.rows(symbol()), together = piece(rows);
  step.for_items((rows + together - 1) / together, together * elements_, [&](int64_t begin, int64_t end, int) {
    run_rows(step, begin * together, std::min(end * together, rows));
  });
}

std::vector<std::unique_ptr<Op>> chain_rows(std::vector<std::unique_ptr<Op>> ops, const PlanLimits& limits) {
  std::vector<std::unique_ptr<Op>> chained;
  std::unique_ptr<RowChain> chain;
  const auto close = [&] {
    if (chain) chained.push_back(chain->is_one_op() ? chain->take_only() : std::move(chain));
    chain.reset();
  };
  for (std::unique_ptr<Op>& op : ops) {
    if (auto* const row_op = dynamic_cast<RowOp*>(op.get())) {
      op.release();
      std::unique_ptr<RowOp> link(row_op);
      if (chain && !chain->takes(*link, limits)) close();
      if (!chain) chain = std::make_unique<RowChain>(link->symbol());
      chain->add(std::move(link));
      continue;
    }
    auto* const consumer = dynamic_cast<RowConsumer*>(op.get());
    if (chain && consumer && consumer->consumed().rows_per_symbol == 1 &&
        chain->takes({consumer->consumed(), false}, limits))
      chain->set_consumer(*consumer);
    close();
    chained.push_back(std::move(op));
  }
  close();
  return chained;
}

}  // namespace quire
