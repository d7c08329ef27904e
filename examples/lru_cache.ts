/** A map that forgets the entries that were not used for the longest time. */
export class LruCache<K, V> {
  // A Map iterates in insertion order, so its first key is the least recently used one.
  private readonly entries = new Map<K, V>();
  private hits = 0;
  private misses = 0;

  constructor(private readonly capacity: number) {
    if (!Number.isInteger(capacity) || capacity < 1) {
      throw new RangeError(`capacity must be a positive integer, got ${capacity}`);
    }
  }

  get size(): number {
    return this.entries.size;
  }

  /** The value of a key, which becomes the most recently used one. */
  get(key: K): V | undefined {
    // HOLE: look the key up, count the hit or miss, and move it to the end
  }

  /** Store a value and drop the least recently used entry if there is no room. */
  set(key: K, value: V): void {
    this.entries.delete(key);
    this.entries.set(key, value);
    if (this.entries.size > this.capacity) {
      const oldest = this.entries.keys().next().value as K;
      this.entries.delete(oldest);
    }
  }

  /** Share of lookups that found something, 0 before the first one. */
  hitRate(): number {
    const lookups = this.hits + this.misses;
    return lookups === 0 ? 0 : this.hits / lookups;
  }
}
