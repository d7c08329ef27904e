/* A queue of bytes in a fixed buffer: no allocation, constant time. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RING_CAPACITY 256

struct ring {
    uint8_t data[RING_CAPACITY];
    size_t head;  /* index of the oldest byte */
    size_t count; /* bytes in the buffer */
};

void ring_clear(struct ring *ring)
{
    ring->head = 0;
    ring->count = 0;
}

bool ring_is_empty(const struct ring *ring)
{
    return ring->count == 0;
}

bool ring_is_full(const struct ring *ring)
{
    return ring->count == RING_CAPACITY;
}

/* Append one byte; false if there is no room. */
bool ring_push(struct ring *ring, uint8_t byte)
{
    if (ring_is_full(ring))
        return false;
    ring->data[(ring->head + ring->count) % RING_CAPACITY] = byte;
    ring->count++;
    return true;
}

/* Take the oldest byte out; false if there is none. */
bool ring_pop(struct ring *ring, uint8_t *byte)
{
    /* HOLE: the opposite of ring_push */
}

/* Append as many bytes as fit and return how many those were. */
size_t ring_write(struct ring *ring, const uint8_t *bytes, size_t length)
{
    size_t written = 0;
    while (written < length && ring_push(ring, bytes[written]))
        written++;
    return written;
}
