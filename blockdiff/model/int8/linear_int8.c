/* y = x W^T + b with weights of 4 to 7 bits and int8 activations, accumulated in int32.
 *
 * Sixteen output rows form a tile; byte i of a 64-byte chunk belongs to row i / 4, so that one
 * instruction adds four products to each of the sixteen sums. Activations are quantized per position
 * and fold of 128 inputs, or group of 32 where their number is no multiple of that. A fold of 256
 * would save nothing more, and cost quality: some inputs are hundreds of times as large as others.
 * What a row of y holds does not depend on how many rows are computed together: integer sums are
 * exact, float operations come in one order.
 *
 * Formats of a tile over a stretch of inputs (see packing.py, which packs them):
 *   Q4  256 inputs, GGUF's Q4_K: w = d * scale[g] * q - dmin * min[g], g counts groups of 32
 *       f16 d[16], f16 dmin[16], u8 scale[8][16], u8 min[8][16], u4 q[8][4][128]     2,368 bytes
 *   Q6  256 inputs, GGUF's Q6_K: w = d * scale[g] * (q - 32), g counts groups of 16
 *       f16 d[16], 32 bytes of padding, s8 scale[16][16], 16 times {u4 low[2][128], u2 high[256]} 3,392
 *   Q7  32 inputs: w = scale * q - min, q of 0 to 127
 *       f16 scale[16], f16 min[16], u8 q[8][64]                                         576 bytes
 */

#include "linear_int8.h"

#include "lanes.h"

enum { Q4 = 4, Q6 = 6, Q7 = 7 };
/* Bytes by which memory is asked for ahead of its use: arithmetic must not wait for it. */
#ifndef AHEAD
#define AHEAD 4096
#endif
enum { Q4_BYTES = 2368, Q6_BYTES = 3392, Q7_BYTES = 576 };

/* --- activations -------------------------------------------------------------------------------- */

/* The operand's rows from one on, as they are read. */
typedef struct {
    const int8_t *q;
    const float *scale, *sum;
    const int16_t *total;
    const int32_t *low;
} activations;

int64_t blockdiff_scratch(int64_t m, int64_t k) {
    return (m * k + m * (k / GROUP) * 18 + 63) / 64 * 64;
}

operand operand_in(uint8_t *memory, int64_t m, int64_t k) {
    int64_t groups = m * (k / GROUP);
    float *scale = (float *)memory;
    int32_t *low = (int32_t *)(scale + 2 * groups);
    int16_t *total = (int16_t *)(low + 2 * groups);
    return (operand){k, (int8_t *)(total + groups), scale, scale + groups, total, low};
}

void quantize(const operand *to, int64_t row, int64_t first, const float *x, int64_t n) {
    const int64_t whole = to->k % FOLD ? GROUP : FOLD;
    int64_t group = (row * to->k + first) / GROUP;
    int8_t *q = to->q + row * to->k + first;
    for (const float *end = x + n; x < end; x += whole) {
        vf most = vf_zero();
        for (int64_t i = 0; i < whole; i += LANES) most = vf_max(most, vf_abs(vf_load(x + i)));
        const float largest = vf_most(most), step = largest / 127.0f;
        const vf inverse = vf_all(largest > 0 ? 127.0f / largest : 0.0f);
        for (int64_t i = 0; i < whole; i += GROUP, q += GROUP, group++) {
            vf a = vf_mul(vf_load(x + i), inverse), b = vf_mul(vf_load(x + i + LANES), inverse);
            vi first_half = vi_trunc(vf_add(a, vf_half_away(a)));
            vi second_half = vi_trunc(vf_add(b, vf_half_away(b)));
            vi_store_s8(q, first_half);
            vi_store_s8(q + LANES, second_half);
            int32_t one = vi_sum(first_half), two = vi_sum(second_half);
            to->scale[group] = step;
            to->sum[group] = step * (float)(one + two);
            to->total[group] = (int16_t)(one + two);
            to->low[2 * group] = -32 * one;
            to->low[2 * group + 1] = -32 * two;
        }
    }
}

INLINE int32_t four(const int8_t *p) {
    int32_t x;
    memcpy(&x, p, 4);
    return x;
}

INLINE int32_t two(const int16_t *p) {
    int32_t x;
    memcpy(&x, p, 4);
    return x;
}

