/** Numbers that are the same on every machine. */
export class Random {
	constructor(private state: number) {}

	/** 0 to n - 1. */
	below(n: number): number {
		this.state = (this.state * 16807) % 2147483647;
		return this.state % n;
	}

	pick<T>(items: readonly T[]): T {
		return items[this.below(items.length)]!;
	}
}
