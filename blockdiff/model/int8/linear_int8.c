/* y = x W^T + b with weights of 4 to 7 bits and int8 activations, accumulated in int32.
 *
 * Sixteen output rows form a tile (tiles.c). Activations are quantized per position and fold of 128
 * inputs, or group of 32 where their number is no multiple of that. A fold of 256 would save nothing
 * more, and cost quality: some inputs are hundreds of times as large as others.
 * What a row of y holds does not depend on how many rows are computed together: integer sums are
 * exact, float operations come in one order.
 */

#include "lanes.h"
#include "tiles.h"

enum { PIECES = 64 / MOST }; /* blocks of positions that stay in the second cache beside weights */

/* --- activations -------------------------------------------------------------------------------- */

/* Positions that lie together: as many as one product takes, or fewer if that leaves no small rest. */
static int64_t block_of(int64_t m) {
    int64_t blocks = (m + MOST - 1) / MOST;
    return blocks ? (m + blocks - 1) / blocks : 1;
}

int64_t blockdiff_scratch(int64_t m, int64_t k) {
    int64_t block = block_of(m), groups = (m + block - 1) / block * block * (k / GROUP);
    return (groups * (GROUP + 20) + 63) / 64 * 64;
}

operand operand_in(uint8_t *memory, int64_t m, int64_t k) {
    int64_t block = block_of(m), groups = (m + block - 1) / block * block * (k / GROUP);
    float *scale = (float *)(memory + groups * GROUP);
    int32_t *low = (int32_t *)(scale + 2 * groups);
    int8_t *q = (int8_t *)memory;
    return (operand){k, block, q, scale, scale + groups, (int16_t *)(low + 2 * groups), low};
}

void quantize(const operand *to, int64_t row, int64_t first, const float *x, int64_t n) {
    const int64_t whole = to->k % FOLD ? GROUP : FOLD, block = to->block;
    int64_t group = first / GROUP, at = group_at(to, row, group);
    for (const float *end = x + n; x < end; x += whole) {
        vf most = vf_zero();
        for (int64_t i = 0; i < whole; i += LANES) most = vf_max(most, vf_abs(vf_load(x + i)));
        const float largest = vf_most(most), step = largest / 127.0f;
        const vf inverse = vf_all(largest > 0 ? 127.0f / largest : 0.0f);
        for (int64_t i = 0; i < whole; i += GROUP, at += block, group++) {
            int32_t sum[2];
            for (int half = 0; half < 2; half++) {
                vf a = vf_mul(vf_load(x + i + half * LANES), inverse);
                vi q = vi_trunc(vf_add(a, vf_half_away(a)));
                vi_store_s8(to->q + GROUP * at + half * LANES, q);
                sum[half] = vi_sum(q);
                to->low[2 * at + half] = -32 * sum[half];
            }
#ifdef NARROW
            to->low[2 * at] = (int32_t)((uint32_t)sum[1] << 16 | (uint16_t)sum[0]);
#endif
            to->scale[at] = step;
            to->sum[at] = step * (float)(sum[0] + sum[1]);
            to->total[2 * (at - group % 2 * block) + group % 2] = (int16_t)(sum[0] + sum[1]);
        }
    }
}

/* --- whole matrices ------------------------------------------------------------------------------ */

static int64_t tiles_of(const part *p) { return (p->n + ROWS - 1) / ROWS; }

int64_t matrix_rows(const matrix *w) {
    int64_t rows = 0;
    for (int64_t i = 0; i < w->n_parts; i++) rows += w->parts[i].n;
    return rows;
}

int64_t matrix_tiles(const matrix *w) {
    int64_t tiles = 0;
    for (int64_t i = 0; i < w->n_parts; i++) tiles += tiles_of(w->parts + i);
    return tiles;
}

/* The pieces of some rows, at most `PIECES` of them; returns how many. */
static int cut(const operand *x, int64_t row, int64_t rows, piece *pieces) {
    int count = 0;
    for (int64_t end = row + rows; row < end && count < PIECES; row += pieces[count++].n) {
        int64_t whole = x->block - row % x->block;
        pieces[count] = (piece){row, whole < end - row ? whole : end - row};
    }
    return count;
}

