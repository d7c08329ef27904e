/* Tiles of packed weights: sixteen output rows of W times some positions.
 *
 * Byte i of a 64-byte chunk belongs to row i / 4, so that one instruction adds four products to each
 * of the sixteen sums.
 *
 * Formats of a tile over a stretch of inputs (see packing.py, which packs them):
 *   Q4  256 inputs, GGUF's Q4_K: w = d * scale[g] * q - dmin * min[g], g counts groups of 32
 *       f16 d[16], f16 dmin[16], u8 scale[8][16], u8 min[8][16], u4 q[8][4][128]     2,368 bytes
 *   Q6  256 inputs, GGUF's Q6_K: w = d * scale[g] * (q - 32), g counts groups of 16
 *       f16 d[16], 32 bytes of padding, s8 scale[16][16], 16 times {u4 low[2][128], u2 high[256]} 3,392
 *   Q7  32 inputs: w = scale * q - min, q of 0 to 127
 *       f16 scale[16], f16 min[16], u8 q[8][64]                                         576 bytes
 */

#include "tiles.h"

#include "lanes.h"

enum { Q4 = 4, Q6 = 6, Q7 = 7 };
enum { Q4_BYTES = 2368, Q6_BYTES = 3392, Q7_BYTES = 576 };
/* Blocks from which on weights are unpacked once for all. */
#ifdef NARROW
enum { Q4_REPACKED = 5, Q6_REPACKED = 3 };
#else
enum { Q4_REPACKED = 3, Q6_REPACKED = 3 };
#endif
/* Bytes by which memory is asked for ahead of its use: arithmetic must not wait for it. */
#ifndef AHEAD
#define AHEAD 4096
#endif
#define ASK(p) __builtin_prefetch((p) + AHEAD)

/* --- activations -------------------------------------------------------------------------------- */

/* The operand from a row and a group on, as it is read. */
typedef struct {
    const int8_t *q;
    const float *scale, *sum;
    const int16_t *total;
    const int32_t *low;
} activations;

static activations from(const operand *x, int64_t row, int64_t group) {
    const int64_t i = group_at(x, row, group);
    return (activations){x->q + GROUP * i, x->scale + i, x->sum + i, x->total + 2 * i, x->low + 2 * i};
}

INLINE int32_t two(const int16_t *p) {
    int32_t x;
    memcpy(&x, p, 4);
    return x;
}

/* --- weights of 256 inputs, unpacked for several blocks of positions -------------------------------- */

typedef struct {
    _Alignas(64) uint8_t q[SUPER / 4][64]; /* four inputs of each row */
    uint8_t scale[16][64];
    uint8_t least[4][64]; /* pairs, of Q4 */
} unpacked;

INLINE vi low_bits(vi pair) { return vi_bits(pair, 15); }
INLINE vi high_bits(vi pair) { return vi_bits(vi_right(pair, 4), 15); }

/* Sixteen inputs of Q6 that begin at input 16 h. */
INLINE void q6_weights(const uint8_t *w, int h, vi *q) {
    const uint8_t *low = w + 320 + h * 192, *high = low + 128;
    ASK(low);
    ASK(low + 64);
    ASK(high);
    vi one = vi_load(low), other = vi_load(low + 64), top = vi_load(high);
    q[0] = vi_join(low_bits(one), vi_left(top, 4), 0x30);
    q[1] = vi_join(high_bits(one), vi_left(top, 2), 0x30);
    q[2] = vi_join(low_bits(other), top, 0x30);
    q[3] = vi_join(high_bits(other), vi_right(top, 2), 0x30);
}

INLINE vi q4_least(const uint8_t *w, int g) {
    return vi_pairs(w + 192 + g * ROWS, w + 192 + (g + 1) * ROWS);
}
/* How products are scaled. With sums of pairs a scale is a whole number, and `d` comes at the end of
 * a fold; with sums of fours it is a float that holds `d`. */
