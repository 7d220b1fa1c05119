// Checks that say what failed and count.
#pragma once

#include <cstdio>
#include <stdexcept>
#include <string>

namespace quire::testing {

inline int failures = 0;

inline void expect(bool ok, const std::string& what) {
  if (ok) return;
  ++failures;
  std::printf("FAIL %s\n", what.c_str());
}

// The work must throw an std::exception whose text holds `part`.
template <class Work>
void expect_error(Work&& work, const std::string& part) {
  try {
    work();
  } catch (const std::exception& error) {
    return expect(std::string(error.what()).find(part) != std::string::npos,
                  "error '" + std::string(error.what()) + "' does not say '" + part + "'");
  }
  expect(false, "no error that says '" + part + "'");
}

void test_pool();
void test_plan();
void test_chains();
void test_queue();
void test_populator();

}  // namespace quire::testing
