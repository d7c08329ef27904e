/* y = x W^T + b with weights of 4 to 7 bits and int8 activations, accumulated in int32.
 *
 * Sixteen output rows form a tile; byte i of a 64-byte chunk belongs to row i / 4, so that one
 * instruction adds four products to each of the sixteen sums. Activations are quantized per position
 * and group of 32 inputs. What a row of y holds does not depend on how many rows are computed
 * together: integer sums are exact, float operations come in one order.
 *
 * Formats of a tile over a stretch of inputs (see quantize.py, which packs them):
 *   Q4  256 inputs, GGUF's Q4_K: w = d * scale[g] * q - dmin * min[g], g counts groups of 32
 *       f16 d[16], f16 dmin[16], u8 scale[8][16], u8 min[8][16], u4 q[8][4][128]     2,368 bytes
 *   Q6  256 inputs, GGUF's Q6_K: w = d * scale[g] * (q - 32), g counts groups of 16
 *       f16 d[16], 32 bytes of padding, s8 scale[16][16], 16 times {u4 low[2][128], u2 high[256]} 3,392
 *   Q7  32 inputs: w = scale * q - min, q of 0 to 127
 *       f16 scale[16], f16 min[16], u8 q[8][64]                                         576 bytes
 */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { ROWS = 16, GROUP = 32, SUPER = 256 };
enum { Q4 = 4, Q6 = 6, Q7 = 7 };
/* Bytes by which memory is asked for ahead of its use: arithmetic must not wait for it. */
#ifndef AHEAD
#define AHEAD 2048
#endif
enum { Q4_BYTES = 2368, Q6_BYTES = 3392, Q7_BYTES = 576 };

#define INLINE static inline __attribute__((always_inline))

/* --- sixteen lanes, one per row of a tile ------------------------------------------------------ */

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VNNI__)

#include <immintrin.h>
#define BACKEND "avx512-vnni"
typedef __m512i vi;
typedef __m512 vf;

INLINE vi vi_load(const uint8_t *p) { return _mm512_loadu_si512(p); }
INLINE vi vi_all(int32_t x) { return _mm512_set1_epi32(x); }
INLINE vi vi_bits(vi a, uint8_t mask) { return _mm512_and_si512(a, _mm512_set1_epi8((char)mask)); }
INLINE vi vi_or(vi a, vi b) { return _mm512_or_si512(a, b); }
#define vi_left(a, n) _mm512_slli_epi16(a, n)
#define vi_right(a, n) _mm512_srli_epi16(a, n)
INLINE vi vi_dot(vi sum, vi weights, int32_t four) {
    return _mm512_dpbusd_epi32(sum, weights, _mm512_set1_epi32(four));
}
INLINE vf vf_zero(void) { return _mm512_setzero_ps(); }
INLINE vf vf_all(float x) { return _mm512_set1_ps(x); }
INLINE vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void vf_store(float *p, vf a) { _mm512_storeu_ps(p, a); }
INLINE vf vf_int(vi a) { return _mm512_cvtepi32_ps(a); }
INLINE vf vf_half(const uint8_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)p)); }
INLINE vf vf_u8(const uint8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)p)));
}
INLINE vf vf_s8(const uint8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)p)));
}
INLINE vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
INLINE vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
INLINE vf vf_fma(vf a, vf b, vf sum) { return _mm512_fmadd_ps(a, b, sum); }
INLINE vf vf_fnma(vf a, vf b, vf sum) { return _mm512_fnmadd_ps(a, b, sum); }

#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#include <immintrin.h>
#define BACKEND "avx2"
typedef struct { __m256i l, h; } vi;
typedef struct { __m256 l, h; } vf;
#define BOTH(t, f_l, f_h) ((t){f_l, f_h})

