// A document as VS Code keeps it: one kind of line break, positions, edits.

import type { Position, Range } from "../../src/edit";

export class Model {
	constructor(public text: string) {}

	get lines(): string[] {
		return this.text.split(/\r\n|\r|\n/);
	}

	get lineCount(): number {
		return this.lines.length;
	}

	lineAt(line: number): string {
		return this.lines[line] ?? "";
	}

	offsetAt({ line, character }: Position): number {
		let at = 0;
		for (let i = 0; i < line; i++) {
			at = /\r\n|\r|\n/.exec(this.text.slice(at))!.index + at;
			at += this.text.startsWith("\r\n", at) ? 2 : 1;
		}
		return at + character;
	}

	positionAt(offset: number): Position {
		const before = this.text.slice(0, offset).split(/\r\n|\r|\n/);
		return { line: before.length - 1, character: before[before.length - 1]!.length };
	}

	range(start: number, end: number): Range {
		return { start: this.positionAt(start), end: this.positionAt(end) };
	}

	get(range: Range): string {
		return this.text.slice(this.offsetAt(range.start), this.offsetAt(range.end));
	}

	replace(range: Range, text: string): void {
		this.text = this.text.slice(0, this.offsetAt(range.start)) + text + this.text.slice(this.offsetAt(range.end));
	}
}
