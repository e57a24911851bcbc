// Vectors as wide as the CPU's, by GCC's and Clang's vector extensions.
#pragma once

#include <cmath>
#include <cstdint>
#include <utility>

#if defined(__AVX512F__)
constexpr int WIDTH = 16;
#elif defined(__AVX__)
constexpr int WIDTH = 8;
#else
constexpr int WIDTH = 4;
#endif

// Read and written at any address of floats.
typedef float Vector __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
typedef int32_t Integers __attribute__((vector_size(4 * WIDTH)));

inline Vector load(const float* x) { return *reinterpret_cast<const Vector*>(x); }
inline void store(float* x, Vector v) { *reinterpret_cast<Vector*>(x) = v; }

inline float sum(Vector x) {
    float total = 0;
    for (int i = 0; i < WIDTH; i++) total += x[i];
    return total;
}

inline float largest(Vector x) {
    float most = x[0];
    for (int i = 1; i < WIDTH; i++) most = x[i] > most ? x[i] : most;
    return most;
}

// Of a and b, one after the other, the elements at LANES.
template <int... LANES>
inline Vector elements(Vector a, Vector b) {
#ifdef __clang__
    return __builtin_shufflevector(a, b, LANES...);
#else  // GCC has that from version 12 only
    return __builtin_shuffle(a, b, Integers{LANES...});
#endif
}

// Swaps the squares of STEP x STEP off the diagonal in every square of twice the side.
template <int STEP, int... LANES>
inline void swap_squares(Vector* block, std::integer_sequence<int, LANES...>) {
    for (int i = 0; i < WIDTH; i++) {
        if (i & STEP) continue;
        const Vector a = block[i], b = block[i + STEP];
        block[i] = elements<(LANES & STEP ? WIDTH + LANES - STEP : LANES)...>(a, b);
        block[i + STEP] = elements<(LANES & STEP ? WIDTH + LANES : LANES + STEP)...>(a, b);
    }
}

template <int STEP = 1>
inline void transpose_block(Vector* block) {
    swap_squares<STEP>(block, std::make_integer_sequence<int, WIDTH>());
    if constexpr (2 * STEP < WIDTH) transpose_block<2 * STEP>(block);
}

// e^x for x <= 0, to 2 units in the last place; 0 below -87, where float32 has no normal numbers. The
// polynomial is Cephes' (expf).
inline Vector exponential(Vector x) {
    const Vector lowest = Vector{} - 87.0f;
    const Vector bounded = x < lowest ? lowest : x;
    const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    const Vector n = (bounded * 1.44269504088896341f + magic) - magic;
    const Vector r = bounded - n * 0.693359375f + n * 2.12194440e-4f;
    Vector p = Vector{} + 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const Integers power = (__builtin_convertvector(n, Integers) + 127) << 23;
    return x < lowest ? Vector{} : p * reinterpret_cast<const Vector&>(power);
}