#ifdef NARROW
typedef vi factor;
INLINE factor q4_scale(const uint8_t *w, int g) {
    return vi_pairs(w + 64 + g * ROWS, w + 64 + g * ROWS);
}
INLINE factor q6_scale(const uint8_t *w, int h) {
    return vi_signed_pairs(w + 64 + h * ROWS, w + 64 + h * ROWS);
}
INLINE factor factor_load(const uint8_t *p) { return vi_load(p); }
INLINE void factor_store(uint8_t *p, factor a) { vi_store((int32_t *)p, a); }
#else
typedef vf factor;
INLINE factor q4_scale(const uint8_t *w, int g) {
    return vf_mul(vf_half(w), vf_u8(w + 64 + g * ROWS));
}
INLINE factor q6_scale(const uint8_t *w, int h) {
    return vf_mul(vf_half(w), vf_s8(w + 64 + h * ROWS));
}
INLINE factor factor_load(const uint8_t *p) { return vf_load((const float *)p); }
INLINE void factor_store(uint8_t *p, factor a) { vf_store((float *)p, a); }
#endif

static void unpack_q4(const uint8_t *w, unpacked *to) {
    for (int g = 0; g < 8; g++) {
        factor_store(to->scale[g], q4_scale(w, g));
        if (g % 2 == 0) vi_store((int32_t *)to->least[g / 2], q4_least(w, g));
    }
    for (int i = 0; i < SUPER / 8; i++) {
        const uint8_t *chunk = w + 320 + 64 * i;
        ASK(chunk);
        vi_store((int32_t *)to->q[2 * i], low_bits(vi_load(chunk)));
        vi_store((int32_t *)to->q[2 * i + 1], high_bits(vi_load(chunk)));
    }
}

static void unpack_q6(const uint8_t *w, unpacked *to) {
    for (int h = 0; h < 16; h++) {
        vi q[4];
        q6_weights(w, h, q);
        for (int i = 0; i < 4; i++) vi_store((int32_t *)to->q[4 * h + i], q[i]);
        factor_store(to->scale[h], q6_scale(w, h));
    }
}

/* --- one tile times N positions of a block ------------------------------------------------------- */

#define POSITIONS UNROLLED for (int p = 0; p < N; p++)

/* Adds the products of `supers` times 256 inputs. If `u` is not null it has the only 256 unpacked. */
#ifdef NARROW
#include "tiles_pairs.h"
#else
INLINE void add_q4(const uint8_t *w, const unpacked *u, activations a, int64_t block,
                   int64_t supers, float (*to)[ROWS], const int N) {
    vf sum[MOST];
    POSITIONS sum[p] = vf_load(to[p]);
    for (const uint8_t *end = w + supers * Q4_BYTES; w < end; w += Q4_BYTES) {
        const vf d_least = vf_mul(vf_half(w + 32), vf_all(-1.0f));
        for (int first = 0; first < 8; first += FOLD / GROUP) {
            vi dot[MOST];
            vf scaled[MOST];
            POSITIONS dot[p] = vi_all(0);
            UNROLLED for (int g = first; g < first + FOLD / GROUP; g += 2) {
                vi least = u ? vi_load(u->least[g / 2]) : q4_least(w, g);
                POSITIONS dot[p] = vi_dot_pairs(dot[p], least, two(a.total + 2 * p));
                a.total += 4 * block;
            }
            POSITIONS scaled[p] = vf_mul(vf_int(dot[p]), d_least);
            for (int g = first; g < first + FOLD / GROUP; g++, a.q += GROUP * block) {
                const uint8_t *chunk = w + 320 + g * 256;
                if (N == 1) ASK(w + 40 * g); /* the scales; for more rows that changes nothing */
                POSITIONS dot[p] = vi_all(0);
                UNROLLED for (int i = 0; i < 4; i++) {
                    const int8_t *q = a.q + 8 * i;
                    if (!u) ASK(chunk + 64 * i);
                    vi pair = u ? vi_all(0) : vi_load(chunk + 64 * i);
                    vi even = u ? vi_load(u->q[g * 8 + 2 * i]) : low_bits(pair);
                    POSITIONS dot[p] = vi_dot(dot[p], even, q + GROUP * p);
                    vi odd = u ? vi_load(u->q[g * 8 + 2 * i + 1]) : high_bits(pair);
                    POSITIONS dot[p] = vi_dot(dot[p], odd, q + GROUP * p + 4);
                }
                const factor scale = u ? factor_load(u->scale[g]) : q4_scale(w, g);
                POSITIONS scaled[p] = vf_fma(vf_int(dot[p]), scale, scaled[p]);
            }
            POSITIONS sum[p] = vf_fma(scaled[p], vf_all(a.scale[p]), sum[p]);
            a.scale += 4 * block;
        }
    }
    POSITIONS vf_store(to[p], sum[p]);
}

