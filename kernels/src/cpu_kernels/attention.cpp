// Attention over packed sequences in float32, forward and backward, with the rotation of q and k inside.
//
// A head of a sequence is copied out, rotated, next to its transposed keys; then blocks of queries meet chunks
// of the keys that they see. Probabilities are computed again in the backward pass, from the log-sum-exp
// (FlashAttention-2, arXiv 2307.08691, algorithms 1 and 2). Each key/value head of each sequence is one
// thread's, so a result does not depend on their number.

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "product.h"
#include "threads.h"

// Queries of a block, a multiple of TILE_ROWS, and the most keys whose scores are held at a time.
constexpr int64_t QUERIES = 36, KEYS = 512;

// [tokens, heads, size] in memory; elements of a head lie side by side.
struct Heads {
    float* data;
    int64_t token, head;
    float* at(int64_t t, int64_t h) const { return data + t * token + h * head; }
};

struct Problem {
    Heads q, k, v;
    int64_t heads, groups, size;  // query heads, key/value heads, elements of a head, a multiple of WIDTH
    const int64_t* offsets;       // sequences + 1, from 0 to tokens
    int64_t sequences, tokens;
    const float *cosines, *sines;  // [positions, size / 2], or null
    int64_t window;                // keys to each side; -1 for all
    int64_t causal;
    float scale;
    int64_t threads;
    Heads out;
    float* lse;  // [heads, tokens]
};

struct Gradients {
    Heads dout;
    const float* dlse;  // [heads, tokens], or null
    Heads dq, dk, dv;
};

namespace {

int64_t whole_vectors(int64_t count) { return (count + WIDTH - 1) / WIDTH * WIDTH; }

// Between the rows of a transposed sequence. A chunk may begin anywhere and is read in whole vectors; an odd
// number of them spreads the rows over the caches' sets.
int64_t stride_of(int64_t length) { return (whole_vectors(length + WIDTH) / WIDTH | 1) * WIDTH; }

// A thread's own, for sequences up to one length; nothing is set to zero.
class Workspace {
    std::unique_ptr<float[]> memory;
    float* next;
    float* take(int64_t count) { return std::exchange(next, next + whole_vectors(count)); }

   public:
    float *q, *k, *v, *dout, *dq, *dk, *dv, *keys, *values, *scores, *slopes, *sums;

    Workspace(int64_t length, int64_t size) {
        const int64_t rows = whole_vectors(length * size), columns = whole_vectors(size * stride_of(length));
        const int64_t block = QUERIES * (KEYS + WIDTH);
        memory.reset(new float[7 * rows + 2 * columns + 2 * block + QUERIES * whole_vectors(size)]);
        next = memory.get();
        // What only one of the passes takes is never touched in the other, and then takes no memory.
        for (float** each : {&q, &k, &v}) *each = take(rows);
        keys = take(columns), scores = take(block), sums = take(QUERIES * size);
        for (float** each : {&dout, &dq, &dk, &dv}) *each = take(rows);
        values = take(columns), slopes = take(block);
    }
};

// The pair (x[d], x[d + size / 2]) turned by its position's angle, or back, times `factor`.
void rotate(const Problem& p, const float* x, int64_t position, bool back, float factor, float* out) {
    if (p.cosines == nullptr) {
        for (int64_t d = 0; d < p.size; d++) out[d] = factor * x[d];
        return;
    }
    const int64_t half = p.size / 2;
    const float *cosines = p.cosines + position * half, *sines = p.sines + position * half;
    const float sign = back ? -1.0f : 1.0f;
    for (int64_t d = 0; d < half; d++) {
        const float a = x[d], b = x[d + half], sine = sign * sines[d];
        out[d] = factor * (a * cosines[d] - b * sine);
        out[d + half] = factor * (b * cosines[d] + a * sine);
    }
}

// out[column, row] = x[row, column], with zeros behind the last row; columns are a multiple of WIDTH.
void transpose(const float* x, int64_t rows, int64_t columns, float* out, int64_t stride) {
    for (int64_t i = 0; i < stride; i += WIDTH)
        for (int64_t d = 0; d < columns; d += WIDTH) {
            Vector block[WIDTH];
            for (int64_t each = 0; each < WIDTH; each++)
                block[each] = i + each < rows ? load(x + (i + each) * columns + d) : Vector{};
            transpose_block(block);
            for (int64_t each = 0; each < WIDTH; each++) store(out + (d + each) * stride + i, block[each]);
        }
}

struct Range {
    int64_t first, last;  // without the last
};

// A sequence, as all of its heads see it.
struct Sequence {
    const Problem& p;
    int64_t begin, length;

