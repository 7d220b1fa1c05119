# Kernel sources with their per-file flags. The top-level CMakeLists includes this file and links quire_kernels.
# Every ISA lives in one translation unit that is compiled for it; nothing else may use ISA flags, and these
# units stay out of link-time optimization, or the linker could pick an AVX copy of a shared inline function.
set(QUIRE_KERNELS_DIR ${CMAKE_CURRENT_LIST_DIR})
set(QUIRE_KERNEL_SOURCES ${QUIRE_KERNELS_DIR}/isa/select.cpp ${QUIRE_KERNELS_DIR}/isa/portable/table.cpp)
set(QUIRE_KERNEL_DEFINITIONS "")

# Sanitized builds do not need speed, and instrumented -O3 takes minutes.
set(QUIRE_KERNEL_OPTIMIZATION -O3)
if(QUIRE_SANITIZE)
  set(QUIRE_KERNEL_OPTIMIZATION -O1)
endif()
set(QUIRE_KERNEL_COMMON_FLAGS ${QUIRE_KERNEL_OPTIMIZATION} -fno-lto -ffp-contract=off -fno-math-errno -fno-trapping-math -Wno-psabi)
set_source_files_properties(${QUIRE_KERNELS_DIR}/isa/portable/table.cpp PROPERTIES
  COMPILE_OPTIONS "${QUIRE_KERNEL_COMMON_FLAGS}")

if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  list(APPEND QUIRE_KERNEL_SOURCES ${QUIRE_KERNELS_DIR}/isa/avx2/table.cpp)
  list(APPEND QUIRE_KERNEL_DEFINITIONS QUIRE_HAVE_AVX2=1)
  set_source_files_properties(${QUIRE_KERNELS_DIR}/isa/avx2/table.cpp PROPERTIES
    COMPILE_OPTIONS "${QUIRE_KERNEL_COMMON_FLAGS};-mavx2;-mfma;-mf16c")

  # AVX-512: the table "avx512", and three more that replace the linears their instructions are for.
  # gcc 12 takes the undefined operands of its own intrinsics for uninitialized ones.
  set(QUIRE_AVX512_FLAGS -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprfchw -mprefer-vector-width=256
    -Wno-uninitialized -Wno-maybe-uninitialized)
  list(APPEND QUIRE_KERNEL_SOURCES ${QUIRE_KERNELS_DIR}/isa/avx512/table.cpp ${QUIRE_KERNELS_DIR}/isa/avx512_vnni/table.cpp
       ${QUIRE_KERNELS_DIR}/isa/avx512_bf16/table.cpp ${QUIRE_KERNELS_DIR}/isa/amx/table.cpp)
  list(APPEND QUIRE_KERNEL_DEFINITIONS QUIRE_HAVE_AVX512=1)
  set_source_files_properties(${QUIRE_KERNELS_DIR}/isa/avx512/table.cpp PROPERTIES
    COMPILE_OPTIONS "${QUIRE_KERNEL_COMMON_FLAGS};${QUIRE_AVX512_FLAGS}")
  set_source_files_properties(${QUIRE_KERNELS_DIR}/isa/avx512_vnni/table.cpp PROPERTIES
    COMPILE_OPTIONS "${QUIRE_KERNEL_COMMON_FLAGS};${QUIRE_AVX512_FLAGS};-mavx512vnni")
  set_source_files_properties(${QUIRE_KERNELS_DIR}/isa/avx512_bf16/table.cpp PROPERTIES
    COMPILE_OPTIONS "${QUIRE_KERNEL_COMMON_FLAGS};${QUIRE_AVX512_FLAGS};-mavx512vnni;-mavx512bf16")
  set(QUIRE_AMX_FLAGS "${QUIRE_KERNEL_COMMON_FLAGS};${QUIRE_AVX512_FLAGS};-mavx512vnni;-mavx512bf16")
  set_source_files_properties(${QUIRE_KERNELS_DIR}/isa/amx/table.cpp PROPERTIES
    COMPILE_OPTIONS "${QUIRE_AMX_FLAGS};-mamx-tile;-mamx-int8;-mamx-bf16")
endif()

if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64|ARM64)$")
  list(APPEND QUIRE_KERNEL_DEFINITIONS QUIRE_HAVE_NEON=1)
  foreach(isa IN ITEMS "neon:armv8-a" "neon_dotprod:armv8.2-a+dotprod" "neon_i8mm:armv8.2-a+dotprod+i8mm")
    string(REGEX MATCH "^([^:]+):(.+)$" _ "${isa}")
    set(source ${QUIRE_KERNELS_DIR}/isa/${CMAKE_MATCH_1}/table.cpp)
    list(APPEND QUIRE_KERNEL_SOURCES ${source})
    set_source_files_properties(${source} PROPERTIES
      COMPILE_OPTIONS "${QUIRE_KERNEL_COMMON_FLAGS};-march=${CMAKE_MATCH_2}")
  endforeach()
endif()

# The isa.h of a table's own folder names its namespace, its vectors and its layouts.
foreach(source IN LISTS QUIRE_KERNEL_SOURCES)
  if(source MATCHES "isa/([a-z0-9_]+)/table\\.cpp$")
    set_source_files_properties(${source} PROPERTIES INCLUDE_DIRECTORIES ${QUIRE_KERNELS_DIR}/isa/${CMAKE_MATCH_1})
  endif()
endforeach()

add_library(quire_kernels OBJECT ${QUIRE_KERNEL_SOURCES})
target_compile_features(quire_kernels PUBLIC cxx_std_20)
target_compile_definitions(quire_kernels PRIVATE ${QUIRE_KERNEL_DEFINITIONS})
target_include_directories(quire_kernels PUBLIC ${QUIRE_KERNELS_DIR})
set_target_properties(quire_kernels PROPERTIES POSITION_INDEPENDENT_CODE ON INTERPROCEDURAL_OPTIMIZATION OFF
  CXX_VISIBILITY_PRESET hidden)