INLINE void add_q6(const uint8_t *w, const unpacked *u, activations a, int64_t block,
                   int64_t supers, float (*to)[ROWS], const int N) {
    vf sum[MOST];
    POSITIONS sum[p] = vf_load(to[p]);
    for (const uint8_t *end = w + supers * Q6_BYTES; w < end; w += Q6_BYTES) {
        for (int first = 0; first < 8; first += FOLD / GROUP) {
            vf scaled[MOST];
            POSITIONS scaled[p] = vf_zero();
            for (int g = first; g < first + FOLD / GROUP; g++) {
                UNROLLED for (int half = 0; half < 2; half++) {
                    const int h = 2 * g + half;
                    vi dot[MOST], q[4];
                    if (!u) q6_weights(w, h, q);
                    POSITIONS dot[p] = vi_all(a.low[2 * p + half]);
                    if (u) UNROLLED for (int i = 0; i < 4; i++) q[i] = vi_load(u->q[4 * h + i]);
                    UNROLLED for (int i = 0; i < 4; i += 2) {
                        const int8_t *eight = a.q + 16 * half + 4 * i;
                        POSITIONS {
                            dot[p] = vi_dot(dot[p], q[i], eight + GROUP * p);
                            dot[p] = vi_dot(dot[p], q[i + 1], eight + GROUP * p + 4);
                        }
                    }
                    const factor scale = u ? factor_load(u->scale[h]) : q6_scale(w, h);
                    POSITIONS scaled[p] = vf_fma(vf_int(dot[p]), scale, scaled[p]);
                }
                a.q += GROUP * block;
                a.low += 2 * block;
            }
            POSITIONS sum[p] = vf_fma(scaled[p], vf_all(a.scale[p]), sum[p]);
            a.scale += 4 * block;
        }
    }
    POSITIONS vf_store(to[p], sum[p]);
}
#endif

/* These weights need no unpacking. */
INLINE void add_q7(const uint8_t *w, int64_t groups, activations a, int64_t block,
                   float (*to)[ROWS], const int N) {
    vf sum[MOST];
    POSITIONS sum[p] = vf_zero();
    for (int64_t g = 0; g < groups; g++, w += Q7_BYTES) {
        vi dot[MOST];
        POSITIONS dot[p] = vi_all(0);
        UNROLLED for (int i = 0; i < 8; i++) {
            ASK(w + 64 + 64 * i);
            vi weights = vi_load(w + 64 + 64 * i);
            POSITIONS dot[p] = vi_dot(dot[p], weights, a.q + GROUP * p + 4 * i);
        }
        vf scale = vf_half(w), least = vf_half(w + 32);
        POSITIONS {
            sum[p] = vf_fma(vf_int(dot[p]), vf_mul(scale, vf_all(a.scale[p])), sum[p]);
            sum[p] = vf_fnma(least, vf_all(a.sum[p]), sum[p]);
        }
        a.q += GROUP * block;
        a.scale += block;
        a.sum += block;
    }
    POSITIONS vf_store(to[p], sum[p]);
}

