# Kernel sources with their per-file flags. The top-level CMakeLists includes this file and links quire_kernels.
# Every ISA lives in one translation unit that is compiled for it; nothing else may use ISA flags, and these
# units stay out of link-time optimization, or the linker could pick an AVX copy of a shared inline function.
set(QUIRE_KERNELS_DIR ${CMAKE_CURRENT_LIST_DIR})

# Sanitized builds do not need speed, and instrumented -O3 takes minutes.
set(QUIRE_KERNEL_OPTIMIZATION -O3)
if(QUIRE_SANITIZE)
  set(QUIRE_KERNEL_OPTIMIZATION -O1)
endif()
set(QUIRE_KERNEL_COMMON_FLAGS ${QUIRE_KERNEL_OPTIMIZATION} -fno-lto -ffp-contract=off -fno-math-errno -fno-trapping-math -Wno-psabi)

# A table for each row of isa/list.def that is for this architecture, compiled with the flags of its folder and with the
# isa.h there, which names its namespace, its vectors and its layouts.
set(QUIRE_ARCHITECTURE_x86_64 "^(x86_64|AMD64|amd64)$")
set(QUIRE_ARCHITECTURE_aarch64 "^(aarch64|arm64|ARM64)$")
set(QUIRE_ARCHITECTURE_any ".")
set(QUIRE_KERNEL_SOURCES ${QUIRE_KERNELS_DIR}/isa/cpu_features.cpp ${QUIRE_KERNELS_DIR}/isa/select.cpp)
file(STRINGS ${QUIRE_KERNELS_DIR}/isa/list.def QUIRE_ISA_ROWS REGEX "^QUIRE_ISA_ROW")
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${QUIRE_KERNELS_DIR}/isa/list.def)
foreach(row IN LISTS QUIRE_ISA_ROWS)
  string(REGEX MATCH "^QUIRE_ISA_ROW\\(([a-z0-9_]+), ([a-z0-9_]+), " _ "${row}")
  set(isa ${CMAKE_MATCH_1})
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "${QUIRE_ARCHITECTURE_${CMAKE_MATCH_2}}")
    set(folder ${QUIRE_KERNELS_DIR}/isa/${isa})
    file(STRINGS ${folder}/flags QUIRE_ISA_FLAGS_${isa} REGEX "^-")
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${folder}/flags)
    list(PREPEND QUIRE_ISA_FLAGS_${isa} ${QUIRE_KERNEL_COMMON_FLAGS})
    list(APPEND QUIRE_KERNEL_SOURCES ${folder}/table.cpp)
    set_source_files_properties(${folder}/table.cpp PROPERTIES
      COMPILE_OPTIONS "${QUIRE_ISA_FLAGS_${isa}}" INCLUDE_DIRECTORIES ${folder})
  endif()
endforeach()

add_library(quire_kernels OBJECT ${QUIRE_KERNEL_SOURCES})
target_compile_features(quire_kernels PUBLIC cxx_std_20)
target_include_directories(quire_kernels PUBLIC ${QUIRE_KERNELS_DIR})
set_target_properties(quire_kernels PROPERTIES POSITION_INDEPENDENT_CODE ON INTERPROCEDURAL_OPTIMIZATION OFF
  CXX_VISIBILITY_PRESET hidden)
