// The constructors behind make_op, by family; each returns its name -> constructor pairs.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "op.h"

namespace quire {

using OpMaker = std::unique_ptr<Op> (*)(Fields&, const OpResources&);
using OpMakers = std::vector<std::pair<std::string, OpMaker>>;

OpMakers row_ops();
OpMakers linear_ops();
OpMakers cache_ops();
OpMakers expert_ops();

template <class T>
std::unique_ptr<Op> make(Fields& fields, const OpResources& resources) {
  return std::make_unique<T>(fields, resources);
}

}  // namespace quire
