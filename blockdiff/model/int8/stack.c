/* Some layers of a decoder over the new positions of one or several sequences, in one call.
 *
 * A layer: RMSNorm, query, key and value products, rotary positions, attention over a sequence's own
 * cache, output product, RMSNorm, SwiGLU; both halves are added to the stream x. Products are those
 * of linear_int8.c, attention is in attention.c; everything but the products is float32. Rows that
 * are noisy get an adapter's low-rank products besides.
 *
 * Threads run through the same list of stages and take items of each. A stage ends when its items
 * are done, by whoever did them: a thread that wakes up late, or never, holds nobody up. What a row
 * holds does not depend on the rows beside it, nor on who computed it.
 */

#include <math.h>

#include "lanes.h"
#include "stack.h"
#ifdef _WIN32
#include <windows.h>
#define GIVE_WAY SwitchToThread()
#else
#include <sched.h>
#define GIVE_WAY sched_yield()
#endif

enum { SEGMENT = 512 }; /* inputs of a block of rows that are quantized together */
enum { SPINS = 4000 }; /* looks at a stage's end before other processes may go first */

static int64_t take(team *t, int64_t stage) {
    return __atomic_fetch_add(t->next + stage, 1, __ATOMIC_RELAXED);
}

static void finished(team *t, int64_t stage) {
    __atomic_fetch_add(t->done + stage, 1, __ATOMIC_RELEASE);
}

static void wait_for(team *t, int64_t stage, int64_t items) {
    for (int spins = 0; __atomic_load_n(t->done + stage, __ATOMIC_ACQUIRE) < items; spins++) {
        if (spins < SPINS) {
#if defined(__x86_64__) || defined(_M_X64)
            __builtin_ia32_pause();
#endif
        } else {
            GIVE_WAY;
        }
    }
}

/* A statement for each i below `items`, in all threads together. */
#define STAGE(items, statement)                                       \
    {                                                                 \
        const int64_t n_ = (items);                                   \
        for (int64_t i; (i = take(t, stage)) < n_; finished(t, stage)) { \
            statement;                                                \
        }                                                             \
        wait_for(t, stage++, n_);                                     \
    }

/* --- rows ---------------------------------------------------------------------------------------- */

/* What RMSNorm multiplies a row by. */
static vf norm_scale(const float *x, int64_t n, double eps) {
    vf sum[4];
    int64_t i = 0;
    UNROLLED for (int j = 0; j < 4; j++) sum[j] = vf_zero();
    for (; i + 4 * LANES <= n; i += 4 * LANES)
        UNROLLED for (int j = 0; j < 4; j++) {
            vf value = vf_load(x + i + j * LANES);
            sum[j] = vf_fma(value, value, sum[j]);
        }
    for (; i < n; i += LANES) sum[0] = vf_fma(vf_load(x + i), vf_load(x + i), sum[0]);
    const vf all = vf_add(vf_add(sum[0], sum[1]), vf_add(sum[2], sum[3]));
    return vf_all((float)(1.0 / sqrt((double)vf_sum(all) / (double)n + eps)));
}

static void rms_norm(const float *x, const float *weight, int64_t n, double eps, float *out) {
    const vf scale = norm_scale(x, n, eps);
    for (int64_t i = 0; i < n; i += LANES)
        vf_store(out + i, vf_mul(vf_mul(vf_load(x + i), scale), vf_load(weight + i)));
}

/* Rows and inputs of an item: threads do not quantize what lies in the same cache lines. */
typedef struct {
    int64_t row, rows, first, n;
} patch;

static int64_t patches(const operand *to, int64_t m) {
    return (m + to->block - 1) / to->block * ((to->k + SEGMENT - 1) / SEGMENT);
}

static patch patch_of(const operand *to, int64_t m, int64_t item) {
    const int64_t segments = (to->k + SEGMENT - 1) / SEGMENT;
    const int64_t row = item / segments * to->block, first = item % segments * SEGMENT;
    const int64_t rows = m - row, n = to->k - first;
    return (patch){row, rows < to->block ? rows : to->block, first, n < SEGMENT ? n : SEGMENT};
}

static void norm_and_quantize(const team *t, int64_t item, const float *weight, const operand *to,
                              uint8_t *own) {
    const model *c = t->f->model;
    const patch p = patch_of(to, t->f->m, item);
    float *normed = (float *)own;
    for (int64_t row = p.row; row < p.row + p.rows; row++) {
        const float *x = t->f->x + row * c->hidden;
        const vf scale = norm_scale(x, c->hidden, c->eps);
        for (int64_t i = 0; i < p.n; i += LANES) {
            vf scaled = vf_mul(vf_load(x + p.first + i), scale);
            vf_store(normed + i, vf_mul(scaled, vf_load(weight + p.first + i)));
        }
        quantize(to, row, p.first, normed, p.n);
    }
}

