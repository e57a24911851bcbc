// Work shared by threads of one call.
#pragma once

#include <algorithm>
#include <atomic>
#include <exception>
#include <new>
#include <thread>
#include <vector>

// Calls work(part, state) for every part below `parts`, on up to `threads` threads with a state of their own.
// Returns 0, or 1 where memory has run out.
template <typename State, typename Work>
int64_t in_threads(int64_t parts, int64_t threads, State state, Work work) {
    std::atomic<int64_t> next{0}, failed{0};
    const auto serve = [&] {
        try {
            auto own = state();
            for (int64_t part; (part = next++) < parts;) work(part, own);
        } catch (const std::bad_alloc&) {
            failed = 1;
        }
    };
    std::vector<std::thread> others;
    try {
        for (int64_t i = 1; i < std::min(threads, parts); i++) others.emplace_back(serve);
    } catch (const std::exception&) {  // the system gives no more threads: those that there are do it all
    }
    serve();
    for (std::thread& each : others) each.join();
    return failed;
}
