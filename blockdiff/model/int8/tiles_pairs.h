/* One tile times N positions where products are summed in pairs of 16 bits; tiles.c includes this.
 *
 * The scale of a group is a whole number that multiplies pairs, and what its sums come to, exact in
 * 32 bits, becomes a float once a fold. What is taken off is summed behind the products, so that the
 * registers are theirs.
 */

INLINE void add_q4(const uint8_t *w, const unpacked *u, activations a, int64_t block,
                   int64_t supers, float (*to)[ROWS], const int N) {
    for (const uint8_t *end = w + supers * Q4_BYTES; w < end; w += Q4_BYTES) {
        for (int first = 0; first < 8; first += FOLD / GROUP) {
            vi whole[MOST], least[MOST];
            POSITIONS whole[p] = vi_all(0);
            for (int g = first; g < first + FOLD / GROUP; g++, a.q += GROUP * block) {
                const uint8_t *chunk = w + 320 + g * 256;
                vi pairs[MOST];
                POSITIONS pairs[p] = vi_all(0);
                UNROLLED for (int i = 0; i < 4; i++) {
                    const int8_t *q = a.q + 8 * i;
                    if (!u) ASK(chunk + 64 * i);
                    vi both = u ? vi_all(0) : vi_load(chunk + 64 * i);
                    vi even = u ? here(vi_load(u->q[g * 8 + 2 * i])) : low_bits(both);
                    POSITIONS pairs[p] = vi_pairs_of_4_bits(pairs[p], even, q + GROUP * p);
                    vi odd = u ? here(vi_load(u->q[g * 8 + 2 * i + 1])) : high_bits(both);
                    POSITIONS pairs[p] = vi_pairs_of_4_bits(pairs[p], odd, q + GROUP * p + 4);
                }
                const factor scale = u ? factor_load(u->scale[g]) : q4_scale(w, g);
                POSITIONS whole[p] = vi_scale_pairs(whole[p], pairs[p], scale);
            }
            POSITIONS least[p] = vi_all(0);
            UNROLLED for (int g = first; g < first + FOLD / GROUP; g += 2) {
                vi two_least = u ? vi_load(u->least[g / 2]) : q4_least(w, g);
                POSITIONS least[p] = vi_dot_pairs(least[p], two_least, two(a.total + 2 * p));
                a.total += 4 * block;
            }
            const vf d = vf_half(w), d_least = vf_mul(vf_half(w + 32), vf_all(-1.0f));
            POSITIONS {
                vf sum = vf_fma(vf_int(whole[p]), d, vf_mul(vf_int(least[p]), d_least));
                vf_store(to[p], vf_fma(sum, vf_all(a.scale[p]), vf_load(to[p])));
            }
            a.scale += 4 * block;
        }
    }
}

INLINE void add_q6(const uint8_t *w, const unpacked *u, activations a, int64_t block,
                   int64_t supers, float (*to)[ROWS], const int N) {
    for (const uint8_t *end = w + supers * Q6_BYTES; w < end; w += Q6_BYTES) {
        for (int first = 0; first < 8; first += FOLD / GROUP) {
            vi whole[MOST], less[MOST];
            POSITIONS whole[p] = vi_all(0);
            for (int g = first; g < first + FOLD / GROUP; g++) {
                UNROLLED for (int half = 0; half < 2; half++) {
                    const int h = 2 * g + half;
                    const factor scale = u ? factor_load(u->scale[h]) : q6_scale(w, h);
                    vi q[4];
                    if (!u) q6_weights(w, h, q);
                    UNROLLED for (int i = 0; i < 4; i += 2) {
                        if (u) q[i] = here(vi_load(u->q[4 * h + i]));
                        if (u) q[i + 1] = here(vi_load(u->q[4 * h + i + 1]));
                        const int8_t *eight = a.q + 16 * half + 4 * i;
                        POSITIONS whole[p] = vi_scale_pairs(
                            whole[p], vi_pairs_of_6_bits(q + i, eight + GROUP * p), scale);
                    }
                }
                a.q += GROUP * block;
            }
            POSITIONS less[p] = vi_all(0);
            UNROLLED for (int g = first; g < first + FOLD / GROUP; g++, a.low += 2 * block) {
                const uint8_t *scales = w + 64 + 2 * g * ROWS;
                const vi both = vi_signed_pairs(scales, scales + ROWS);
                POSITIONS less[p] = vi_dot_pairs(less[p], both, a.low[2 * p]);
            }
            const vf d = vf_half(w);
            POSITIONS {
                vf sum = vf_mul(vf_int(vi_less_32(whole[p], less[p])), d);
                vf_store(to[p], vf_fma(sum, vf_all(a.scale[p]), vf_load(to[p])));
            }
            a.scale += 4 * block;
        }
    }
}
