/* Attention of the new positions of a sequence over its cache, float32; see stack.c. */

#include <math.h>

#include "lanes.h"
#include "stack.h"

/* Groups of sixteen keys whose products with some queries are summed at a time, and vectors of a
 * value that are mixed for six queries: what fits into the registers. */
#ifdef AVX512
#define SCORED BY_EIGHT
enum { TURNED = 2, WIDE = 4 };
#else
#define SCORED BY_SIX
enum { TURNED = 1, WIDE = 1 };
#endif

#define QUERIES UNROLLED for (int q = 0; q < N; q++)

/* Products of N queries, (size, `count`), with W times sixteen keys, each (size, 16); what a query
 * gets is `stride` floats behind what the one before it gets. Two at a time share what is loaded. */
INLINE void scores(const float *queries, int64_t count, const float *keys, int64_t size, float *out,
                   int64_t stride, const int N, const int W) {
    vf sum[8][TURNED];
    QUERIES for (int w = 0; w < W; w++) sum[q][w] = vf_zero();
    for (int64_t i = 0; i < size; i++, queries += count, keys += LANES) {
        vf key[TURNED];
        for (int w = 0; w < W; w++) key[w] = vf_load(keys + w * size * LANES);
        QUERIES {
            const vf query = vf_all(queries[q]);
            for (int w = 0; w < W; w++) sum[q][w] = vf_fma(query, key[w], sum[q][w]);
        }
    }
    QUERIES for (int w = 0; w < W; w++) vf_store(out + q * stride + w * LANES, sum[q][w]);
}

/* W times sixteen dimensions of what N queries take from n values. */
INLINE void mixed(const float *shares, int64_t stride, const float *values, int64_t size, int64_t n,
                  float *out, const int N, const int W) {
    vf sum[6][WIDE];
    QUERIES for (int w = 0; w < W; w++) sum[q][w] = vf_zero();
    for (int64_t j = 0; j < n; j++) {
        vf value[WIDE];
        for (int w = 0; w < W; w++) value[w] = vf_load(values + j * size + w * LANES);
        QUERIES {
            const vf share = vf_all(shares[q * stride + j]);
            for (int w = 0; w < W; w++) sum[q][w] = vf_fma(share, value[w], sum[q][w]);
        }
    }
    QUERIES for (int w = 0; w < W; w++) vf_store(out + q * size + w * LANES, sum[q][w]);
}

/* CALL(N) for eight queries at a time, or six, then for those that are left. */
#define BY_EIGHT(count, CALL)                       \
    {                                               \
        int64_t at = 0;                             \
        for (; (count) - at >= 8; at += 8) CALL(8); \
        switch ((count) - at) {                     \
            case 7: CALL(7); break;                 \
            case 6: CALL(6); break;                 \
            REST(CALL)                              \
        }                                           \
    }
#define BY_SIX(count, CALL)                         \
    {                                               \
        int64_t at = 0;                             \
        for (; (count) - at >= 6; at += 6) CALL(6); \
        switch ((count) - at) { REST(CALL) }        \
    }
#define REST(CALL)                                  \
    case 5: CALL(5); break;                         \
    case 4: CALL(4); break;                         \
    case 3: CALL(3); break;                         \
    case 2: CALL(2); break;                         \
    case 1: CALL(1); break;

int64_t attend_floats(const model *c, int64_t rows, int64_t keys) {
    int64_t queries = rows * (c->heads / c->kv_heads), stride = up_to(keys, LANES);
    return queries * (2 * c->head_dim + stride) + 2 * LANES * c->head_dim + stride;
}

/* How many keys lie up to the last one that any of some rows sees. */
static int64_t keys_seen(const uint8_t *mask, int64_t rows, int64_t keys) {
    for (int64_t last = keys; last > 0; last--)
        for (int64_t r = 0; r < rows; r++)
            if (mask[r * keys + last - 1]) return last;
    return 0;
}

