// Versions of the package, such as 0.1.0 or 0.2.0rc1.

/** Whether a version is older than another, by its numbers. */
export function isOlder(version: string, than: string): boolean {
	const numbers = (text: string) => text.split(".").map(part => Number.parseInt(part, 10) || 0);
	const one = numbers(version), other = numbers(than);
	for (let i = 0; i < Math.max(one.length, other.length); i++) {
		const difference = (one[i] ?? 0) - (other[i] ?? 0);
		if (difference !== 0) {
			return difference < 0;
		}
	}
	return false;
}
