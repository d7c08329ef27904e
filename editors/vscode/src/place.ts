// From a selection to the hole that is meant.

import { isEmpty, type Range } from "./edit";
import type { Lines } from "./paint";

/**
 * A selection of whole lines, down to the start of the next one, means their content: the indentation
 * of the first and the ending of the last stay.
 */
export function meant(document: Lines, { start, end }: Range): Range {
	if (end.character !== 0 || end.line === start.line) {
		return { start, end };
	}
	const first = document.lineAt(start.line), last = end.line - 1;
	const indentation = first.length - first.trimStart().length;
	const isFromStart = first.trim() !== "" && start.character <= indentation;
	return {
		start: isFromStart ? { line: start.line, character: indentation } : start,
		end: { line: last, character: document.lineAt(last).length },
	};
}

/** The same; without a selection, the content of the cursor's line. */
export function meantAsWhole(document: Lines, selection: Range): Range {
	if (!isEmpty(selection)) {
		return meant(document, selection);
	}
	const { line } = selection.start;
	return meant(document, { start: { line, character: 0 }, end: { line: line + 1, character: 0 } });
}
