/* Sixteen lanes in two registers: AVX2. See lanes.h, which includes this. */

#define AVX2

#include <immintrin.h>
#ifdef __AVXVNNI__
#define BACKEND "avx-vnni"
#else
#define BACKEND "avx2"
#endif
#define MOST 5
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
/* Kept where it is: left alone, gcc computes all products first and runs out of registers. */
INLINE vi here(vi a) {
    __asm__("" : "+x"(a.l), "+x"(a.h));
    return a;
}
INLINE __m256i four_of(const int8_t *four) {
    int32_t all;
    memcpy(&all, four, 4);
    return _mm256_set1_epi32(all);
}
#ifdef __AVXVNNI__
INLINE vi vi_dot(vi sum, vi weights, const int8_t *four) {
    __m256i x = four_of(four);
    return here(BOTH(vi, _mm256_dpbusd_avx_epi32(sum.l, weights.l, x),
                     _mm256_dpbusd_avx_epi32(sum.h, weights.h, x)));
}
#else
/* Weights stay below 128: two products of 127 * 127 fit into 16 bits. */
INLINE __m256i dot_half(__m256i sum, __m256i weights, __m256i x) {
    __m256i pairs = _mm256_maddubs_epi16(weights, x);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
INLINE vi vi_dot(vi sum, vi weights, const int8_t *four) {
    __m256i x = four_of(four);
    return here(BOTH(vi, dot_half(sum.l, weights.l, x), dot_half(sum.h, weights.h, x)));
}
#define NARROW
#endif
INLINE vi vi_pairs(const uint8_t *low, const uint8_t *high) {
    __m128i a = _mm_loadu_si128((const void *)low), b = _mm_loadu_si128((const void *)high);
    return BOTH(vi, _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(a, b)),
                _mm256_cvtepu8_epi16(_mm_unpackhi_epi8(a, b)));
}
INLINE vi vi_signed_pairs(const uint8_t *low, const uint8_t *high) {
    __m128i a = _mm_loadu_si128((const void *)low), b = _mm_loadu_si128((const void *)high);
    return BOTH(vi, _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(a, b)),
                _mm256_cvtepi8_epi16(_mm_unpackhi_epi8(a, b)));
}
INLINE vi vi_dot_pairs(vi sum, vi pairs, int32_t two) {
    __m256i x = _mm256_set1_epi32(two);
    return here(BOTH(vi, _mm256_add_epi32(sum.l, _mm256_madd_epi16(pairs.l, x)),
                     _mm256_add_epi32(sum.h, _mm256_madd_epi16(pairs.h, x))));
}
/* Sums of pairs times scales, which stand in pairs. */
INLINE vi vi_scale_pairs(vi sum, vi pairs, vi scales) {
    return here(BOTH(vi, _mm256_add_epi32(sum.l, _mm256_madd_epi16(pairs.l, scales.l)),
                     _mm256_add_epi32(sum.h, _mm256_madd_epi16(pairs.h, scales.h))));
}
/* a - 32 b */
INLINE vi vi_less_32(vi a, vi b) {
    return BOTH(vi, _mm256_sub_epi32(a.l, _mm256_slli_epi32(b.l, 5)),
                _mm256_sub_epi32(a.h, _mm256_slli_epi32(b.h, 5)));
}
/* Sums of pairs fit into 16 bits for the 32 products of a group with weights below 16. */
INLINE vi vi_pairs_of_4_bits(vi pairs, vi weights, const int8_t *four) {
    __m256i x = four_of(four);
    return here(BOTH(vi, _mm256_add_epi16(pairs.l, _mm256_maddubs_epi16(weights.l, x)),
                     _mm256_add_epi16(pairs.h, _mm256_maddubs_epi16(weights.h, x))));
}
/* Eight inputs at once: four products with weights below 64 fit as well. */
INLINE vi vi_pairs_of_6_bits(const vi *weights, const int8_t *eight) {
    __m256i x0 = four_of(eight), x1 = four_of(eight + 4);
    return BOTH(vi, _mm256_add_epi16(_mm256_maddubs_epi16(weights[0].l, x0),
                                     _mm256_maddubs_epi16(weights[1].l, x1)),
                _mm256_add_epi16(_mm256_maddubs_epi16(weights[0].h, x0),
                                 _mm256_maddubs_epi16(weights[1].h, x1)));
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
    __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a.l, a.h), 0xd8);
    __m128i low = _mm256_castsi256_si128(words), high = _mm256_extracti128_si256(words, 1);
    _mm_storeu_si128((void *)p, _mm_packs_epi16(low, high));
}
/* Columns of eight rows, `stride` floats apart, each LANES floats behind the one before it. */
INLINE void transpose_eight(const float *x, int64_t stride, float *out) {
    __m256 a[8], b[8];
    for (int i = 0; i < 8; i++) a[i] = _mm256_loadu_ps(x + i * stride);
    for (int i = 0; i < 8; i += 2) {
        b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            a[i + 2 * j] = _mm256_shuffle_ps(b[i + j], b[i + j + 2], 0x44);
            a[i + 2 * j + 1] = _mm256_shuffle_ps(b[i + j], b[i + j + 2], 0xee);
        }
    for (int i = 0; i < 4; i++) { /* a[i], a[4 + i]: columns i and 4 + i of four rows each */
        _mm256_storeu_ps(out + i * LANES, _mm256_permute2f128_ps(a[i], a[4 + i], 0x20));
        _mm256_storeu_ps(out + (4 + i) * LANES, _mm256_permute2f128_ps(a[i], a[4 + i], 0x31));
    }
}