static void quantize_attended(const team *t, int64_t item) {
    const operand *to = t->in + O;
    const patch p = patch_of(to, t->f->m, item);
    for (int64_t row = p.row; row < p.row + p.rows; row++)
        quantize(to, row, p.first, t->attended + row * to->k + p.first, p.n);
}

/* RoPE in its half-rotation form. */
static void rotate(const float *x, const float *cos, const float *sin, int64_t n, float *out) {
    const int64_t half = n / 2;
    for (int64_t i = 0; i < half; i++) {
        float low = x[i], high = x[i + half];
        out[i] = low * cos[i] - high * sin[i];
        out[i + half] = high * cos[i + half] + low * sin[i + half];
    }
}

/* Queries in place, keys and values into the cache. */
static void place_row(const team *t, int64_t index, int64_t row, uint8_t *own) {
    const forward *f = t->f;
    const model *c = f->model;
    const layer *l = c->layers + index;
    const int64_t size = c->head_dim, heads = c->heads, kv = c->kv_heads;
    const float *cos = f->cos + row * size, *sin = f->sin + row * size;
    const sequence *s = f->sequences;
    int64_t at = row;
    while (at >= s->rows) at -= s++->rows;
    float *head = t->qkv + row * (heads + 2 * kv) * size, *turned = (float *)own;
    const int64_t plane = s->capacity * size;
    float *keys = s->cache + 2 * index * kv * plane + (s->past + at) * size;
    for (int64_t h = 0; h < heads + kv; h++, head += size) {
        const float *weight = h < heads ? l->q_norm : l->k_norm;
        if (weight) rms_norm(head, weight, size, c->eps, head);
        rotate(head, cos, sin, size, turned);
        memcpy(h < heads ? head : keys + (h - heads) * plane, turned, (size_t)size * sizeof(float));
    }
    for (int64_t h = 0; h < kv; h++, head += size)
        memcpy(keys + (kv + h) * plane, head, (size_t)size * sizeof(float));
}

static void swiglu_and_quantize(const team *t, int64_t item, uint8_t *own) {
    const operand *to = t->in + DOWN;
    const patch p = patch_of(to, t->f->m, item);
    float *out = (float *)own;
    for (int64_t row = p.row; row < p.row + p.rows; row++) {
        const float *gate = t->gate_up + row * 2 * to->k + p.first, *up = gate + to->k;
        for (int64_t i = 0; i < p.n; i += LANES) {
            vf g = vf_load(gate + i);
            vf gated = vf_div(g, vf_add(vf_all(1.0f), vf_exp(vf_mul(g, vf_all(-1.0f)))));
            vf_store(out + i, vf_mul(gated, vf_load(up + i)));
        }
        quantize(to, row, p.first, out, p.n);
    }
}

/* --- layers --------------------------------------------------------------------------------------- */

static int64_t chunks(const matrix *w) { return up_to(matrix_tiles(w), CHUNK) / CHUNK; }

/* y (m, rows of W), or y += , of the operand; noisy rows get the adapter's share besides. */
static int64_t product(team *t, int64_t stage, int64_t index, int target, float *y, int add) {
    const forward *f = t->f;
    const matrix *w = f->model->layers[index].w + target;
    const pairs *p = f->pairs && f->n_noisy ? f->pairs + index : NULL;
    const matrix *a = p && p->a[target].n_parts ? p->a + target : NULL;
    const int64_t stride = matrix_rows(w), rank = a ? matrix_rows(a) : 0;
    const int64_t first = a ? f->n_noisy : 0;
    const operand in = t->in[target], low = operand_in(t->low, f->m, rank);
    STAGE(first + chunks(w), {
        if (i < first) {
            const stretch n = f->noisy[i];
            float *out = t->a + n.first * rank;
            multiply(a, 0, matrix_tiles(a), &in, n.first, n.rows, out, rank, 0);
            for (int64_t r = 0; r < n.rows; r++)
                quantize(&low, n.first + r, 0, out + r * rank, rank);
        } else {
            const int64_t tile = (i - first) * CHUNK;
            multiply(w, tile, tile + CHUNK, &in, 0, f->m, y, stride, add);
        }
    })
    if (!a) return stage;
    const matrix *b = p->b + target;
    STAGE(chunks(b), {
        for (int64_t j = 0; j < f->n_noisy; j++)
            multiply(b, i * CHUNK, (i + 1) * CHUNK, &low, f->noisy[j].first, f->noisy[j].rows,
                     y + f->noisy[j].first * stride, stride, 1);
    })
    return stage;
}

static int64_t attention_items(const team *t) {
    const forward *f = t->f;
    int64_t items = 0;
    for (int64_t s = 0; s < f->n_sequences; s++)
        items += up_to(f->sequences[s].rows, t->attend_rows) / t->attend_rows;
    return items * f->model->kv_heads;
}

