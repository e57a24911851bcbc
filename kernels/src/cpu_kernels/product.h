// Small matrix products whose operands lie in the caches, in float32.
#pragma once

#include "vectors.h"

// Rows and vectors of an output tile: with a row of b they just fit the registers.
#if defined(__AVX512F__)
constexpr int TILE_ROWS = 6, TILE_VECTORS = 4;
#else
constexpr int TILE_ROWS = 6, TILE_VECTORS = 2;
#endif

struct Rows {  // a matrix whose columns lie side by side
    float* data;
    int64_t stride;
};

struct Matrix {  // of any strides
    const float* data;
    int64_t row, column;
};

template <int M, int N>
inline void tile(int64_t k, Matrix a, Rows b, Rows c, bool add) {
    Vector sums[M][N];
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) sums[m][n] = add ? load(c.data + m * c.stride + n * WIDTH) : Vector{};
    for (int64_t i = 0; i < k; i++) {
        Vector row[N];
        for (int n = 0; n < N; n++) row[n] = load(b.data + i * b.stride + n * WIDTH);
        for (int m = 0; m < M; m++) {
            const float value = a.data[m * a.row + i * a.column];
            for (int n = 0; n < N; n++) sums[m][n] += value * row[n];
        }
    }
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) store(c.data + m * c.stride + n * WIDTH, sums[m][n]);
}

template <int N, int M = TILE_ROWS>
inline void column_of_tiles(int64_t m, int64_t k, Matrix a, Rows b, Rows c, bool add) {
    for (; m >= M; m -= M) {
        tile<M, N>(k, a, b, c, add);
        a.data += M * a.row;
        c.data += M * c.stride;
    }
    if constexpr (M > 1)
        if (m > 0) column_of_tiles<N, M - 1>(m, k, a, b, c, add);
}

// c[m, n] = a[m, k] b[k, n], or += with `add`. n is a multiple of WIDTH.
template <int N = TILE_VECTORS>
inline void product(int64_t m, int64_t n, int64_t k, Matrix a, Rows b, Rows c, bool add) {
    for (; n >= N * WIDTH; n -= N * WIDTH) {
        column_of_tiles<N>(m, k, a, b, c, add);
        b.data += N * WIDTH;
        c.data += N * WIDTH;
    }
    if constexpr (N > 1)
        if (n > 0) product<N - 1>(m, n, k, a, b, c, add);
}
