// Ranges, and what edits do to them. Nothing here knows of an editor.

/** Zero-based; `character` counts UTF-16 units, as VS Code and the protocol do. */
export interface Position {
	readonly line: number;
	readonly character: number;
}

/** The end is not part of it. */
export interface Range {
	readonly start: Position;
	readonly end: Position;
}

/** An edit: what reached from `start` to `oldEnd` reaches to `newEnd` now. */
export interface Change {
	readonly start: Position;
	readonly oldEnd: Position;
	readonly newEnd: Position;
}

export function isBeforeOrAt(one: Position, other: Position): boolean {
	return one.line < other.line || (one.line === other.line && one.character <= other.character);
}

export function isSame(one: Range, other: Range): boolean {
	return isBeforeOrAt(one.start, other.start) && isBeforeOrAt(other.start, one.start)
		&& isBeforeOrAt(one.end, other.end) && isBeforeOrAt(other.end, one.end);
}

export function isEmpty(range: Range): boolean {
	return isBeforeOrAt(range.end, range.start);
}

/** The end of a text that starts at a position. */
export function advance(from: Position, text: string): Position {
	const lines = text.split(/\r\n|\r|\n/);
	const last = lines[lines.length - 1] ?? "";
	return lines.length === 1
		? { line: from.line, character: from.character + last.length }
		: { line: from.line + lines.length - 1, character: last.length };
}

/** An edit as editors report it: a range of the old document and the text that took its place. */
export function changeOf(range: Range, text: string): Change {
	return { start: range.start, oldEnd: range.end, newEnd: advance(range.start, text) };
}

/** Whether an edit reaches into a range, or inserts at one of its edges. The server says the same. */
export function touches(change: Change, range: Range): boolean {
	return isBeforeOrAt(change.start, range.end) && isBeforeOrAt(range.start, change.oldEnd);
}

/** Where a position is after an edit; one within what was replaced does not move. */
export function moved(position: Position, change: Change): Position {
	const { oldEnd, newEnd } = change;
	if (!isBeforeOrAt(oldEnd, position)) {
		return position;
	}
	const shift = position.line === oldEnd.line ? newEnd.character - oldEnd.character : 0;
	return { line: position.line - oldEnd.line + newEnd.line, character: position.character + shift };
}

/** Where a range is after an edit; undefined if the edit touches it. */
export function move(range: Range, change: Change): Range | undefined {
	if (touches(change, range)) {
		return undefined;
	}
	return { start: moved(range.start, change), end: moved(range.end, change) };
}

/** Whether an offset lies between the halves of a surrogate pair or of a CRLF. */
function splitsPair(text: string, at: number): boolean {
	const before = text.charCodeAt(at - 1), after = text.charCodeAt(at);
	const surrogates = before >= 0xd800 && before <= 0xdbff && after >= 0xdc00 && after <= 0xdfff;
	return surrogates || (before === 0x0d && after === 0x0a);
}

/** The part of `old` from `start` to `end`, and what it becomes. */
export interface Replacement {
	readonly start: number;
	readonly end: number;
	readonly text: string;
}

/** The smallest replacement that makes `old` read `text`, by common beginning and end. */
export function smallest(old: string, text: string): Replacement {
	const most = Math.min(old.length, text.length);
	let head = 0;
	while (head < most && old[head] === text[head]) {
		head++;
	}
	while (head > 0 && (splitsPair(old, head) || splitsPair(text, head))) {
		head--;
	}
	let tail = 0;
	while (tail < most - head && old[old.length - 1 - tail] === text[text.length - 1 - tail]) {
		tail++;
	}
	while (tail > 0 && (splitsPair(old, old.length - tail) || splitsPair(text, text.length - tail))) {
		tail--;
	}
	return { start: head, end: old.length - tail, text: text.slice(head, text.length - tail) };
}

/** Where the end of the `index`-th of several texts is, once each stands in its range. */
export function endAfterAll(
	edits: readonly { readonly range: Range; readonly text: string }[], index: number,
): Position | undefined {
	const near = edits[index];
	if (!near) {
		return undefined;
	}
	return edits
		.filter(edit => edit !== near && isBeforeOrAt(edit.range.end, near.range.start))
		.sort((one, other) => isBeforeOrAt(one.range.start, other.range.start) ? 1 : -1)
		.reduce(
			(position, edit) => moved(position, changeOf(edit.range, edit.text)),
			// the end of `near` where nothing stands before it has the line of its start
			advance(near.range.start, near.text),
		);
}
