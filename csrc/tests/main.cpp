// Compares every kernel of every table that this machine can run with naive loops in double precision.
//   kernel_test [TABLE[:TEST]...]   only these tables, and of a table only this test
#include <algorithm>
#include <array>
#include <chrono>
#include <stdexcept>

#include "harness.h"

#ifdef QUIRE_HAVE_AMX_MODEL
namespace quire::amx_model {
const KernelTable& table();
}
#endif

namespace {

struct Selected {
  const quire::KernelTable* table;
  std::string_view test;  // empty: all
};

// The named tables, or all that this machine can run and the model of AMX.
std::vector<Selected> tables_to_test(int argc, char** argv) {
  std::vector<Selected> tables;
  for (int i = 1; i < argc; ++i) {
    const std::string_view name = argv[i];
    const size_t colon = name.find(':');
    tables.push_back({&quire::select_kernels(name.substr(0, colon)), colon == name.npos ? "" : name.substr(colon + 1)});
  }
  if (!tables.empty()) return tables;
  for (std::string_view isa : quire::available_kernels()) tables.push_back({&quire::select_kernels(isa), ""});
#ifdef QUIRE_HAVE_AMX_MODEL
  const quire::CpuFeatures cpu = quire::detect_cpu();
  if (cpu.avx512_vnni && cpu.avx512_bf16) tables.push_back({&quire::amx_model::table(), ""});
  else std::printf("amx_model: this processor has no AVX-512 with VNNI and BF16: not run\n");
#endif
  return tables;
}

// What attention a table has, by cache dtype.
using AttentionRuns = std::array<quire::RangeKernel<quire::AttentionArgs>, quire::kCacheDTypes>;
AttentionRuns attention_runs(const quire::KernelTable& table) {
  AttentionRuns runs;
  for (size_t i = 0; i < runs.size(); ++i) runs[i] = table.attention[i].run;
  return runs;
}

}  // namespace

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  using namespace quire::testing;
  const struct {
    const char* name;
    Test run;
  } tests[] = {
      {"linear", test_linear}, {"rowwise", test_rowwise}, {"cache", test_cache}, {"attention", test_attention}};
  int failures = 0;
  long checks = 0;
  std::vector<AttentionRuns> tested;
  for (const Selected& selected : tables_to_test(argc, argv)) {
    const quire::KernelTable& table = *selected.table;
    for (const auto& test : tests) {
      if (!selected.test.empty() && selected.test != test.name) continue;
      // Tables that differ in their linears take everything else from another one.
      if (test.run != test_linear && std::find(tested.begin(), tested.end(), attention_runs(table)) != tested.end())
        continue;
      Checker check;
      check.isa = table.isa;
      const auto start = std::chrono::steady_clock::now();
      test.run(table, check);
      const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      std::printf("%-12s %-10s %8ld checks %4d failures  %.2f s\n", table.isa, test.name, check.checks(),
                  check.failures(), seconds);
      failures += check.failures();
      checks += check.checks();
    }
    if (selected.test.empty()) tested.push_back(attention_runs(table));
  }
  if (checks == 0) std::printf("FAIL no test of that name\n"), ++failures;
  Checker selection;
  selection.isa = "select";
  selection.expect(std::string_view(quire::select_kernels("portable").isa) == "portable", "forcing a table");
  selection.expect(quire::select_kernels().isa == quire::available_kernels().front(), "best table first");
  bool refused = false;
  try {
    quire::select_kernels("no-such-isa");
  } catch (const std::invalid_argument&) { refused = true; }
  selection.expect(refused, "an unknown table is refused");
  failures += selection.failures();
  std::printf(failures ? "FAILED: %d\n" : "all passed\n", failures);
  return failures ? 1 : 0;
}
