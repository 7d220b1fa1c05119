#include "greedy.h"

#include <algorithm>
#include <bit>
#include <limits>

namespace quire {

namespace {

constexpr int64_t kPiece = 8192;  // logits a piece; pieces of one row are looked at by different threads

GreedyPart scan(const float* x, int64_t count, int64_t first) {
  constexpr int kLanes = 16;
  float best[kLanes];
  uint32_t bad[kLanes] = {};
  std::fill_n(best, kLanes, -std::numeric_limits<float>::infinity());
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const float value = x[i + lane];
      best[lane] = value > best[lane] ? value : best[lane];
      bad[lane] |= static_cast<uint32_t>(!(value <= std::numeric_limits<float>::max()));
    }
  }
  for (; i < count; ++i) {
    best[0] = x[i] > best[0] ? x[i] : best[0];
    bad[0] |= static_cast<uint32_t>(!(x[i] <= std::numeric_limits<float>::max()));
  }
  GreedyPart part;
  part.value = *std::max_element(best, best + kLanes);
  part.finite = std::all_of(bad, bad + kLanes, [](uint32_t flag) { return flag == 0; });
  part.index = static_cast<int32_t>(first + (std::find(x, x + count, part.value) - x));
  return part;
}

}  // namespace

void largest_logits(const float* logits, int64_t row_stride, int64_t vocab, const std::vector<int32_t>& rows,
                    ThreadPool& pool, std::vector<GreedyPart>& work, std::vector<GreedyPart>& best) {
  const int64_t pieces = (vocab + kPiece - 1) / kPiece;
  work.resize(rows.size() * static_cast<size_t>(pieces));
  best.resize(rows.size());
  pool.parallel_for(static_cast<int64_t>(work.size()), [&](int64_t begin, int64_t end, int) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t first = item % pieces * kPiece;
      const float* row = logits + rows[static_cast<size_t>(item / pieces)] * row_stride;
      work[static_cast<size_t>(item)] = scan(row + first, std::min(kPiece, vocab - first), first);
    }
  });
  for (size_t r = 0; r < rows.size(); ++r) {
    const GreedyPart* parts = work.data() + r * static_cast<size_t>(pieces);
    best[r] = parts[0];
    for (int64_t p = 1; p < pieces; ++p) {
      const bool finite = best[r].finite && parts[p].finite;
      if (parts[p].value > best[r].value) best[r] = parts[p];
      best[r].finite = finite;
    }
    if (best[r].value == -std::numeric_limits<float>::infinity()) best[r].index = -1;
  }
}

}  // namespace quire