static void attention_item(const team *t, int64_t index, int64_t item, uint8_t *own) {
    const sequence *s = t->f->sequences;
    const int64_t kv = t->f->model->kv_heads, most = t->attend_rows, shared = item % kv;
    int64_t start = 0, block = item / kv, blocks;
    while (block >= (blocks = up_to(s->rows, most) / most)) {
        block -= blocks;
        start += s++->rows;
    }
    const int64_t first = block * most, rest = s->rows - first;
    attend(t, s, index, start, first, rest < most ? rest : most, shared, own);
}

static void run_layers(void *argument) {
    team *t = argument;
    const forward *f = t->f;
    const model *c = f->model;
    uint8_t *own = t->own + __atomic_fetch_add(t->joined, 1, __ATOMIC_RELAXED) * t->own_bytes;
    int64_t stage = 0;
    for (int64_t index = f->first; index < f->last; index++) {
        const layer *l = c->layers + index;
        STAGE(patches(t->in + QKV, f->m), norm_and_quantize(t, i, l->attention_norm, t->in + QKV, own))
        stage = product(t, stage, index, QKV, t->qkv, 0);
        STAGE(f->m, place_row(t, index, i, own))
        if (!f->wanted && index == c->n_layers - 1) return;
        STAGE(attention_items(t), attention_item(t, index, i, own))
        STAGE(patches(t->in + O, f->m), quantize_attended(t, i))
        stage = product(t, stage, index, O, f->x, 1);
        STAGE(patches(t->in + GATE_UP, f->m), norm_and_quantize(t, i, l->ffn_norm, t->in + GATE_UP, own))
        stage = product(t, stage, index, GATE_UP, t->gate_up, 0);
        STAGE(patches(t->in + DOWN, f->m), swiglu_and_quantize(t, i, own))
        stage = product(t, stage, index, DOWN, f->x, 1);
    }
    if (f->last == c->n_layers) {
        STAGE(f->m, rms_norm(f->x + i * c->hidden, c->norm, c->hidden, c->eps, f->x + i * c->hidden))
    }
}

enum { STAGES = 6 + 2 * TARGETS }; /* of a layer, at most */
enum { ITEM_FLOATS = 1 << 16 };    /* of attention: what stays in the nearest caches */

/* Memory from `at` on, which moves behind it. */
static void *memory(int64_t *at, uint8_t *start, int64_t bytes) {
    uint8_t *found = start + *at;
    *at += up_to(bytes, 64);
    return found;
}

static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* Lays a team out in memory; its size in bytes. */
static int64_t lay_out(team *t, const forward *f, uint8_t *start, unsigned threads) {
    const model *c = f->model;
    const int64_t width = c->heads * c->head_dim, m = f->m, kv = c->kv_heads;
    const int64_t f4 = sizeof(float), count = STAGES * (f->last - f->first) + 1;
    int64_t keys = 0, rank = 0, at = 0, rows = up_to(m * kv, 2 * threads) / (2 * threads);
    for (int64_t i = 0; i < f->n_sequences; i++)
        keys = most(keys, f->sequences[i].past + f->sequences[i].rows);
    for (int64_t i = f->first; f->pairs && i < f->last; i++)
        for (int target = 0; target < TARGETS; target++)
            rank = most(rank, matrix_rows(f->pairs[i].a + target));
    while (rows > 1 && attend_floats(c, rows, keys) > ITEM_FLOATS) rows--;
    t->f = f;
    t->attend_rows = rows;
    t->own_bytes = up_to(f4 * most(attend_floats(c, rows, keys), most(c->head_dim, SEGMENT)), 64);
    uint8_t *in = memory(&at, start, blockdiff_scratch(m, most(c->hidden, most(width, c->ffn))));
    t->in[QKV] = t->in[GATE_UP] = operand_in(in, m, c->hidden);
    t->in[O] = operand_in(in, m, width);
    t->in[DOWN] = operand_in(in, m, c->ffn);
    t->low = memory(&at, start, blockdiff_scratch(m, rank));
    t->a = memory(&at, start, m * rank * f4);
    t->qkv = memory(&at, start, m * (width + 2 * kv * c->head_dim) * f4);
    t->attended = memory(&at, start, m * width * f4);
    t->gate_up = memory(&at, start, m * 2 * c->ffn * f4);
    t->own = memory(&at, start, threads * t->own_bytes);
    t->joined = memory(&at, start, (1 + 2 * count) * (int64_t)sizeof(int64_t));
    t->next = t->joined + 1;
    t->done = t->next + count;
    if (start) memset(t->joined, 0, (size_t)(1 + 2 * count) * sizeof(int64_t));
    return at;
}

/* Bytes of memory that `blockdiff_stack` needs. */
int64_t blockdiff_stack_scratch(const forward *f, unsigned threads) {
    team t;
    return lay_out(&t, f, NULL, threads);
}

/* Runs layers `first` to `last` over the stream, in place. `scratch` is aligned to 64 bytes. */
void blockdiff_stack(const forward *f, uint8_t *scratch, parallel fork, unsigned threads) {
    team t;
    lay_out(&t, f, scratch, threads);
    if (fork && threads > 1) fork(run_layers, &t, threads, 0);
    else run_layers(&t);
}