/* --- one tile times N positions ------------------------------------------------------------------ */

#define POSITIONS UNROLLED for (int p = 0; p < N; p++)

INLINE void tile_q4(const uint8_t *w, int64_t k, activations a, vf *sum, const int N) {
    const int64_t groups = k / GROUP;
    for (int64_t b = 0; b < k / SUPER; b++, w += Q4_BYTES) {
        const vf d = vf_half(w), d_least = vf_half(w + 32);
        for (int first = 0; first < 8; first += FOLD / GROUP) {
            vi dot[8];
            vf scaled[8];
            POSITIONS dot[p] = vi_all(0);
            UNROLLED for (int g = first; g < first + FOLD / GROUP; g += 2) {
                vi least = vi_pairs(w + 192 + g * ROWS, w + 192 + (g + 1) * ROWS);
                POSITIONS dot[p] = vi_dot_pairs(dot[p], least, two(a.total + p * groups + g));
            }
            POSITIONS {
                vf step = vf_mul(d_least, vf_all(a.scale[p * groups + first]));
                sum[p] = vf_fnma(vf_int(dot[p]), step, sum[p]);
                scaled[p] = vf_zero();
            }
            for (int g = first; g < first + FOLD / GROUP; g++, a.q += GROUP) {
                const uint8_t *chunk = w + 320 + g * 256;
                POSITIONS dot[p] = vi_all(0);
                UNROLLED for (int i = 0; i < 4; i++) {
                    if (N > 1) __builtin_prefetch(chunk + 64 * i + AHEAD);
                    vi pair = vi_load(chunk + 64 * i);
                    vi even = vi_bits(pair, 15), odd = vi_bits(vi_right(pair, 4), 15);
                    POSITIONS dot[p] = vi_dot(dot[p], even, four(a.q + p * k + 8 * i));
                    POSITIONS dot[p] = vi_dot(dot[p], odd, four(a.q + p * k + 8 * i + 4));
                }
                const vf scale = vf_u8(w + 64 + g * ROWS);
                POSITIONS scaled[p] = vf_fma(vf_int(dot[p]), scale, scaled[p]);
            }
            POSITIONS {
                vf step = vf_mul(d, vf_all(a.scale[p * groups + first]));
                sum[p] = vf_fma(scaled[p], step, sum[p]);
            }
        }
        a.scale += 8;
        a.total += 8;
    }
}

INLINE void tile_q6(const uint8_t *w, int64_t k, activations a, vf *sum, const int N) {
    const int64_t groups = k / GROUP;
    for (int64_t b = 0; b < k / SUPER; b++, w += Q6_BYTES) {
        const vf d = vf_half(w);
        for (int first = 0; first < 16; first += FOLD / 16) {
            vf scaled[8];
            POSITIONS scaled[p] = vf_zero();
            for (int h = first; h < first + FOLD / 16; h++) {
                const uint8_t *low = w + 320 + h * 192, *high = low + 128;
                __builtin_prefetch(low + AHEAD);
                __builtin_prefetch(low + 64 + AHEAD);
                __builtin_prefetch(high + AHEAD);
                vi one = vi_load(low), other = vi_load(low + 64), top = vi_load(high);
                vi weights[4] = {
                    vi_or(vi_bits(one, 15), vi_left(vi_bits(top, 0x03), 4)),
                    vi_or(vi_bits(vi_right(one, 4), 15), vi_left(vi_bits(top, 0x0c), 2)),
                    vi_or(vi_bits(other, 15), vi_bits(top, 0x30)),
                    vi_or(vi_bits(vi_right(other, 4), 15), vi_right(vi_bits(top, 0xc0), 2)),
                };
                vi dot[8];
                POSITIONS dot[p] = vi_all(a.low[p * 2 * groups + h]);
                UNROLLED for (int i = 0; i < 4; i++)
                    POSITIONS dot[p] = vi_dot(dot[p], weights[i], four(a.q + p * k + h * 16 + 4 * i));
                const vf scale = vf_s8(w + 64 + h * ROWS);
                POSITIONS scaled[p] = vf_fma(vf_int(dot[p]), scale, scaled[p]);
            }
            POSITIONS {
                vf step = vf_mul(d, vf_all(a.scale[p * groups + first / 2]));
                sum[p] = vf_fma(scaled[p], step, sum[p]);
            }
        }
        a.q += SUPER;
        a.scale += 8;
        a.low += 16;
    }
}