static void one_tile(const part *p, int64_t t, const operand *x, const piece *pieces, int count,
                     float *y, int64_t stride, int add) {
    const int rows = (int)(p->n - t * ROWS < ROWS ? p->n - t * ROWS : ROWS);
    const float *bias = p->bias ? p->bias + t * ROWS : NULL;
    int64_t m = 0;
    for (int i = 0; i < count; i++) m += pieces[i].n;
    _Alignas(64) float sums[PIECES * MOST][ROWS];
    memset(sums, 0, (size_t)m * sizeof *sums);
    sums_of_tile(p->kind, p->packed + t * tile_bytes(p->kind, x->k), x, pieces, count, sums);
    for (int64_t i = 0; i < m; i++, y += stride) {
        if (rows == ROWS) {
            vf out = vf_load(sums[i]);
            if (bias) out = vf_add(out, vf_load(bias));
            vf_store(y, add ? vf_add(vf_load(y), out) : out);
            continue;
        }
        for (int r = 0; r < rows; r++) {
            float out = sums[i][r] + (bias ? bias[r] : 0.0f);
            y[r] = add ? y[r] + out : out;
        }
    }
}

void multiply(const matrix *w, int64_t first, int64_t last, const operand *x, int64_t row,
              int64_t rows, float *y, int64_t stride, int add) {
    piece pieces[PIECES];
    for (const int64_t end = row + rows; row < end;) {
        const int count = cut(x, row, end - row, pieces);
        const int64_t next = pieces[count - 1].row + pieces[count - 1].n;
        float *of_part = y;
        int64_t seen = 0;
        for (int64_t i = 0; i < w->n_parts && seen < last; i++) {
            const part *p = w->parts + i;
            int64_t tiles = tiles_of(p);
            for (int64_t t = first > seen ? first - seen : 0; t < tiles && seen + t < last; t++)
                one_tile(p, t, x, pieces, count, of_part + t * ROWS, stride, add);
            seen += tiles;
            of_part += p->n;
        }
        y += (next - row) * stride;
        row = next;
    }
}

/* --- whole matrices, in threads ------------------------------------------------------------------ */

typedef struct {
    matrix w;
    operand x;
    const float *in;
    float *y;
    int64_t m, stride, tiles;
    int64_t next; /* work not handed out yet */
} job;

static void quantize_some(void *argument) {
    job *j = argument;
    for (;;) {
        int64_t row = __atomic_fetch_add(&j->next, 1, __ATOMIC_RELAXED);
        if (row >= j->m) return;
        quantize(&j->x, row, 0, j->in + row * j->x.k, j->x.k);
    }
}

static void multiply_some(void *argument) {
    job *j = argument;
    for (;;) {
        int64_t first = CHUNK * __atomic_fetch_add(&j->next, 1, __ATOMIC_RELAXED);
        if (first >= j->tiles) return;
        multiply(&j->w, first, first + CHUNK, &j->x, 0, j->m, j->y, j->stride, 0);
    }
}

static void run(parallel fork, unsigned threads, void (*work)(void *), job *j) {
    j->next = 0;
    if (fork && threads > 1) fork(work, j, threads, 0);
    else work(j);
}

const char *blockdiff_backend(void) { return BACKEND; }

/* y (m, rows of W) = x (m, k) W^T + b; k is a multiple of 32, with Q4 and Q6 of 256. `scratch` has
 * `blockdiff_scratch(m, k)` bytes. */
void blockdiff_linear(const part *parts, int64_t n_parts, const float *x, int64_t m, int64_t k,
                      float *y, uint8_t *scratch, parallel fork, unsigned threads) {
    matrix w = {parts, n_parts};
    int64_t stride = matrix_rows(&w);
    job j = {w, operand_in(scratch, m, k), x, y, m, stride, matrix_tiles(&w), 0};
    run(fork, m * k > 65536 ? threads : 1, quantize_some, &j);
    /* Waking a thread takes longer than a small product. */
    run(fork, m * k * stride > 1000000 ? threads : 1, multiply_some, &j);
}
