// Work shared by torch's own OpenMP threads: after each operation they stay busy for a while, waiting for the
// next, and others would have to share the cores with them.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <new>

// What compilers make of "omp parallel" for GNU's OpenMP. Found in torch's library when this one is loaded: a
// second OpenMP would have threads of its own.
extern "C" void GOMP_parallel(void (*work)(void*), void* data, unsigned threads, unsigned flags);

// Calls work(part, state) for every part below `parts`, on up to `threads` threads with a state of their own.
// Returns 0, or 1 where memory has run out.
template <typename State, typename Work>
int64_t in_threads(int64_t parts, int64_t threads, State state, Work work) {
    std::atomic<int64_t> next{0}, failed{0};
    auto serve = [&] {
        try {
            auto own = state();
            for (int64_t part; (part = next++) < parts;) work(part, own);
        } catch (const std::bad_alloc&) {
            failed = 1;
        }
    };
    const auto call = [](void* data) { (*static_cast<decltype(serve)*>(data))(); };
    const int64_t most = std::min(threads, parts);
    if (most > 1)
        GOMP_parallel(call, &serve, static_cast<unsigned>(most), 0);
    else
        serve();
    return failed;
}
