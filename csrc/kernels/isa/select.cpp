// Chooses among the tables of isa/list.def.
#include <stdexcept>
#include <string>

#include "isa/tables.h"
#include "kernel_table.h"

#if defined(__x86_64__) || defined(_M_X64)
#define QUIRE_ON_x86_64(...) __VA_ARGS__
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif
#else
#define QUIRE_ON_x86_64(...)
#endif
#ifdef __aarch64__
#define QUIRE_ON_aarch64(...) __VA_ARGS__
#else
#define QUIRE_ON_aarch64(...)
#endif
#define QUIRE_ON_any(...) __VA_ARGS__

namespace quire {

namespace {

#if defined(__x86_64__) || defined(_M_X64)
// Whether the kernel lets this process use AMX tile state; asking is how it is granted (Documentation/arch/x86/xstate.rst).
bool tiles_permitted() {
#ifdef __linux__
  constexpr long request_permission = 0x1023, tile_data = 18;
  static const bool granted = syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
  return granted;
#else
  return false;
#endif
}
#endif

struct NamedTable {
  std::string_view name;
  bool can_run = false;
  const KernelTable& (*table)() = nullptr;
};

// Every table of this architecture, in the order of the list.
std::vector<NamedTable> built_tables() {
  [[maybe_unused]] const CpuFeatures& cpu = detect_cpu();
#define QUIRE_ISA_ROW(name, architecture, can_run) QUIRE_ON_##architecture({#name, can_run, name::table}, )
  return {
#include "isa/list.def"
  };
#undef QUIRE_ISA_ROW
}

}  // namespace

std::vector<std::string_view> available_kernels() {
  std::vector<std::string_view> names;
  for (const NamedTable& named : built_tables())
    if (named.can_run) names.push_back(named.name);
  return names;
}

const KernelTable& select_kernels(std::string_view force) {
  std::string names;
  for (const NamedTable& named : built_tables()) {
    if (!named.can_run) continue;
    if (force.empty() || force == named.name) return named.table();
    names += (names.empty() ? "" : ", ") + std::string(named.name);
  }
  throw std::invalid_argument("no kernels named '" + std::string(force) + "' for this machine; available: " + names);
}

}  // namespace quire
