#include "op.h"

#include <map>

#include "op_families.h"

namespace quire {

namespace {

const std::map<std::string, OpMaker>& makers() {
  static const std::map<std::string, OpMaker> all = [] {
    std::map<std::string, OpMaker> found;
    for (const OpMakers& family : {row_ops(), linear_ops(), cache_ops(), expert_ops()})
      found.insert(family.begin(), family.end());
    return found;
  }();
  return all;
}

}  // namespace

std::unique_ptr<Op> make_op(Fields& fields, const OpResources& resources) {
  const auto maker = makers().find(fields.op());
  if (maker == makers().end()) throw std::invalid_argument("the native plan has no op " + fields.op());
  std::unique_ptr<Op> op = maker->second(fields, resources);
  fields.finish();
  op->set_name(fields.op());
  return op;
}

std::vector<std::string> op_names() {
  std::vector<std::string> names;
  for (const auto& [name, maker] : makers()) names.push_back(name);
  return names;
}

}  // namespace quire