/* CALL(N) for n positions, N being known to the compiler. */
#define CASE(N, CALL) case N: CALL(N); break;
#define UP_TO_4(CALL) CASE(1, CALL) CASE(2, CALL) CASE(3, CALL) CASE(4, CALL)
#define UP_TO_8(CALL) CASE(5, CALL) CASE(6, CALL) CASE(7, CALL) CASE(8, CALL)
#define UP_TO_16(CALL)                                                    \
    CASE(9, CALL) CASE(10, CALL) CASE(11, CALL) CASE(12, CALL)            \
    CASE(13, CALL) CASE(14, CALL) CASE(15, CALL) CASE(16, CALL)
#if MOST == 16
#define BY_WIDTH(n, CALL) switch (n) { UP_TO_4(CALL) UP_TO_8(CALL) UP_TO_16(CALL) }
#define MANY UP_TO_16
#else
#define MANY(CALL) UP_TO_4(CALL) CASE(5, CALL)
#define BY_WIDTH(n, CALL) switch (n) { MANY(CALL) }
#endif

/* Adds products of `groups` groups of inputs. */
static void add(int64_t kind, const uint8_t *w, activations a, int64_t block, int64_t groups,
                float (*to)[ROWS], int64_t n) {
#define Q4_CALL(N) add_q4(w, NULL, a, block, groups / 8, to, N)
#define Q6_CALL(N) add_q6(w, NULL, a, block, groups / 8, to, N)
#define Q7_CALL(N) add_q7(w, groups, a, block, to, N)
    if (kind == Q4) BY_WIDTH(n, Q4_CALL)
    else if (kind == Q6) BY_WIDTH(n, Q6_CALL)
    else BY_WIDTH(n, Q7_CALL)
}

/* The same with the weights unpacked, of 256 inputs; what is left of many positions comes packed. */
static void add_unpacked(int64_t kind, const uint8_t *w, const unpacked *u, activations a,
                         int64_t block, float (*to)[ROWS], int64_t n) {
#define Q4_AGAIN(N) add_q4(w, u, a, block, 1, to, N)
#define Q6_AGAIN(N) add_q6(w, u, a, block, 1, to, N)
    if (n <= MOST / 2) add(kind, w, a, block, SUPER / GROUP, to, n);
    else if (kind == Q4) switch (n) { MANY(Q4_AGAIN) }
    else switch (n) { MANY(Q6_AGAIN) }
}

/* --- for whole matrices --------------------------------------------------------------------------- */

int64_t tile_bytes(int64_t kind, int64_t k) {
    if (kind == Q4) return k / SUPER * Q4_BYTES;
    if (kind == Q6) return k / SUPER * Q6_BYTES;
    return k / GROUP * Q7_BYTES;
}

void sums_of_tile(int64_t kind, const uint8_t *w, const operand *x, const piece *pieces,
                         int count, float (*to)[ROWS]) {
    const int64_t block = x->block, groups = x->k / GROUP;
    if (kind == Q7 || count < (kind == Q4 ? Q4_REPACKED : Q6_REPACKED)) {
        for (const piece *p = pieces; p < pieces + count; to += p++->n)
            add(kind, w, from(x, p->row, 0), block, groups, to, p->n);
        return;
    }
    unpacked u;
    for (int64_t group = 0; group < groups; group += SUPER / GROUP) {
        float(*sums)[ROWS] = to;
        if (kind == Q4) unpack_q4(w, &u);
        else unpack_q6(w, &u);
        for (const piece *p = pieces; p < pieces + count; sums += p++->n)
            add_unpacked(kind, w, &u, from(x, p->row, group), block, sums, p->n);
        w += kind == Q4 ? Q4_BYTES : Q6_BYTES;
    }
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
