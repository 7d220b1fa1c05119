// Ops that go row by row, which is what lets several of them share one loop (row_chain.h).
#pragma once

#include <utility>
#include <vector>

#include "op.h"

namespace quire {

struct RowAccess {
  Operand operand;
  bool written = false;
};

// Asks for the operand's rows [begin, end), which are read next, where they lie apart: the processor runs ahead by itself only
// where one follows the other.
inline void expect_rows(const StepContext& step, const Operand& operand, int64_t begin, int64_t end) {
  if (operand.space != Space::arena || operand.row_stride <= operand.width) return;
  for (int64_t row = begin; row < end; ++row) {
    const float* x = step.pointer<float>(operand) + row * operand.row_stride;
    for (int64_t i = 0; i < operand.width; i += 16) __builtin_prefetch(x + i);
  }
}

// An op that makes row r of its results (r counts T or L) from row r of its operands.
class RowOp : public Op {
 public:
  void run(StepContext& step) final;
  virtual void run_rows(const StepContext& step, int64_t begin, int64_t end) const = 0;

  // The first operand's rows are those that are counted.
  const std::vector<RowAccess>& accesses() const { return accesses_; }
  RowSymbol symbol() const { return accesses_.front().operand.rows; }
  int64_t elements() const { return elements_; }        // of work in a row
  virtual int64_t piece(int64_t) const { return 1; }    // rows, of so many, that are made faster together

 protected:
  // Every constructor says once what the op touches and how much work a row is.
  void describe(std::vector<RowAccess> accesses, int64_t elements) {
    accesses_ = std::move(accesses);
    elements_ = elements * accesses_.front().operand.rows_per_symbol;
  }
  // Rows [begin, end) of T or L by a kernel whose items are the operand's rows.
  template <class Args>
  void run_kernel(RangeKernel<Args> kernel, const Args& args, int64_t begin, int64_t end) const {
    const int64_t rows = accesses_.front().operand.rows_per_symbol;
    kernel(args, begin * rows, end * rows, nullptr);
  }

 private:
  std::vector<RowAccess> accesses_;
  int64_t elements_ = 0;
};

// An op that begins by preparing the rows of an operand, each for itself. A chain of row ops before it may do that.
class RowConsumer : public Op {
 public:
  virtual const Operand& consumed() const = 0;
  // Rows that are prepared together; 0 = nothing is to be prepared.
  virtual int64_t prepared_together(const StepContext& step) const = 0;
  // `begin` is a multiple of prepared_together.
  virtual void prepare_rows(const StepContext& step, int64_t begin, int64_t end) const = 0;
  // From now on run() finds its rows prepared.
  void leave_preparing() { prepares_ = false; }

 protected:
  bool prepares_ = true;
};

}  // namespace quire
