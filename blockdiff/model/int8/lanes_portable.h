/* Sixteen lanes in plain C. See lanes.h, which includes this. */

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