INLINE vi vi_load(const uint8_t *p) {
    return BOTH(vi, _mm256_loadu_si256((const void *)p), _mm256_loadu_si256((const void *)(p + 32)));
}
INLINE vi vi_all(int32_t x) { return BOTH(vi, _mm256_set1_epi32(x), _mm256_set1_epi32(x)); }
INLINE vi vi_bits(vi a, uint8_t mask) {
    __m256i m = _mm256_set1_epi8((char)mask);
    return BOTH(vi, _mm256_and_si256(a.l, m), _mm256_and_si256(a.h, m));
}
INLINE vi vi_or(vi a, vi b) {
    return BOTH(vi, _mm256_or_si256(a.l, b.l), _mm256_or_si256(a.h, b.h));
}
#define vi_left(a, n) BOTH(vi, _mm256_slli_epi16((a).l, n), _mm256_slli_epi16((a).h, n))
#define vi_right(a, n) BOTH(vi, _mm256_srli_epi16((a).l, n), _mm256_srli_epi16((a).h, n))
/* Weights stay below 128: two products of 127 * 127 fit into 16 bits. */
INLINE __m256i dot_half(__m256i sum, __m256i weights, __m256i x) {
    __m256i pairs = _mm256_maddubs_epi16(weights, x);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
INLINE vi vi_dot(vi sum, vi weights, int32_t four) {
    __m256i x = _mm256_set1_epi32(four);
    return BOTH(vi, dot_half(sum.l, weights.l, x), dot_half(sum.h, weights.h, x));
}
INLINE vf vf_zero(void) { return BOTH(vf, _mm256_setzero_ps(), _mm256_setzero_ps()); }
INLINE vf vf_all(float x) { return BOTH(vf, _mm256_set1_ps(x), _mm256_set1_ps(x)); }
INLINE vf vf_load(const float *p) { return BOTH(vf, _mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)); }
INLINE void vf_store(float *p, vf a) {
    _mm256_storeu_ps(p, a.l);
    _mm256_storeu_ps(p + 8, a.h);
}
INLINE vf vf_int(vi a) { return BOTH(vf, _mm256_cvtepi32_ps(a.l), _mm256_cvtepi32_ps(a.h)); }
INLINE vf vf_half(const uint8_t *p) {
    return BOTH(vf, _mm256_cvtph_ps(_mm_loadu_si128((const void *)p)),
                _mm256_cvtph_ps(_mm_loadu_si128((const void *)(p + 16))));
}
INLINE vf vf_u8(const uint8_t *p) {
    return vf_int(BOTH(vi, _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)p)),
                       _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)(p + 8)))));
}
INLINE vf vf_s8(const uint8_t *p) {
    return vf_int(BOTH(vi, _mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)p)),
                       _mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)(p + 8)))));
}
INLINE vf vf_mul(vf a, vf b) { return BOTH(vf, _mm256_mul_ps(a.l, b.l), _mm256_mul_ps(a.h, b.h)); }
INLINE vf vf_add(vf a, vf b) { return BOTH(vf, _mm256_add_ps(a.l, b.l), _mm256_add_ps(a.h, b.h)); }
INLINE vf vf_fma(vf a, vf b, vf s) {
    return BOTH(vf, _mm256_fmadd_ps(a.l, b.l, s.l), _mm256_fmadd_ps(a.h, b.h, s.h));
}
INLINE vf vf_fnma(vf a, vf b, vf s) {
    return BOTH(vf, _mm256_fnmadd_ps(a.l, b.l, s.l), _mm256_fnmadd_ps(a.h, b.h, s.h));
}

#else

#include <math.h>
#define BACKEND "portable"
typedef union { uint8_t b[64]; int32_t i[16]; uint16_t s[32]; } vi;
typedef struct { float f[16]; } vf;
#define EACH for (int i = 0; i < 16; i++)

