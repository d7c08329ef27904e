/* Sixteen lanes of int32 or float: AVX-512, AVX2, or plain C, chosen by the compiler's target.
 *
 * `vi` holds integers (64 bytes, 32 of two bytes, or 16 of four, as an operation takes them), `vf`
 * floats. An operation gives the same numbers wherever it runs, up to the rounding of vf_exp.
 */

#ifndef BLOCKDIFF_LANES_H
#define BLOCKDIFF_LANES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { LANES = 16 };

#define INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VNNI__)
#define AVX512

#include <immintrin.h>
#define BACKEND "avx512-vnni"
#define MOST 16
typedef __m512i vi;
typedef __m512 vf;

INLINE vi vi_load(const uint8_t *p) { return _mm512_loadu_si512(p); }
INLINE vi vi_all(int32_t x) { return _mm512_set1_epi32(x); }
INLINE vi vi_bits(vi a, uint8_t mask) { return _mm512_and_si512(a, _mm512_set1_epi8((char)mask)); }
/* a, or bits of b. */
INLINE vi vi_join(vi a, vi b, uint8_t mask) {
    return _mm512_ternarylogic_epi32(a, b, _mm512_set1_epi8((char)mask), 0xf8);
}
#define vi_left(a, n) _mm512_slli_epi16(a, n)
#define vi_right(a, n) _mm512_srli_epi16(a, n)
/* Compilers that do not know this form of the instruction load the four by themselves. */
INLINE vi vi_dot(vi sum, vi weights, const int8_t *four) {
    const struct { int8_t x[4]; } *p = (const void *)four;
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(weights), "m"(*p));
    return sum;
}
/* Lane i: bytes i of two arrays, as 16 bits each; products of such pairs. */
INLINE vi vi_pairs(const uint8_t *low, const uint8_t *high) {
    __m512i a = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)low));
    __m512i b = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)high));
    return _mm512_or_si512(a, _mm512_slli_epi32(b, 16));
}
INLINE vi vi_dot_pairs(vi sum, vi pairs, int32_t two) {
    return _mm512_dpwssd_epi32(sum, pairs, _mm512_set1_epi32(two));
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
INLINE vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
INLINE vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
INLINE vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
INLINE vf vf_abs(vf a) { return _mm512_abs_ps(a); }
INLINE vf vf_pick(vf yes, vf a, vf b) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(yes, vf_zero(), _CMP_NEQ_UQ), b, a);
}
INLINE vf vf_round(vf a) { return _mm512_roundscale_ps(a, 8); }
INLINE vf vf_half_away(vf a) {
    __m512i sign = _mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32(INT32_MIN));
    return _mm512_castsi512_ps(_mm512_or_si512(sign, _mm512_castps_si512(_mm512_set1_ps(0.5f))));
}
INLINE vf vf_power(vf n) { return _mm512_scalef_ps(_mm512_set1_ps(1.0f), n); }
INLINE vi vi_trunc(vf a) { return _mm512_cvttps_epi32(a); }
INLINE vi vi_add(vi a, vi b) { return _mm512_add_epi32(a, b); }
INLINE void vi_store_s8(int8_t *p, vi a) { _mm_storeu_si128((void *)p, _mm512_cvtepi32_epi8(a)); }
INLINE void vi_store(int32_t *p, vi a) { _mm512_storeu_si512(p, a); }

