/* Sixteen output rows of a matrix; see tiles.c. */

#ifndef BLOCKDIFF_TILES_H
#define BLOCKDIFF_TILES_H

#include "linear_int8.h"

/* Positions of one block, from `row` on. */
typedef struct {
    int64_t row, n;
} piece;

/* Size of a tile of k inputs. */
OWN int64_t tile_bytes(int64_t kind, int64_t k);

/* Sums of sixteen rows of W for some positions; they begin as zeros. To store unpacked weights costs
 * as much as to unpack them again once or twice. */
OWN void sums_of_tile(int64_t kind, const uint8_t *w, const operand *x, const piece *pieces,
                      int count, float (*to)[ROWS]);

#endif
