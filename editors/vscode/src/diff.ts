// From the text of a draft to what is painted: lines, chunks of one kind, parts.

import type { Span } from "./messages";

/** What a piece of a draft is; `plain` is text of the document itself. */
export type TokenKind = "settled" | "masked" | "uncertain" | "plain";

/** Text without a line break. */
export interface Chunk {
	readonly text: string;
	readonly kind: TokenKind;
}

/** A text with "\n" as its only line break, and the spans that follow it. */
export function normalize(
	text: string, settled: readonly Span[], uncertain: readonly Span[],
): { text: string; settled: readonly Span[]; uncertain: readonly Span[] } {
	if (!text.includes("\r")) {
		return { text, settled, uncertain };
	}
	const gone = [...text.matchAll(/\r\n/g)].map(match => match.index);
	const shifted = (offset: number) => offset - gone.filter(at => at < offset).length;
	const follow = (spans: readonly Span[]) =>
		spans.map(([start, end]): Span => [shifted(start), shifted(end)]);
	return { text: text.replace(/\r\n?/g, "\n"), settled: follow(settled), uncertain: follow(uncertain) };
}

/** The lines of a draft, each as chunks of one kind. Always at least one line. */
export function chunksByLine(text: string, settled: readonly Span[], uncertain: readonly Span[]): Chunk[][] {
	const kinds = new Array<TokenKind>(text.length).fill("masked");
	for (const [start, end] of settled) {
		kinds.fill("settled", Math.max(start, 0), Math.min(end, text.length));
	}
	for (const [start, end] of uncertain) {
		kinds.fill("uncertain", Math.max(start, 0), Math.min(end, text.length));
	}
	const lines: Chunk[][] = [[]];
	let start = 0;
	const close = (end: number) => {
		if (end > start) {
			lines[lines.length - 1]!.push({ text: text.slice(start, end), kind: kinds[start]! });
		}
		start = end;
	};
	for (let at = 0; at < text.length; at++) {
		if (text[at] === "\n") {
			close(at);
			lines.push([]);
			start = at + 1;
		} else if (at > start && kinds[at] !== kinds[at - 1]) {
			close(at);
		}
	}
	close(text.length);
	return lines;
}

/** The first line of a draft with its line break; of one that begins with a break, that and the line behind it. */
export function firstLine(text: string): string {
	return (text.startsWith("\n") ? /^\n[^\n]*/ : /^[^\n]*\n?/).exec(text)![0];
}

/** The first word of a draft, or the signs up to the next one, with the blanks before it. */
export function firstWord(text: string): string {
	return /^\s*(?:[\w\u{80}-\u{10ffff}]+|[^\w\s\u{80}-\u{10ffff}]+)?/u.exec(text)![0];
}

/** Spans of what is left of a text without its first `gone` units. */
export function withoutHead(spans: readonly Span[], gone: number): Span[] {
	return spans
		.filter(([, end]) => end > gone)
		.map(([start, end]): Span => [Math.max(start - gone, 0), end - gone]);
}