INLINE vi vi_load(const uint8_t *p) { vi a; memcpy(a.b, p, 64); return a; }
INLINE vi vi_all(int32_t x) { vi a; EACH a.i[i] = x; return a; }
INLINE vi vi_bits(vi a, uint8_t mask) { for (int i = 0; i < 64; i++) a.b[i] &= mask; return a; }
INLINE vi vi_or(vi a, vi b) { EACH a.i[i] |= b.i[i]; return a; }
INLINE vi vi_left(vi a, int n) { for (int i = 0; i < 64; i++) a.b[i] <<= n; return a; }
INLINE vi vi_right(vi a, int n) { for (int i = 0; i < 64; i++) a.b[i] >>= n; return a; }
INLINE vi vi_dot(vi sum, vi weights, int32_t four) {
    int8_t x[4];
    memcpy(x, &four, 4);
    EACH for (int j = 0; j < 4; j++) sum.i[i] += weights.b[4 * i + j] * x[j];
    return sum;
}
INLINE float half(const uint8_t *p) {
    uint32_t bits = p[0] | (uint32_t)p[1] << 8, exponent = bits >> 10 & 31, mantissa = bits & 1023;
    float value = exponent ? ldexpf((float)(mantissa | 1024), (int)exponent - 25)
                           : ldexpf((float)mantissa, -24);
    return bits >> 15 ? -value : value;
}
INLINE vf vf_zero(void) { vf a; EACH a.f[i] = 0; return a; }
INLINE vf vf_all(float x) { vf a; EACH a.f[i] = x; return a; }
INLINE vf vf_load(const float *p) { vf a; memcpy(a.f, p, 64); return a; }
INLINE void vf_store(float *p, vf a) { memcpy(p, a.f, 64); }
INLINE vf vf_int(vi v) { vf a; EACH a.f[i] = (float)v.i[i]; return a; }
INLINE vf vf_half(const uint8_t *p) { vf a; EACH a.f[i] = half(p + 2 * i); return a; }
INLINE vf vf_u8(const uint8_t *p) { vf a; EACH a.f[i] = p[i]; return a; }
INLINE vf vf_s8(const uint8_t *p) { vf a; EACH a.f[i] = (int8_t)p[i]; return a; }
INLINE vf vf_mul(vf a, vf b) { EACH a.f[i] *= b.f[i]; return a; }
INLINE vf vf_add(vf a, vf b) { EACH a.f[i] += b.f[i]; return a; }
INLINE vf vf_fma(vf a, vf b, vf s) { EACH s.f[i] = fmaf(a.f[i], b.f[i], s.f[i]); return s; }
INLINE vf vf_fnma(vf a, vf b, vf s) { EACH s.f[i] = fmaf(-a.f[i], b.f[i], s.f[i]); return s; }

#endif

/* --- activations -------------------------------------------------------------------------------- */

/* Quantized activations of some positions; row r of each array starts at r times its width. */
typedef struct {
    const int8_t *q;    /* k */
    const float *scale; /* k / 32: what one step of q means */
    const float *sum;   /* k / 32: the group's sum, scaled */
    const int32_t *low; /* k / 16: minus 32 times the sum of the half group's q */
} activations;

static void quantize_row(const float *x, int64_t k, int8_t *q, float *scale, float *sum,
                         int32_t *low) {
    for (int64_t g = 0; g < k / GROUP; g++) {
        const float *in = x + g * GROUP;
        int8_t *out = q + g * GROUP;
        float most = 0;
        for (int i = 0; i < GROUP; i++) {
            float size = in[i] < 0 ? -in[i] : in[i];
            most = size > most ? size : most;
        }
        float step = most / 127.0f, inverse = most > 0 ? 127.0f / most : 0.0f;
        for (int i = 0; i < GROUP; i++) {
            float scaled = in[i] * inverse;
            out[i] = (int8_t)(int32_t)(scaled + (scaled < 0 ? -0.5f : 0.5f));
        }
        int32_t first = 0, second = 0;
        for (int i = 0; i < GROUP / 2; i++) first += out[i];
        for (int i = GROUP / 2; i < GROUP; i++) second += out[i];
        scale[g] = step;
        sum[g] = step * (float)(first + second);
        low[2 * g] = -32 * first;
        low[2 * g + 1] = -32 * second;
    }
}

INLINE int32_t four(const int8_t *p) {
    int32_t x;
    memcpy(&x, p, 4);
    return x;
}

/* --- one tile times N positions ------------------------------------------------------------------ */

#ifdef EACH /* portable: a loop over lanes in each step, unrolled it would only be large */
#define UNROLLED
#else
#define UNROLLED _Pragma("GCC unroll 8")
#endif
#define POSITIONS UNROLLED for (int p = 0; p < N; p++)