INLINE void tile_q7(const uint8_t *w, int64_t k, activations a, vf *sum, const int N) {
    const int64_t groups = k / GROUP;
    for (int64_t g = 0; g < groups; g++, w += Q7_BYTES) {
        vi dot[8];
        POSITIONS dot[p] = vi_all(0);
        UNROLLED for (int i = 0; i < 8; i++) {
            __builtin_prefetch(w + 64 + 64 * i + AHEAD);
            vi weights = vi_load(w + 64 + 64 * i);
            POSITIONS dot[p] = vi_dot(dot[p], weights, four(a.q + p * k + g * GROUP + 4 * i));
        }
        vf scale = vf_half(w), least = vf_half(w + 32);
        POSITIONS {
            vf step = vf_mul(scale, vf_all(a.scale[p * groups + g]));
            sum[p] = vf_fma(vf_int(dot[p]), step, sum[p]);
            sum[p] = vf_fnma(least, vf_all(a.sum[p * groups + g]), sum[p]);
        }
    }
}

INLINE void tile(int kind, const uint8_t *w, int64_t k, activations a, float *y, int64_t stride,
                 const float *bias, int rows, int add, const int N) {
    vf sum[8];
    POSITIONS sum[p] = vf_zero();
    if (kind == Q4) tile_q4(w, k, a, sum, N);
    else if (kind == Q6) tile_q6(w, k, a, sum, N);
    else tile_q7(w, k, a, sum, N);
    for (int p = 0; p < N; p++) {
        float out[ROWS];
        vf_store(out, sum[p]);
        float *to = y + p * stride;
        if (bias)
            for (int r = 0; r < rows; r++) out[r] += bias[r];
        if (add)
            for (int r = 0; r < rows; r++) to[r] += out[r];
        else
            for (int r = 0; r < rows; r++) to[r] = out[r];
    }
}

/* --- whole matrices ------------------------------------------------------------------------------ */

static int64_t tile_bytes(int64_t kind, int64_t k) {
    if (kind == Q4) return k / SUPER * Q4_BYTES;
    if (kind == Q6) return k / SUPER * Q6_BYTES;
    return k / GROUP * Q7_BYTES;
}

static int64_t tiles_of(const part *p) { return (p->n + ROWS - 1) / ROWS; }

int64_t matrix_rows(const matrix *w) {
    int64_t rows = 0;
    for (int64_t i = 0; i < w->n_parts; i++) rows += w->parts[i].n;
    return rows;
}

int64_t matrix_tiles(const matrix *w) {
    int64_t tiles = 0;
    for (int64_t i = 0; i < w->n_parts; i++) tiles += tiles_of(w->parts + i);
    return tiles;
}

static void one_tile(const part *p, int64_t t, const operand *x, int64_t row, int64_t m, float *y,
                     int64_t stride, int add) {
    int rows = (int)(p->n - t * ROWS < ROWS ? p->n - t * ROWS : ROWS);
    const uint8_t *w = p->packed + t * tile_bytes(p->kind, x->k);
    const float *bias = p->bias ? p->bias + t * ROWS : NULL;
    const int64_t k = x->k, end = row + m;
#define RUN(N)                                                                                     \
    {                                                                                              \
        activations a = {x->q + row * k, x->scale + row * (k / GROUP), x->sum + row * (k / GROUP), \
                         x->total + row * (k / GROUP), x->low + row * (k / 16)};                   \
        tile((int)p->kind, w, k, a, y, stride, bias, rows, add, N);                                \
        row += N;                                                                                  \
        y += N * stride;                                                                           \
    }
    while (end - row >= 8) RUN(8)
    switch (end - row) {
        case 7: RUN(7) break;
        case 6: RUN(6) break;
        case 5: RUN(5) break;
        case 4: RUN(4) break;
        case 3: RUN(3) break;
        case 2: RUN(2) break;
        case 1: RUN(1) break;
    }
#undef RUN
}