#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#include <immintrin.h>
#define BACKEND "avx2"
#define MOST 4
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
INLINE vi vi_join(vi a, vi b, uint8_t mask) {
    vi bits = vi_bits(b, mask);
    return BOTH(vi, _mm256_or_si256(a.l, bits.l), _mm256_or_si256(a.h, bits.h));
}
#define vi_left(a, n) BOTH(vi, _mm256_slli_epi16((a).l, n), _mm256_slli_epi16((a).h, n))
#define vi_right(a, n) BOTH(vi, _mm256_srli_epi16((a).l, n), _mm256_srli_epi16((a).h, n))
/* Weights stay below 128: two products of 127 * 127 fit into 16 bits. */
INLINE __m256i dot_half(__m256i sum, __m256i weights, __m256i x) {
    __m256i pairs = _mm256_maddubs_epi16(weights, x);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
INLINE __m256i four_of(const int8_t *four) {
    int32_t all;
    memcpy(&all, four, 4);
    return _mm256_set1_epi32(all);
}
INLINE vi vi_dot(vi sum, vi weights, const int8_t *four) {
    __m256i x = four_of(four);
    return BOTH(vi, dot_half(sum.l, weights.l, x), dot_half(sum.h, weights.h, x));
}
#define NARROW
/* Sums of pairs fit into 16 bits for the 32 products of a group with weights below 16, so that they
 * become sums of four once, behind the last of them. */
INLINE vi vi_dot_4_bits(vi pairs, vi weights, const int8_t *four) {
    __m256i x = four_of(four);
    return BOTH(vi, _mm256_add_epi16(pairs.l, _mm256_maddubs_epi16(weights.l, x)),
                _mm256_add_epi16(pairs.h, _mm256_maddubs_epi16(weights.h, x)));
}
INLINE vi vi_sums_of_4_bits(vi pairs) {
    __m256i one = _mm256_set1_epi16(1);
    return BOTH(vi, _mm256_madd_epi16(pairs.l, one), _mm256_madd_epi16(pairs.h, one));
}
/* Eight inputs at once: four products with weights below 64 fit as well. */
INLINE __m256i eight_half(__m256i sum, __m256i w0, __m256i w1, __m256i x0, __m256i x1) {
    __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16(w0, x0), _mm256_maddubs_epi16(w1, x1));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
INLINE vi vi_dot_6_bits(vi sum, const vi *weights, const int8_t *eight) {
    __m256i x0 = four_of(eight), x1 = four_of(eight + 4);
    return BOTH(vi, eight_half(sum.l, weights[0].l, weights[1].l, x0, x1),
                eight_half(sum.h, weights[0].h, weights[1].h, x0, x1));
}
INLINE __m256i pairs_half(const uint8_t *low, const uint8_t *high) {
    __m256i a = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)low));
    __m256i b = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)high));
    return _mm256_or_si256(a, _mm256_slli_epi32(b, 16));
}
INLINE vi vi_pairs(const uint8_t *low, const uint8_t *high) {
    return BOTH(vi, pairs_half(low, high), pairs_half(low + 8, high + 8));
}
INLINE vi vi_dot_pairs(vi sum, vi pairs, int32_t two) {
    __m256i x = _mm256_set1_epi32(two);
    return BOTH(vi, _mm256_add_epi32(sum.l, _mm256_madd_epi16(pairs.l, x)),
                _mm256_add_epi32(sum.h, _mm256_madd_epi16(pairs.h, x)));
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
INLINE vf vf_div(vf a, vf b) { return BOTH(vf, _mm256_div_ps(a.l, b.l), _mm256_div_ps(a.h, b.h)); }
INLINE vf vf_max(vf a, vf b) { return BOTH(vf, _mm256_max_ps(a.l, b.l), _mm256_max_ps(a.h, b.h)); }
INLINE vf vf_min(vf a, vf b) { return BOTH(vf, _mm256_min_ps(a.l, b.l), _mm256_min_ps(a.h, b.h)); }
INLINE vf vf_abs(vf a) {
    __m256 sign = _mm256_set1_ps(-0.0f);
    return BOTH(vf, _mm256_andnot_ps(sign, a.l), _mm256_andnot_ps(sign, a.h));
}
INLINE vf vf_pick(vf yes, vf a, vf b) {
    __m256 none = _mm256_setzero_ps();
    return BOTH(vf, _mm256_blendv_ps(b.l, a.l, _mm256_cmp_ps(yes.l, none, _CMP_NEQ_UQ)),
                _mm256_blendv_ps(b.h, a.h, _mm256_cmp_ps(yes.h, none, _CMP_NEQ_UQ)));
}
INLINE vf vf_round(vf a) { return BOTH(vf, _mm256_round_ps(a.l, 8), _mm256_round_ps(a.h, 8)); }
INLINE vf vf_half_away(vf a) {
    __m256 sign = _mm256_set1_ps(-0.0f), half = _mm256_set1_ps(0.5f);
    return BOTH(vf, _mm256_or_ps(_mm256_and_ps(sign, a.l), half),
                _mm256_or_ps(_mm256_and_ps(sign, a.h), half));
}
INLINE __m256 power_half(__m256 n) {
    __m256i bias = _mm256_set1_epi32(127);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), bias), 23));
}
INLINE vf vf_power(vf n) { return BOTH(vf, power_half(n.l), power_half(n.h)); }
INLINE vi vi_trunc(vf a) { return BOTH(vi, _mm256_cvttps_epi32(a.l), _mm256_cvttps_epi32(a.h)); }
INLINE vi vi_add(vi a, vi b) {
    return BOTH(vi, _mm256_add_epi32(a.l, b.l), _mm256_add_epi32(a.h, b.h));
}
INLINE void vi_store(int32_t *p, vi a) {
    _mm256_storeu_si256((void *)p, a.l);
    _mm256_storeu_si256((void *)(p + 8), a.h);
}
INLINE void vi_store_s8(int8_t *p, vi a) {
    int32_t wide[16];
    vi_store(wide, a);
    for (int i = 0; i < 16; i++) p[i] = (int8_t)wide[i];
}

