/* Sixteen lanes in one register: AVX-512 with VNNI. See lanes.h, which includes this. */

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
