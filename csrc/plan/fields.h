// Named arguments of a plan op, as the flattener gives them: the constructor of an op reads each by name, so
// the C++ op is the only place that says what it takes. A missing, unknown or mistyped name is an error.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "operand.h"

namespace quire {

class Fields {
 public:
  using Value = std::variant<std::monostate, bool, int64_t, double, std::string, Operand, std::vector<int64_t>>;

  Fields(std::string op, std::map<std::string, Value> values) : op_(std::move(op)), values_(std::move(values)) {}

  const std::string& op() const { return op_; }

  Operand operand(const std::string& name) { return require<Operand>(name, "an operand"); }
  int64_t integer(const std::string& name) { return require<int64_t>(name, "an integer"); }
  bool boolean(const std::string& name) { return require<bool>(name, "true or false"); }
  std::string text(const std::string& name) { return require<std::string>(name, "a string"); }
  std::vector<int64_t> integers(const std::string& name) { return require<std::vector<int64_t>>(name, "integers"); }

  float real(const std::string& name) {
    const Value& value = find(name);
    if (const auto* whole = std::get_if<int64_t>(&value)) return static_cast<float>(*whole);
    if (const auto* number = std::get_if<double>(&value)) return static_cast<float>(*number);
    throw error(name, "must be a number");
  }

  // The integer, or -1 when the value is None: handles of optional weights.
  int64_t optional_integer(const std::string& name) {
    return std::holds_alternative<std::monostate>(find(name)) ? -1 : integer(name);
  }

  // Throws when a name was given that the op did not read.
  void finish() const {
    for (const auto& [name, value] : values_)
      if (!read_.count(name)) throw error(name, "is not known");
  }

  std::invalid_argument error(const std::string& name, const std::string& problem) const {
    return std::invalid_argument("plan op " + op_ + ": " + name + " " + problem);
  }

 private:
  const Value& find(const std::string& name) {
    const auto it = values_.find(name);
    if (it == values_.end()) throw error(name, "is missing");
    read_.insert(name);
    return it->second;
  }

  template <class T>
  T require(const std::string& name, const char* kind) {
    const T* value = std::get_if<T>(&find(name));
    if (!value) throw error(name, std::string("must be ") + kind);
    return *value;
  }

  std::string op_;
  std::map<std::string, Value> values_;
  std::set<std::string> read_;
};

}  // namespace quire