    // Keys that some of the queries [first, first + count) see.
    Range keys_of_block(int64_t first, int64_t count) const {
        const int64_t low = p.window < 0 ? 0 : std::max<int64_t>(0, first - p.window);
        const int64_t ahead = p.causal ? 0 : p.window < 0 ? length : p.window;
        return {low, std::min(length, first + count + ahead)};
    }

    // Of the keys [from, from + count), counted from there, those that one query sees.
    Range keys_of_query(int64_t query, int64_t from, int64_t count) const {
        const Range seen = keys_of_block(query, 1);
        const int64_t first = std::max<int64_t>(0, seen.first - from);
        return {first, std::max(first, std::min(count, seen.last - from))};
    }

    // Scores of a query, from `from`: what it does not see has probability 0.
    void hide(float* scores, int64_t query, int64_t from, int64_t count) const {
        const Range seen = keys_of_query(query, from, count);
        std::fill(scores, scores + seen.first, -INFINITY);
        std::fill(scores + seen.last, scores + whole_vectors(count), -INFINITY);
    }

    void copy_in(Heads x, int64_t head, float* out) const {
        for (int64_t i = 0; i < length; i++) std::memcpy(out + i * p.size, x.at(begin + i, head), p.size * 4);
    }

    void rotate_in(Heads x, int64_t head, float factor, float* out) const {
        for (int64_t i = 0; i < length; i++) rotate(p, x.at(begin + i, head), i, false, factor, out + i * p.size);
    }

