#include "expect.h"

int main() {
  using namespace quire::testing;
  test_pool();
  test_plan();
  test_chains();
  test_queue();
  test_populator();
  std::printf(failures ? "FAILED: %d\n" : "all passed\n", failures);
  return failures ? 1 : 0;
}
