// What this machine can do at best, measured now with a team of threads: the denominators of benchmarks.
#pragma once

#include <string_view>

namespace quire {

struct MachineLimits {
  double read_bytes_per_s = 0.0;           // every thread reads four sequential streams from memory
  double single_stream_bytes_per_s = 0.0;  // every thread reads one
  double flops_per_s = 0.0;                // float32 multiply-adds in registers, two operations each
  double bf16_flops_per_s = 0.0;           // the same of bfloat16 pairs added to float32; 0 = no such instruction
  double int8_ops_per_s = 0.0;             // of 8-bit integers added to 32-bit ones; 0 = no such instruction
};

// Takes about a second and 256 MiB. The best of several rounds: neighbours only ever take away.
// kernels: a kernel set's name, for the instructions it uses alone; "" = all that the processor has.
MachineLimits measure_limits(int num_threads, std::string_view kernels = "");

}  // namespace quire
