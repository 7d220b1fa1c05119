// What this machine can do at best, measured now with a team of threads: the denominators of benchmarks.
#pragma once

namespace quire {

struct MachineLimits {
  double read_bytes_per_s = 0.0;  // every thread reads four sequential streams from memory
  double flops_per_s = 0.0;       // float32 multiply-adds in registers, two operations each
};

// Takes about a second and 256 MiB. The best of several rounds: neighbours only ever take away.
MachineLimits measure_limits(int num_threads);

}  // namespace quire
