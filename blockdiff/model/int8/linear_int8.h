/* Products of quantized activations and packed weights; see linear_int8.c. */

#ifndef BLOCKDIFF_LINEAR_INT8_H
#define BLOCKDIFF_LINEAR_INT8_H

#include <stdint.h>

/* For the library's own sources: not to be mixed up with what another library calls the same. */
#define OWN __attribute__((visibility("hidden")))

enum { ROWS = 16, GROUP = 32, FOLD = 128, SUPER = 256 };
enum { CHUNK = 4 }; /* tiles that a thread takes at a time */

/* Some rows of W in one format. */
typedef struct {
    int64_t kind, n;       /* format, output rows */
    const uint8_t *packed; /* tiles one after the other, 64-byte aligned where that is possible */
    const float *bias;     /* n, or null */
} part;

/* W: parts one above the other. */
typedef struct {
    const part *parts;
    int64_t n_parts;
} matrix;

/* Quantized activations of some positions, k inputs each. `block` of them lie together, group by
 * group, so that one address serves a product of all of them: arrays are (blocks, k / 32, block).
 * Where k is a multiple of 128, four groups in a row have one scale. */
typedef struct {
    int64_t k, block;
    int8_t *q;      /* 32 */
    float *scale;   /* what one step of q means */
    float *sum;     /* the group's sum, scaled */
    int16_t *total; /* 2, in every other group: the sum of its q and of that of the next */
    int32_t *low;   /* 2: minus 32 times the sum of each half of q; with NARROW both sums in one */
} operand;

/* Where in `scale` a group of a row stands. */
static inline int64_t group_at(const operand *x, int64_t row, int64_t group) {
    return (row / x->block * (x->k / GROUP) + group) * x->block + row % x->block;
}

/* Bytes of memory for an operand of m rows, a multiple of 64, and the operand in it. */
int64_t blockdiff_scratch(int64_t m, int64_t k);
OWN operand operand_in(uint8_t *memory, int64_t m, int64_t k);

/* Quantize n inputs of a row, from input `first` on: whole groups, and whole folds where k is a
 * multiple of those. Rows of a block share cache lines: they are rather not for several threads. */
OWN void quantize(const operand *to, int64_t row, int64_t first, const float *x, int64_t n);

OWN int64_t matrix_rows(const matrix *w);
OWN int64_t matrix_tiles(const matrix *w);

/* y = x W^T + b, or y += that, for tiles `first` to `last` of W and rows `row` to `row + rows` of x.
 * `y` is row `row` of the result, `stride` floats behind which the next one begins. */
OWN void multiply(const matrix *w, int64_t first, int64_t last, const operand *x, int64_t row,
              int64_t rows, float *y, int64_t stride, int add);

/* Runs a function in several threads at once: OpenMP's own, handed in, so that there is one pool. */
typedef void (*parallel)(void (*)(void *), void *, unsigned threads, unsigned flags);

#endif
