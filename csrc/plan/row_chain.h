// Neighbouring row ops as one loop: a few rows go through all of them, and on to being prepared for the linear that
// follows, while they lie in the first-level cache.
#pragma once

#include <memory>
#include <vector>

#include "row_op.h"

namespace quire {

// The ops of a plan in order, with what can be chained chained. A chain is named by its ops: "rms_norm+prepare".
// Results have the bits they have without. Ops are chained whose arrays are apart, or in step row by row.
std::vector<std::unique_ptr<Op>> chain_rows(std::vector<std::unique_ptr<Op>> ops, const PlanLimits& limits);

}  // namespace quire