INLINE void tile_q4(const uint8_t *w, int64_t k, activations a, vf *sum, const int N) {
    const int64_t groups = k / GROUP;
    for (int64_t b = 0; b < k / SUPER; b++, w += Q4_BYTES) {
        const vf d = vf_half(w), d_least = vf_half(w + 32);
        for (int g = 0; g < 8; g++) {
            const uint8_t *chunk = w + 320 + g * 256;
            vi dot[8];
            POSITIONS dot[p] = vi_all(0);
            UNROLLED for (int i = 0; i < 4; i++) {
                if (N > 1) __builtin_prefetch(chunk + 64 * i + AHEAD);
                vi pair = vi_load(chunk + 64 * i);
                vi even = vi_bits(pair, 15), odd = vi_bits(vi_right(pair, 4), 15);
                POSITIONS dot[p] = vi_dot(dot[p], even, four(a.q + p * k + 8 * i));
                POSITIONS dot[p] = vi_dot(dot[p], odd, four(a.q + p * k + 8 * i + 4));
            }
            vf scale = vf_mul(d, vf_u8(w + 64 + g * ROWS));
            vf least = vf_mul(d_least, vf_u8(w + 192 + g * ROWS));
            POSITIONS {
                vf step = vf_mul(scale, vf_all(a.scale[p * groups]));
                sum[p] = vf_fma(vf_int(dot[p]), step, sum[p]);
                sum[p] = vf_fnma(least, vf_all(a.sum[p * groups]), sum[p]);
            }
            a.q += GROUP;
            a.scale++;
            a.sum++;
        }
    }
}

