// Work divided among OpenMP's threads: each has a share of neighbouring units, and whoever is done
// takes from the others, since the system may take a processor away from any thread.
#pragma once

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

// For functions that only fetch memory ahead: GCC takes them for functions that do nothing, and leaves
// out calls that it has not put in place.
#define IN_PLACE __attribute__((always_inline)) inline

// Calls `start()` once on each thread, and what that returns with a unit and the one that this thread
// does next, -1 if it does not know of any.
template <class Start>
void share(int64_t units, const Start& start) {
  struct alignas(64) Share {
    std::atomic<int64_t> next;
    int64_t stop;
  };
  const int64_t threads = std::clamp<int64_t>(units, 1, omp_get_max_threads());
  std::vector<Share> shares(threads);
  for (int64_t t = 0; t < threads; ++t) {
    shares[t].next = units * t / threads;
    shares[t].stop = units * (t + 1) / threads;
  }
#pragma omp parallel num_threads(threads)
  {
    auto work = start();
    for (int64_t t = 0; t < threads; ++t) {
      Share& from = shares[(omp_get_thread_num() + t) % threads];
      for (int64_t unit; (unit = from.next.fetch_add(1, std::memory_order_relaxed)) < from.stop;)
        work(unit, unit + 1 < from.stop ? unit + 1 : -1);
    }
  }
}