    void rotate_back(const float* x, float factor, Heads out, int64_t head) const {
        for (int64_t i = 0; i < length; i++) rotate(p, x + i * p.size, i, true, factor, out.at(begin + i, head));
    }
};

// Turns a row of scores into e^(score - peak), where `peak` grows to their largest; returns their sum.
float exponentials(float* scores, int64_t count, float& peak) {
    Vector most = Vector{} + peak;
    for (int64_t j = 0; j < count; j += WIDTH) {
        const Vector x = load(scores + j);
        most = x > most ? x : most;
    }
    peak = largest(most);
    // A query may see no key of this chunk, nor any before.
    const float shift = peak == -INFINITY ? 0.0f : peak;
    Vector total = {};
    for (int64_t j = 0; j < count; j += WIDTH) {
        const Vector x = exponential(load(scores + j) - shift);
        store(scores + j, x);
        total += x;
    }
    return sum(total);
}

void forward(const Problem& p, const Sequence& s, int64_t group, Workspace& w) {
    const int64_t n = s.length, size = p.size, stride = stride_of(n);
    float *q = w.q, *k = w.k, *v = w.v, *keys = w.keys, *scores = w.scores, *sums = w.sums;
    s.rotate_in(p.k, group, 1.0f, k);
    s.copy_in(p.v, group, v);
    transpose(k, n, size, keys, stride);
    const int64_t shared = p.heads / p.groups;
    for (int64_t head = group * shared; head < (group + 1) * shared; head++) {
        s.rotate_in(p.q, head, p.scale, q);
        for (int64_t first = 0; first < n; first += QUERIES) {
            const int64_t queries = std::min(QUERIES, n - first);
            const Range seen = s.keys_of_block(first, queries);
            float peaks[QUERIES], totals[QUERIES] = {};
            std::fill(peaks, peaks + QUERIES, -INFINITY);
            for (int64_t from = seen.first; from < seen.last; from += KEYS) {
                const int64_t count = std::min(KEYS, seen.last - from), wide = whole_vectors(count);
                const bool later = from > seen.first;
                product(queries, wide, size, {q + first * size, size, 1}, {keys + from, stride}, {scores, wide},
                        false);
                for (int64_t i = 0; i < queries; i++) {
                    s.hide(scores + i * wide, first + i, from, count);
                    const float before = peaks[i];
                    const float total = exponentials(scores + i * wide, wide, peaks[i]);
                    const float kept = before == peaks[i] ? 1.0f : std::exp(before - peaks[i]);
                    totals[i] = totals[i] * kept + total;
                    if (later)
                        for (int64_t d = 0; d < size; d++) sums[i * size + d] *= kept;
                }
                product(queries, size, count, {scores, wide, 1}, {v + from * size, size}, {sums, size}, later);
            }
            for (int64_t i = 0; i < queries; i++) {
                const int64_t token = s.begin + first + i;
                float* out = p.out.at(token, head);
                for (int64_t d = 0; d < size; d++) out[d] = sums[i * size + d] / totals[i];
                p.lse[head * p.tokens + token] = peaks[i] + std::log(totals[i]);
            }
        }
    }
}

void backward(const Problem& p, const Gradients& g, const Sequence& s, int64_t group, Workspace& w) {
    const int64_t n = s.length, size = p.size, stride = stride_of(n);
    float *q = w.q, *k = w.k, *dout = w.dout, *dq = w.dq, *dk = w.dk, *dv = w.dv;
    float *keys = w.keys, *values = w.values, *scores = w.scores, *slopes = w.slopes;
    s.copy_in(p.v, group, k);
    transpose(k, n, size, values, stride);
    s.rotate_in(p.k, group, 1.0f, k);
    transpose(k, n, size, keys, stride);
    std::fill(dk, dk + n * size, 0.0f);
    std::fill(dv, dv + n * size, 0.0f);
    const int64_t shared = p.heads / p.groups;
    for (int64_t head = group * shared; head < (group + 1) * shared; head++) {
        s.rotate_in(p.q, head, p.scale, q);
        s.copy_in(g.dout, head, dout);
        for (int64_t first = 0; first < n; first += QUERIES) {
            const int64_t queries = std::min(QUERIES, n - first);
            const Range seen = s.keys_of_block(first, queries);
            float deltas[QUERIES];
            for (int64_t i = 0; i < queries; i++) {
                const int64_t token = s.begin + first + i;
                const float *out = p.out.at(token, head), *slope = dout + (first + i) * size;
                float delta = g.dlse == nullptr ? 0.0f : -g.dlse[head * p.tokens + token];
                for (int64_t d = 0; d < size; d++) delta += out[d] * slope[d];
                deltas[i] = delta;
            }
            for (int64_t from = seen.first; from < seen.last; from += KEYS) {
                const int64_t count = std::min(KEYS, seen.last - from), wide = whole_vectors(count);
                product(queries, wide, size, {q + first * size, size, 1}, {keys + from, stride}, {scores, wide},
                        false);
                product(queries, wide, size, {dout + first * size, size, 1}, {values + from, stride},
                        {slopes, wide}, false);
                for (int64_t i = 0; i < queries; i++) {
                    float *row = scores + i * wide, *slope = slopes + i * wide;
                    const float lse = p.lse[head * p.tokens + s.begin + first + i];
                    s.hide(row, first + i, from, count);
                    for (int64_t j = 0; j < wide; j += WIDTH) {
                        const Vector x = exponential(load(row + j) - lse);
                        store(row + j, x);
                        store(slope + j, x * (load(slope + j) - deltas[i]));
                    }
                }
                product(count, size, queries, {scores, 1, wide}, {dout + first * size, size},
                        {dv + from * size, size}, true);
                product(count, size, queries, {slopes, 1, wide}, {q + first * size, size},
                        {dk + from * size, size}, true);
                product(queries, size, count, {slopes, wide, 1}, {k + from * size, size},
                        {dq + first * size, size}, from > seen.first);
            }
        }
        s.rotate_back(dq, p.scale, g.dq, head);
    }
    s.rotate_back(dk, 1.0f, g.dk, group);
    for (int64_t i = 0; i < n; i++) std::memcpy(g.dv.at(s.begin + i, group), dv + i * size, size * 4);
}

template <typename Work>
int64_t by_sequence_and_group(const Problem& p, Work work) {
    int64_t longest = 0;
    for (int64_t i = 0; i < p.sequences; i++) longest = std::max(longest, p.offsets[i + 1] - p.offsets[i]);
    const auto state = [&] { return Workspace(longest, p.size); };
    return in_threads(p.sequences * p.groups, p.threads, state, [&](int64_t part, Workspace& own) {
        const int64_t begin = p.offsets[part / p.groups], end = p.offsets[part / p.groups + 1];
        if (end > begin) work(Sequence{p, begin, end - begin}, part % p.groups, own);
    });
}

}  // namespace

extern "C" int64_t attention_forward(const Problem* p) {
    return by_sequence_and_group(
        *p, [&](const Sequence& s, int64_t group, Workspace& own) { forward(*p, s, group, own); });
}

extern "C" int64_t attention_backward(const Problem* p, const Gradients* g) {
    return by_sequence_and_group(
        *p, [&](const Sequence& s, int64_t group, Workspace& own) { backward(*p, *g, s, group, own); });
}