#else

#include <math.h>
#define BACKEND "portable"
#define MOST 4
typedef union { uint8_t b[64]; int32_t i[16]; uint16_t s[32]; } vi;
typedef struct { float f[16]; } vf;
#define EACH for (int i = 0; i < 16; i++)

INLINE vi vi_load(const uint8_t *p) { vi a; memcpy(a.b, p, 64); return a; }
INLINE vi vi_all(int32_t x) { vi a; EACH a.i[i] = x; return a; }
INLINE vi vi_bits(vi a, uint8_t mask) { for (int i = 0; i < 64; i++) a.b[i] &= mask; return a; }
INLINE vi vi_join(vi a, vi b, uint8_t mask) {
    for (int i = 0; i < 64; i++) a.b[i] |= b.b[i] & mask;
    return a;
}
INLINE vi vi_left(vi a, int n) { for (int i = 0; i < 32; i++) a.s[i] <<= n; return a; }
INLINE vi vi_right(vi a, int n) { for (int i = 0; i < 32; i++) a.s[i] >>= n; return a; }
INLINE vi vi_dot(vi sum, vi weights, const int8_t *x) {
    EACH for (int j = 0; j < 4; j++) sum.i[i] += weights.b[4 * i + j] * x[j];
    return sum;
}
INLINE vi vi_pairs(const uint8_t *low, const uint8_t *high) {
    vi a;
    EACH a.i[i] = low[i] | high[i] << 16;
    return a;
}
INLINE vi vi_dot_pairs(vi sum, vi pairs, int32_t two) {
    int16_t x[2];
    memcpy(x, &two, 4);
    EACH sum.i[i] += pairs.s[2 * i] * x[0] + pairs.s[2 * i + 1] * x[1];
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
INLINE vf vf_div(vf a, vf b) { EACH a.f[i] /= b.f[i]; return a; }
INLINE vf vf_max(vf a, vf b) { EACH a.f[i] = a.f[i] > b.f[i] ? a.f[i] : b.f[i]; return a; }
INLINE vf vf_min(vf a, vf b) { EACH a.f[i] = a.f[i] < b.f[i] ? a.f[i] : b.f[i]; return a; }
INLINE vf vf_abs(vf a) { EACH a.f[i] = fabsf(a.f[i]); return a; }
INLINE vf vf_pick(vf yes, vf a, vf b) { EACH a.f[i] = yes.f[i] != 0 ? a.f[i] : b.f[i]; return a; }
INLINE vf vf_round(vf a) { EACH a.f[i] = nearbyintf(a.f[i]); return a; }
INLINE vf vf_half_away(vf a) { EACH a.f[i] = copysignf(0.5f, a.f[i]); return a; }
INLINE vf vf_power(vf n) { EACH n.f[i] = ldexpf(1.0f, (int)n.f[i]); return n; }
INLINE vi vi_trunc(vf v) { vi a; EACH a.i[i] = (int32_t)v.f[i]; return a; }
INLINE vi vi_add(vi a, vi b) { EACH a.i[i] += b.i[i]; return a; }
INLINE void vi_store(int32_t *p, vi a) { memcpy(p, a.i, 64); }
INLINE void vi_store_s8(int8_t *p, vi a) { EACH p[i] = (int8_t)a.i[i]; }

#endif

/* Weights below 16, a group of 32 inputs at most, from zero on; then sums for what they left. And
 * eight inputs at once, weights below 64. */
#ifndef NARROW
INLINE vi vi_dot_4_bits(vi sum, vi weights, const int8_t *four) { return vi_dot(sum, weights, four); }
INLINE vi vi_sums_of_4_bits(vi sum) { return sum; }
INLINE vi vi_dot_6_bits(vi sum, const vi *weights, const int8_t *eight) {
    return vi_dot(vi_dot(sum, weights[0], eight), weights[1], eight + 4);
}
#endif

/* --- on top of these ----------------------------------------------------------------------------- */

/* e^a for a of at most 88, within 2 units in the last place; below -87 it is e^-87. */
INLINE vf vf_exp(vf a) {
    a = vf_max(vf_min(a, vf_all(88.0f)), vf_all(-87.0f));
    vf n = vf_round(vf_mul(a, vf_all(1.44269504f)));
    vf r = vf_fnma(n, vf_all(-2.12194440e-4f), vf_fnma(n, vf_all(0.693359375f), a));
    vf p = vf_all(1.9875691500e-4f); /* Cephes, expf */
    p = vf_fma(p, r, vf_all(1.3981999507e-3f));
    p = vf_fma(p, r, vf_all(8.3334519073e-3f));
    p = vf_fma(p, r, vf_all(4.1665795894e-2f));
    p = vf_fma(p, r, vf_all(1.6666665459e-1f));
    p = vf_fma(p, r, vf_all(5.0000001201e-1f));
    p = vf_add(vf_fma(p, vf_mul(r, r), r), vf_all(1.0f));
    return vf_mul(p, vf_power(n));
}

/* Lanes are taken in one order, whatever the machine. */
INLINE float vf_sum(vf a) {
    float x[LANES];
    vf_store(x, a);
    for (int width = LANES / 2; width; width /= 2)
        for (int i = 0; i < width; i++) x[i] += x[i + width];
    return x[0];
}
#ifdef AVX512 /* the largest, and a sum of integers, are the same in any order */
INLINE float vf_most(vf a) { return _mm512_reduce_max_ps(a); }
INLINE int32_t vi_sum(vi a) { return _mm512_reduce_add_epi32(a); }
#else
INLINE float vf_most(vf a) {
    float x[LANES];
    vf_store(x, a);
    for (int i = 1; i < LANES; i++) x[0] = x[i] > x[0] ? x[i] : x[0];
    return x[0];
}
INLINE int32_t vi_sum(vi a) {
    int32_t x[LANES], sum = 0;
    vi_store(x, a);
    for (int i = 0; i < LANES; i++) sum += x[i];
    return sum;
}
#endif

/* Columns of sixteen rows, which are `stride` floats apart, one after the other: (16, 16). */
INLINE void transpose(const float *x, int64_t stride, float *out) {
#ifdef AVX512
    __m512 a[16], b[16];
    for (int i = 0; i < 16; i++) a[i] = vf_load(x + i * stride);
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            __m512d low = _mm512_castps_pd(b[i + j]), high = _mm512_castps_pd(b[i + j + 2]);
            a[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
            a[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
        }
    for (int i = 0; i < 4; i++) { /* a[4 r + i]: in lane c, column 4 c + i of rows 4 r to 4 r + 3 */
        __m512 even = _mm512_shuffle_f32x4(a[i], a[4 + i], 0x88);
        __m512 odd = _mm512_shuffle_f32x4(a[i], a[4 + i], 0xdd);
        __m512 even_below = _mm512_shuffle_f32x4(a[8 + i], a[12 + i], 0x88);
        __m512 odd_below = _mm512_shuffle_f32x4(a[8 + i], a[12 + i], 0xdd);
        vf_store(out + i * 16, _mm512_shuffle_f32x4(even, even_below, 0x88));
        vf_store(out + (4 + i) * 16, _mm512_shuffle_f32x4(odd, odd_below, 0x88));
        vf_store(out + (8 + i) * 16, _mm512_shuffle_f32x4(even, even_below, 0xdd));
        vf_store(out + (12 + i) * 16, _mm512_shuffle_f32x4(odd, odd_below, 0xdd));
    }
#else
    for (int column = 0; column < LANES; column++)
        for (int row = 0; row < LANES; row++) out[column * LANES + row] = x[row * stride + column];
#endif
}

/* A loop over lanes in each step, as plain C has it, would only be large when unrolled, and so would
 * steps with checks in them, which take a minute to compile. */
#if defined(EACH) || defined(__SANITIZE_ADDRESS__)
#define UNROLLED
#else
#define UNROLLED _Pragma("GCC unroll 16")
#endif

#endif
