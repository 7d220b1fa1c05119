// Compares every kernel of every table that this machine can run with naive loops in double precision.
//   kernel_test [TABLE...]   only these tables
#include <chrono>
#include <stdexcept>

#include "harness.h"

int main(int argc, char** argv) {
  std::vector<std::string_view> tables(argv + 1, argv + argc);
  if (tables.empty()) tables = quire::available_kernels();
  using namespace quire::testing;
  const struct {
    const char* name;
    Test run;
  } tests[] = {{"linear", test_linear}, {"rowwise", test_rowwise}, {"cache", test_cache}, {"attention", test_attention}};
  int failures = 0;
  for (std::string_view isa : tables) {
    const quire::KernelTable& table = quire::select_kernels(isa);
    for (const auto& test : tests) {
      Checker check;
      check.isa = table.isa;
      const auto start = std::chrono::steady_clock::now();
      test.run(table, check);
      const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      std::printf("%-12s %-10s %8ld checks %4d failures  %.2f s\n", table.isa, test.name, check.checks(), check.failures(), seconds);
      failures += check.failures();
    }
  }
  Checker selection;
  selection.isa = "select";
  selection.expect(std::string_view(quire::select_kernels("portable").isa) == "portable", "forcing a table");
  selection.expect(quire::select_kernels().isa == quire::available_kernels().front(), "best table first");
  bool refused = false;
  try {
    quire::select_kernels("no-such-isa");
  } catch (const std::invalid_argument&) {
    refused = true;
  }
  selection.expect(refused, "an unknown table is refused");
  failures += selection.failures();
  std::printf(failures ? "FAILED: %d\n" : "all passed\n", failures);
  return failures ? 1 : 0;
}