/* What softmax makes of the products of a query, in place; `seen` is 1 for keys that count, else 0. */
static void softmax(float *p, const float *seen, int64_t n, vf scale) {
    vf most = vf_all(-1e30f), sum = vf_zero();
    for (int64_t j = 0; j < n; j += LANES) {
        vf scaled = vf_mul(vf_load(p + j), scale);
        vf_store(p + j, scaled = vf_pick(vf_load(seen + j), scaled, vf_all(-1e30f)));
        most = vf_max(most, scaled);
    }
    const vf least = vf_all(-vf_most(most));
    for (int64_t j = 0; j < n; j += LANES) {
        vf share = vf_exp(vf_add(vf_load(p + j), least));
        vf_store(p + j, share = vf_pick(vf_load(seen + j), share, vf_zero()));
        sum = vf_add(sum, share);
    }
    const vf inverse = vf_all(1.0f / vf_sum(sum));
    for (int64_t j = 0; j < n; j += LANES) vf_store(p + j, vf_mul(vf_load(p + j), inverse));
}

/* Sixteen keys of which n are there, (16, size), as (size, 16). Their values are asked for, and the
 * keys that are turned next but one: both are read with gaps, which the processor does not foresee. */
static void turn(const float *keys, const float *values, int64_t size, int64_t n, float *out) {
    if (n >= LANES) {
        for (int64_t i = 0; i < size; i += LANES) {
            UNROLLED for (int64_t k = 0; k < LANES; k++) {
                __builtin_prefetch(keys + (k + 2 * LANES) * size + i, 0, 2);
                __builtin_prefetch(values + k * size + i, 0, 2);
            }
            transpose(keys + i, size, out + i * LANES);
        }
        return;
    }
    for (int64_t i = 0; i < size; i++)
        for (int64_t k = 0; k < LANES; k++) out[i * LANES + k] = k < n ? keys[k * size + i] : 0.0f;
}

void attend(const team *t, const sequence *s, int64_t index, int64_t start, int64_t first,
            int64_t rows, int64_t shared, uint8_t *own) {
    const model *c = t->f->model;
    const int64_t size = c->head_dim, group = c->heads / c->kv_heads, all = s->past + s->rows;
    const int64_t keys = keys_seen(s->mask + first * all, rows, all);
    const int64_t stride = up_to(keys, LANES), count = rows * group, plane = s->capacity * size;
    const float *key = s->cache + (2 * index * c->kv_heads + shared) * plane;
    const float *value = key + c->kv_heads * plane;
    float *queries = (float *)own, *out = queries + count * size, *turned = out + count * size;
    float *seen = turned + 2 * LANES * size, *share = seen + stride;
    for (int64_t q = 0; q < count; q++) {
        const int64_t row = start + first + q / group, head = shared * group + q % group;
        const float *query = t->qkv + (row * (c->heads + 2 * c->kv_heads) + head) * size;
        for (int64_t i = 0; i < size; i++) queries[i * count + q] = query[i];
    }
    for (int64_t j = 0; j < stride; j += TURNED * LANES) {
        const int two = TURNED == 2 && stride - j > LANES;
        const int64_t one = j * size, next = one + LANES * size;
        turn(key + one, value + one, size, keys - j, turned);
        if (two) turn(key + next, value + next, size, keys - j - LANES, turned + LANES * size);
#define CALL(N) scores(queries + at, count, turned, size, share + at * stride + j, stride, N, W)
#define W TURNED
        if (two) SCORED(count, CALL)
#undef W
#define W 1
        else SCORED(count, CALL)
#undef W
#undef CALL
    }
    const vf scale = vf_all((float)(1.0 / sqrt((double)size)));
    for (int64_t r = 0; r < rows; r++) {
        const uint8_t *mask = s->mask + (first + r) * all;
        for (int64_t j = 0; j < stride; j++) seen[j] = j < keys && mask[j] ? 1.0f : 0.0f;
        for (int64_t q = r * group; q < (r + 1) * group; q++)
            softmax(share + q * stride, seen, stride, scale);
    }
    for (int64_t i = 0, wide; i < size; i += wide) {
        wide = size - i < WIDE * LANES ? LANES : WIDE * LANES;
#define CALL(N) mixed(share + at * stride, stride, value + i, size, keys, out + at * size + i, N, W)
#define W WIDE
        if (wide > LANES) BY_SIX(count, CALL)
#undef W
#define W 1
        else BY_SIX(count, CALL)
#undef W
#undef CALL
    }
    for (int64_t r = 0; r < rows; r++)
        memcpy(t->attended + ((start + first + r) * c->heads + shared * group) * size,
               out + r * group * size, (size_t)(group * size) * sizeof(float));
}
