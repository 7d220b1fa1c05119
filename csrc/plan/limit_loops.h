// The loops whose speed is a limit of the machine, each with the widest instructions there are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace quire {

// Multiply-adds over accumulators in registers: `iterations` times `operations` (a multiply and an add are two).
struct ArithmeticLoop {
  uint64_t (*run)(int64_t iterations, int seed) = nullptr;  // null = the processor has no such instruction
  double operations = 0.0;                                  // of one iteration
};

struct LimitLoops {
  uint64_t (*read_four_streams)(const std::byte* data, int64_t bytes) = nullptr;
  uint64_t (*read_one_stream)(const std::byte* data, int64_t bytes) = nullptr;
  ArithmeticLoop f32;
  ArithmeticLoop bf16;  // products of bfloat16 added to float32
  ArithmeticLoop int8;  // products of 8-bit integers added to 32-bit ones, exactly
};

// The loops for the processor this runs on, or for as much of it as the kernels of that name use.
LimitLoops limit_loops(std::string_view kernels = "");

}  // namespace quire
