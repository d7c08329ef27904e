/* What stack.c and attention.c know of a forward. */

#ifndef BLOCKDIFF_STACK_H
#define BLOCKDIFF_STACK_H

#include "linear_int8.h"

enum { QKV, O, GATE_UP, DOWN, TARGETS };

typedef struct {
    const float *attention_norm, *ffn_norm; /* hidden */
    const float *q_norm, *k_norm;           /* head_dim, or null */
    matrix w[TARGETS];
} layer;

/* Low-rank pairs of a layer, y += b(a(x)); without parts where it has none. */
typedef struct {
    matrix a[TARGETS], b[TARGETS];
} pairs;

typedef struct {
    int64_t hidden, heads, kv_heads, head_dim, ffn;
    double eps;
    const layer *layers;
    const float *norm; /* hidden: behind the last layer */
    int64_t n_layers;
} model;

/* New positions of one sequence. Its cache is (layers, 2, kv_heads, capacity, head_dim). */
typedef struct {
    int64_t rows, past, capacity;
    float *cache;
    const uint8_t *mask; /* (rows, past + rows): which keys a row sees */
} sequence;

/* Consecutive rows. */
typedef struct {
    int64_t first, rows;
} stretch;

typedef struct {
    const model *model;
    const pairs *pairs; /* one for each layer, or null */
    int64_t first, last; /* layers to run; the model's last one is followed by its norm */
    int64_t wanted;      /* 0: of the model's last layer only keys and values, and no norm */
    int64_t m;
    float *x;               /* (m, hidden), the stream */
    const float *cos, *sin; /* (m, head_dim) */
    const sequence *sequences;
    int64_t n_sequences;
    const stretch *noisy;
    int64_t n_noisy;
} forward;

typedef struct {
    const forward *f;
    operand in[TARGETS]; /* of each product; they lie in the same memory */
    uint8_t *low;        /* memory for the operand of a pair's second product */
    float *a;            /* (m, rank): what the first one made */
    float *qkv, *attended, *gate_up;
    uint8_t *own; /* memory of each thread */
    int64_t own_bytes, attend_rows;
    int64_t *joined;      /* threads that have come */
    int64_t *next, *done; /* of each stage: items handed out, items done */
} team;

static inline int64_t up_to(int64_t n, int64_t whole) { return (n + whole - 1) / whole * whole; }

/* Floats that `attend` needs for so many rows. */
OWN int64_t attend_floats(const model *c, int64_t rows, int64_t keys);

/* Some rows of a sequence, which begins at row `start` of x; the heads that share keys. */
OWN void attend(const team *t, const sequence *s, int64_t index, int64_t start, int64_t first,
                int64_t rows, int64_t shared, uint8_t *own);

#endif