void multiply(const matrix *w, int64_t first, int64_t last, const operand *x, int64_t row,
              int64_t rows, float *y, int64_t stride, int add) {
    int64_t seen = 0;
    for (int64_t i = 0; i < w->n_parts && seen < last; i++) {
        const part *p = w->parts + i;
        int64_t tiles = tiles_of(p);
        for (int64_t t = first > seen ? first - seen : 0; t < tiles && seen + t < last; t++)
            one_tile(p, t, x, row, rows, y + t * ROWS, stride, add);
        seen += tiles;
        y += p->n;
    }
}

/* --- whole matrices, in threads ------------------------------------------------------------------ */

typedef struct {
    matrix w;
    operand x;
    const float *in;
    float *y;
    int64_t m, stride, tiles;
    int64_t next; /* work not handed out yet */
} job;

static void quantize_some(void *argument) {
    job *j = argument;
    for (;;) {
        int64_t row = __atomic_fetch_add(&j->next, 1, __ATOMIC_RELAXED);
        if (row >= j->m) return;
        quantize(&j->x, row, 0, j->in + row * j->x.k, j->x.k);
    }
}

enum { CHUNK = 4 }; /* tiles handed out at a time */

static void multiply_some(void *argument) {
    job *j = argument;
    for (;;) {
        int64_t first = CHUNK * __atomic_fetch_add(&j->next, 1, __ATOMIC_RELAXED);
        if (first >= j->tiles) return;
        multiply(&j->w, first, first + CHUNK, &j->x, 0, j->m, j->y, j->stride, 0);
    }
}

static void run(parallel fork, unsigned threads, void (*work)(void *), job *j) {
    j->next = 0;
    if (fork && threads > 1) fork(work, j, threads, 0);
    else work(j);
}

const char *blockdiff_backend(void) { return BACKEND; }

/* y (m, rows of W) = x (m, k) W^T + b; k is a multiple of 32, with Q4 and Q6 of 256. `scratch` has
 * `blockdiff_scratch(m, k)` bytes. */
void blockdiff_linear(const part *parts, int64_t n_parts, const float *x, int64_t m, int64_t k,
                      float *y, uint8_t *scratch, parallel fork, unsigned threads) {
    matrix w = {parts, n_parts};
    int64_t stride = matrix_rows(&w);
    job j = {w, operand_in(scratch, m, k), x, y, m, stride, matrix_tiles(&w), 0};
    run(fork, m * k > 65536 ? threads : 1, quantize_some, &j);
    /* Waking a thread takes longer than a small product. */
    run(fork, m * k * stride > 1000000 ? threads : 1, multiply_some, &j);
}

/* One row of W as float32, k of them. */
void blockdiff_row(int64_t kind, const uint8_t *packed, int64_t k, int64_t row, float *out) {
    const uint8_t *w = packed + row / ROWS * tile_bytes(kind, k);
    int r = (int)(row % ROWS);
    float d[ROWS], fine[ROWS], low[ROWS], least[ROWS];
    for (int64_t i = 0; i < k; i++) {
        int64_t in = kind == Q7 ? i % GROUP : i % SUPER;
        const uint8_t *block = w + (kind == Q4   ? i / SUPER * Q4_BYTES
                                    : kind == Q6 ? i / SUPER * Q6_BYTES
                                                 : i / GROUP * Q7_BYTES);
        int byte = r * 4 + (int)(in % 4), shift = in % 8 < 4 ? 0 : 4;
        if (i % 16 == 0) {
            vf_store(d, vf_half(block));
            if (kind != Q6) vf_store(low, vf_half(block + 32));
            if (kind == Q4) vf_store(fine, vf_u8(block + 64 + in / 32 * ROWS));
            if (kind == Q4) vf_store(least, vf_u8(block + 192 + in / 32 * ROWS));
            if (kind == Q6) vf_store(fine, vf_s8(block + 64 + in / 16 * ROWS));
        }
        if (kind == Q4) {
            float q = (float)(block[320 + in / 8 * 64 + byte] >> shift & 15);
            out[i] = d[r] * fine[r] * q - low[r] * least[r];
        } else if (kind == Q6) {
            const uint8_t *group = block + 320 + in / 16 * 192;
            int nibble = group[in % 16 / 8 * 64 + byte] >> shift & 15;
            int high = group[128 + byte] >> in % 16 / 4 * 2 & 3;
            out[i] = d[r] * fine[r] * (float)((high << 4 | nibble) - 32);
        } else {
            out[i] = d[r] * (float)block[64 + in / 4 * 64 + byte] - low[r];
        }
    }
}
