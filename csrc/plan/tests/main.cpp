#include "expect.h"

int main() {
  using namespace quire::testing;
  test_pool();
  test_plan();
  test_queue();
  std::printf(failures ? "FAILED: %d\n" : "all passed\n", failures);
  return failures ? 1 : 0;
}
