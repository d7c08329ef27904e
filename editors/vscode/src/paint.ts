// Where the drafts of a session are painted. VS Code's decorations cannot add lines, so a draft of
// several lines is painted over the lines that follow, which come back when it ends:
//
// - The one way to add lines, ghost text, belongs to the cursor, moves everything below at every new
//   draft, and does not ask again at the same position.
// - An overlay of one element is clipped where its line scrolls out of view, has one colour, and needs
//   an opaque background to be readable.
// - So each line that is painted hides its own text and shows a line of the draft in its place, on a
//   background of its own. Nothing moves while drafts change, and never more lines than the tallest
//   draft so far are covered. Lines that follow the hole are marked as covered, not as changed.

import { chunksByLine, type Chunk } from "./diff";
import { isEmpty, type Range } from "./edit";
import type { Hole } from "./session";

const MOST_COLUMNS = 1000;

export interface Lines {
	readonly lineCount: number;
	lineAt(line: number): string;
}

/** One painted line. */
export interface Row {
	/** Line of the document. */
	readonly line: number;
	/** How many rows below that line, for what hangs over the end of the document. */
	readonly below: number;
	/** Where the text is painted; what stands behind that in the line is hidden up to `hiddenTo`. */
	readonly column: number;
	readonly hiddenTo: number;
	readonly chunks: readonly Chunk[];
	/** The line is not part of what the draft replaces. */
	readonly isCovered: boolean;
	/** Nothing of this draft is painted below. */
	readonly isLast: boolean;
}

export interface Painting {
	readonly rows: readonly Row[];
	/** Text that will go, as long as there is no draft of what comes instead. */
	readonly replaced: readonly Range[];
}

/** What to paint for some holes, given in the order of the document. */
export function paint(document: Lines, holes: readonly Hole[], tabSize: number): Painting {
	const rows: Row[] = [];
	const replaced: Range[] = [];
	for (const [index, hole] of holes.entries()) {
		if (hole.text === "" && !hole.done) {
			if (!isEmpty(hole.range)) {
				replaced.push(hole.range);
			}
			continue;
		}
		rows.push(...rowsOf(document, hole, holes[index + 1]?.range.start.line ?? Infinity, tabSize));
	}
	return { rows, replaced };
}

/** `next` is the line of the next hole, which is not covered. */
function rowsOf(document: Lines, hole: Hole, next: number, tabSize: number): Row[] {
	const { start, end } = hole.range;
	const room = Math.max(next - start.line, 1);
	const lines = chunksByLine(hole.text, hole.settled, hole.uncertain);
	const oldHeight = end.line - start.line + 1;
	const height = Math.min(Math.max(lines.length, hole.tallest, oldHeight), room);
	const last = document.lineCount - 1;
	const isOneLine = height === 1 && (lines.length === 1 || next === end.line);
	const tail = next === end.line ? "" : document.lineAt(end.line).slice(end.character);
	if (!isOneLine && tail !== "") {
		lines[lines.length - 1]!.push({ text: tail, kind: "plain" });
	}
	if (lines.length > height) {
		const left = lines.length - height;
		lines[height - 1]!.push({ text: ` … ${left} more line${left === 1 ? "" : "s"}`, kind: "plain" });
	}
	const rows: Row[] = [];
	for (let row = 0; row < height; row++) {
		const line = Math.min(start.line + row, last);
		const below = start.line + row - line;
		const column = row === 0 ? start.character : below > 0 ? document.lineAt(line).length : 0;
		const before = row === 0 ? width(cells(document.lineAt(line).slice(0, column), 0, tabSize)) : 0;
		rows.push({
			line, below, column,
			hiddenTo: isOneLine ? end.character : document.lineAt(line).length,
			chunks: shown(lines[row] ?? [], before, tabSize),
			isCovered: start.line + row > end.line,
			isLast: row === height - 1,
		});
	}
	return rows;
}

/** Chunks as they are painted: tabs as blanks, control characters as pictures, not endlessly long. */
function shown(chunks: readonly Chunk[], from: number, tabSize: number): Chunk[] {
	const painted: Chunk[] = [];
	let column = from;
	for (const chunk of chunks) {
		const text = cells(chunk.text, column, tabSize);
		column += width(text);
		if (column > MOST_COLUMNS) {
			painted.push({ text: `${[...text].slice(0, MOST_COLUMNS).join("")}…`, kind: chunk.kind });
			break;
		}
		painted.push({ text, kind: chunk.kind });
	}
	return painted;
}

function cells(text: string, from: number, tabSize: number): string {
	if (!/[\0-\x1f\x7f\u2028\u2029]/.test(text)) {
		return text;
	}
	let made = "";
	for (const character of text) {
		const code = character.codePointAt(0)!;
		if (character === "\t") {
			made += " ".repeat(tabSize - ((from + width(made)) % tabSize));
		} else if (code < 0x20 || code === 0x7f) {
			made += String.fromCodePoint(code === 0x7f ? 0x2421 : 0x2400 + code);
		} else {
			made += code === 0x2028 || code === 0x2029 ? "␤" : character;
		}
	}
	return made;
}

const WIDE = /[\u1100-\u115f\u2e80-\u303e\u3041-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6\u{20000}-\u{3fffd}]|\p{Emoji_Presentation}/u;
const NO_WIDTH = /\p{Mn}|\p{Me}|\p{Cf}/u;

/** Columns of a text without tabs. */
export function width(text: string): number {
	if (/^[ -~]*$/.test(text)) {
		return text.length;
	}
	let columns = 0;
	for (const character of text) {
		columns += WIDE.test(character) ? 2 : NO_WIDTH.test(character) ? 0 : 1;
	}
	return columns;
}

/** Where each chunk of a painted line ends, as a share of its width. */
export function stops(chunks: readonly Chunk[]): { kind: Chunk["kind"]; until: number }[] {
	const widths = chunks.map(chunk => width(chunk.text));
	const whole = widths.reduce((sum, one) => sum + one, 0);
	let at = 0;
	return chunks.map((chunk, index) => {
		at += widths[index]!;
		return { kind: chunk.kind, until: whole === 0 ? 1 : at / whole };
	});
}
