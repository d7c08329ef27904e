// Random edits of a document against drafts. A draft that lives on must stand at the very text it was
// asked for, and taking it must give what replacing that text gives.

import { expect, test } from "vitest";
import { changeOf, move, smallest } from "../../src/edit";
import { paint } from "../../src/paint";
import { Session } from "../../src/session";
import { firstLine } from "../../src/diff";
import { Model } from "./model";
import { Random } from "./random";

const CASES = Number(process.env["BLOCKDIFF_FUZZ_CASES"] ?? 10_000);
const PIECES = ["a", "bc", "\n", "\n\n", "é", "🦊", "\t", "def f():\n    ", "", "x\ny\nz"];
const random = new Random(Number(process.env["BLOCKDIFF_FUZZ_SEED"] ?? 20261121));

function textOf(pieces: number): string {
	return Array.from({ length: random.below(pieces) }, () => random.pick(PIECES)).join("");
}

/** An offset at the start of a character. */
function place(text: string): number {
	const at = random.below(text.length + 1);
	const code = text.charCodeAt(at);
	const splits = (code >= 0xdc00 && code <= 0xdfff) || (text[at] === "\n" && text[at - 1] === "\r");
	return splits ? at - 1 : at;
}

function span(text: string): [number, number] {
	const one = place(text), other = random.below(2) === 0 ? one : place(text);
	return [Math.min(one, other), Math.max(one, other)];
}

test("drafts follow edits or end", () => {
	let survived = 0, ended = 0;
	for (let number = 0; number < CASES; number++) {
		const lineBreak = random.pick(["\n", "\r\n"]);
		const write = (pieces: number) => textOf(pieces).replaceAll("\n", lineBreak);
		const model = new Model(write(30));
		const draft = textOf(5);
		const session = new Session("r", "infill", [model.range(...span(model.text))]);
		const old = model.get(session.holes[0]!.range);
		session.refine({
			requestId: "r", seq: 0, hole: 0, range: session.holes[0]!.range, text: draft, settled: [], uncertain: [],
			step: 1, done: true,
		}, 1);
		for (let edits = 1 + random.below(3); edits > 0 && session.isAlive; edits--) {
			const edited = model.range(...span(model.text));
			const text = write(4);
			session.follow(changeOf(edited, text));
			model.replace(edited, text);
		}
		if (!session.isAlive) {
			ended++;
			continue;
		}
		survived++;
		const { range } = session.holes[0]!;
		expect([number, model.get(range)]).toEqual([number, old]);
		for (const row of paint(model, session.holes, 4).rows) {
			expect(row.line).toBeLessThan(model.lineCount);
			expect(row.hiddenTo).toBeLessThanOrEqual(model.lineAt(row.line).length);
		}
		const start = model.offsetAt(range.start), end = model.offsetAt(range.end);
		const expected = model.text.slice(0, start) + draft.replaceAll("\n", lineBreak) + model.text.slice(end);
		accept(model, session, lineBreak);
		expect([number, model.text]).toEqual([number, expected]);
	}
	expect(survived).toBeGreaterThan(CASES / 10);
	expect(ended).toBeGreaterThan(CASES / 10);
});

/** At once, or line by line. */
function accept(model: Model, session: Session, lineBreak: string): void {
	const byLine = random.below(2) === 0;
	while (session.holes.length > 0) {
		const { range, text } = session.holes[0]!;
		const head = byLine ? firstLine(text) : text;
		const whole = head === text ? range : { start: range.start, end: range.start };
		const from = model.offsetAt(whole.start);
		const change = smallest(model.get(whole), head.replaceAll("\n", lineBreak));
		model.replace(model.range(from + change.start, from + change.end), change.text);
		session.takeHead(0, head);
	}
}

test("moving agrees with offsets", () => {
	for (let number = 0; number < CASES; number++) {
		const model = new Model(textOf(20));
		const [from, to] = span(model.text), [start, end] = span(model.text);
		const text = textOf(4);
		const edited = model.range(from, to), before = model.range(start, end);
		model.replace(edited, text);
		const found = move(before, changeOf(edited, text));
		const by = to < start ? text.length - (to - from) : 0;
		const expected = from <= end && start <= to ? undefined : model.range(start + by, end + by);
		expect([number, found]).toEqual([number, expected]);
	}
});