INLINE void tile_q6(const uint8_t *w, int64_t k, activations a, vf *sum, const int N) {
    const int64_t groups = k / GROUP;
    for (int64_t b = 0; b < k / SUPER; b++, w += Q6_BYTES) {
        const vf d = vf_half(w);
        for (int h = 0; h < 16; h++) {
            const uint8_t *low = w + 320 + h * 192, *high = low + 128;
            __builtin_prefetch(low + AHEAD);
            __builtin_prefetch(low + 64 + AHEAD);
            __builtin_prefetch(high + AHEAD);
            vi first = vi_load(low), second = vi_load(low + 64), top = vi_load(high);
            vi weights[4] = {
                vi_or(vi_bits(first, 15), vi_left(vi_bits(top, 0x03), 4)),
                vi_or(vi_bits(vi_right(first, 4), 15), vi_left(vi_bits(top, 0x0c), 2)),
                vi_or(vi_bits(second, 15), vi_bits(top, 0x30)),
                vi_or(vi_bits(vi_right(second, 4), 15), vi_right(vi_bits(top, 0xc0), 2)),
            };
            vi dot[8];
            POSITIONS dot[p] = vi_all(a.low[p * 2 * groups + h]);
            UNROLLED for (int i = 0; i < 4; i++)
                POSITIONS dot[p] = vi_dot(dot[p], weights[i], four(a.q + p * k + h * 16 + 4 * i));
            vf scale = vf_mul(d, vf_s8(w + 64 + h * ROWS));
            POSITIONS {
                vf step = vf_mul(scale, vf_all(a.scale[p * groups + h / 2]));
                sum[p] = vf_fma(vf_int(dot[p]), step, sum[p]);
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
                 const float *bias, int rows, const int N) {
    vf sum[8];
    POSITIONS sum[p] = vf_zero();
    if (kind == Q4) tile_q4(w, k, a, sum, N);
    else if (kind == Q6) tile_q6(w, k, a, sum, N);
    else tile_q7(w, k, a, sum, N);
    for (int p = 0; p < N; p++) {
        float out[ROWS];
        vf_store(out, sum[p]);
        for (int r = 0; r < rows; r++) y[p * stride + r] = out[r] + (bias ? bias[r] : 0.0f);
    }
}

/* --- whole matrices ------------------------------------------------------------------------------ */

/* Some rows of W in one format. */
typedef struct {
    int64_t kind, n;       /* format, output rows */
    const uint8_t *packed; /* tiles one after the other, 64-byte aligned where that is possible */
    const float *bias;     /* n, or null */
} part;

typedef struct {
    const part *parts;
    int64_t n_parts, m, k, stride;
    const float *x;
    float *y;
    int8_t *q;
    float *scale, *sum;
    int32_t *low;
    int64_t next; /* work not handed out yet */
} job;

static int64_t tile_bytes(int64_t kind, int64_t k) {
    if (kind == Q4) return k / SUPER * Q4_BYTES;
    if (kind == Q6) return k / SUPER * Q6_BYTES;
    return k / GROUP * Q7_BYTES;
}

static int64_t tiles_of(const part *p) { return (p->n + ROWS - 1) / ROWS; }

static void quantize_some(void *argument) {
    job *j = argument;
    for (;;) {
        int64_t row = __atomic_fetch_add(&j->next, 1, __ATOMIC_RELAXED);
        if (row >= j->m) return;
        quantize_row(j->x + row * j->k, j->k, j->q + row * j->k, j->scale + row * (j->k / GROUP),
                     j->sum + row * (j->k / GROUP), j->low + row * (j->k / 16));
    }
}

static void one_tile(const job *j, const part *p, int64_t t, float *y) {
    int rows = (int)(p->n - t * ROWS < ROWS ? p->n - t * ROWS : ROWS);
    const uint8_t *w = p->packed + t * tile_bytes(p->kind, j->k);
    const float *bias = p->bias ? p->bias + t * ROWS : NULL;
    int64_t k = j->k, row = 0;
    y += t * ROWS;
#define RUN(N)                                                                                     \
    {                                                                                              \
        activations a = {j->q + row * k, j->scale + row * (k / GROUP), j->sum + row * (k / GROUP), \
                         j->low + row * (k / 16)};                                                 \
        tile((int)p->kind, w, k, a, y + row * j->stride, j->stride, bias, rows, N);                \
        row += N;                                                                                  \
    }
    while (j->m - row >= 8) RUN(8)
    switch (j->m - row) {
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

enum { CHUNK = 4 }; /* tiles handed out at a time */

static void multiply_some(void *argument) {
    job *j = argument;
    for (;;) {
        int64_t chunk = __atomic_fetch_add(&j->next, 1, __ATOMIC_RELAXED);
        int64_t first = chunk * CHUNK, seen = 0;
        float *y = j->y;
        int found = 0;
        for (int64_t i = 0; i < j->n_parts; i++) {
            const part *p = j->parts + i;
            int64_t tiles = tiles_of(p);
            for (int64_t t = first - seen > 0 ? first - seen : 0;
                 t < tiles && seen + t < first + CHUNK; t++) {
                one_tile(j, p, t, y);
                found = 1;
            }
            seen += tiles;
            y += p->n;
        }
        if (!found) return;
    }
}

/* Runs a function in several threads at once; OpenMP's own, handed in, so that there is one pool. */
typedef void (*parallel)(void (*)(void *), void *, unsigned threads, unsigned flags);

static void run(parallel fork, unsigned threads, void (*work)(void *), job *j) {
    j->next = 0;
    if (fork && threads > 1) fork(work, j, threads, 0);
    else work(j);
}

const char *blockdiff_backend(void) { return BACKEND; }

/* Bytes of scratch that `blockdiff_linear` needs. */
int64_t blockdiff_scratch(int64_t m, int64_t k) { return m * k + m * (k / GROUP) * 16 + 64; }

/* y (m, sum of n) = x (m, k) W^T + b; k is a multiple of 32, with Q4 and Q6 of 256. */
void blockdiff_linear(const part *parts, int64_t n_parts, const float *x, int64_t m, int64_t k,
                      float *y, uint8_t *scratch, parallel fork, unsigned threads) {
    int64_t groups = m * (k / GROUP), stride = 0;
    for (int64_t i = 0; i < n_parts; i++) stride += parts[i].n;
    job j = {parts, n_parts, m, k, stride, x, y, 0, 0, 0, 0, 0};
    j.scale = (float *)scratch;
    j.sum = j.scale + groups;
    j.low = (int32_t *)(j.sum + groups);
    j.q = (int8_t *)(j.low + 2 * groups);
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
