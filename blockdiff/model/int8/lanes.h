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
#include "lanes_avx512.h"
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "lanes_avx2.h"
#else
#include "lanes_portable.h"
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
#elif defined(AVX2)
    for (int i = 0; i < 4; i++) { /* quarters: rows from 8 (i / 2), columns from 8 (i % 2) on */
        const int row = i / 2 * 8, column = i % 2 * 8;
        transpose_eight(x + row * stride + column, stride, out + column * LANES + row);
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
#elif defined(__clang__)
#define UNROLLED _Pragma("clang loop unroll(full)")
#else
#define UNROLLED _Pragma("GCC unroll 16")
#endif

#endif
