import { describe, expect, test } from "vitest";
import { changeOf, type Range } from "../../src/edit";
import type { Outcome, Refinement } from "../../src/messages";
import { Session } from "../../src/session";

const range = (a: number, b: number, c = a, d = b): Range =>
	({ start: { line: a, character: b }, end: { line: c, character: d } });

const refinement = (part: Partial<Refinement>): Refinement => ({
	requestId: "r", seq: 0, version: 1, hole: 0, range: range(1, 0), text: "ab", settled: [], uncertain: [],
	step: 1, done: false, ...part,
});

const outcome = (part: Partial<Outcome> = {}): Outcome => ({
	requestId: "r", version: 1, edits: [{ range: range(1, 0), newText: "ab" }], finish: "eom", syntax: "ok",
	tokens: 1, forwards: 1, elapsedMs: 1, model: "m", ...part,
});

const running = (...ranges: Range[]) => new Session("r", "infill", ranges.length > 0 ? ranges : [range(1, 0)]);

describe("refine", () => {
	test("takes drafts in order", () => {
		const session = running();
		expect(session.refine(refinement({ seq: 0, text: "a" }), 1)).toBe("taken");
		expect(session.refine(refinement({ seq: 3, text: "abc" }), 1)).toBe("taken");
		expect(session.holes[0]!.text).toBe("abc");
	});

	test.each<[string, Partial<Refinement>]>([
		["of another request", { requestId: "other", seq: 5 }],
		["that comes late", { seq: 1 }],
		["that comes twice", { seq: 2 }],
		["of a hole that is not there", { seq: 5, hole: 1 }],
	])("drops one %s", (_, part) => {
		const session = running();
		session.refine(refinement({ seq: 2, text: "kept" }), 1);
		expect(session.refine(refinement(part), 1)).toBe("stale");
		expect(session.holes[0]!.text).toBe("kept");
	});

	test("takes one of an older version: the edit since touched no hole", () => {
		const session = running();
		session.follow(changeOf(range(0, 0), "x\n"));
		expect(session.refine(refinement({ version: 1 }), 2)).toBe("taken");
		expect(session.holes[0]!.range).toEqual(range(2, 0));
	});

	test("is lost when the server writes elsewhere", () => {
		const session = running();
		expect(session.refine(refinement({ range: range(7, 0) }), 1)).toBe("lost");
		expect(session.isAlive).toBe(false);
	});

	test("keeps the height of the tallest draft until it is done", () => {
		const session = running();
		session.refine(refinement({ seq: 1, text: "a\nb\nc" }), 1);
		session.refine(refinement({ seq: 2, text: "a" }), 1);
		expect(session.holes[0]!.tallest).toBe(3);
		session.refine(refinement({ seq: 3, text: "a", done: true }), 1);
		expect(session.holes[0]!.tallest).toBe(1);
	});

	test("takes nothing when it is over", () => {
		const session = running();
		session.stop();
		expect(session.refine(refinement({}), 1)).toBe("stale");
		expect(session.finish(outcome())).toBe(false);
	});
});

describe("finish", () => {
	test("needs every hole", () => {
		const session = running(range(1, 0), range(2, 0));
		session.refine(refinement({ seq: 1, done: true }), 1);
		expect(session.finish(outcome())).toBe(false);
		expect(session.isAlive).toBe(false);
	});

	test("makes it ready", () => {
		const session = running();
		session.refine(refinement({ done: true }), 1);
		expect(session.finish(outcome({ requestId: "other" }))).toBe(false);
		expect(session.finish(outcome())).toBe(true);
		expect(session.state).toBe("ready");
		expect(session.finish(outcome())).toBe(false);
	});

	test("with nothing to change it is over", () => {
		const session = running();
		session.refine(refinement({ done: true }), 1);
		expect(session.finish(outcome({ edits: [] }))).toBe(false);
	});
});

describe("follow", () => {
	test("moves all holes", () => {
		const session = running(range(1, 0), range(3, 2, 4, 0));
		expect(session.follow(changeOf(range(2, 0), "x\n"))).toBe(true);
		expect(session.holes.map(hole => hole.range)).toEqual([range(1, 0), range(4, 2, 5, 0)]);
	});

	test("ends at an edit of any hole", () => {
		const session = running(range(1, 0), range(3, 2, 4, 0));
		expect(session.follow(changeOf(range(3, 5), "x"))).toBe(false);
		expect(session.isAlive).toBe(false);
	});

	test("leaves out the hole we change ourselves", () => {
		const session = running(range(1, 0), range(3, 2, 4, 0));
		expect(session.follow(changeOf(range(1, 0), "x\n"), 0)).toBe(true);
		expect(session.holes.map(hole => hole.range)).toEqual([range(1, 0), range(4, 2, 5, 0)]);
	});
});

test("takeHead leaves the rest behind what was taken", () => {
	const session = running(range(1, 4, 2, 3));
	session.refine(refinement({
		range: range(1, 4, 2, 3), text: "ab\ncde", settled: [[0, 4]], uncertain: [[4, 6]], done: true,
	}), 1);
	session.takeHead(0, "ab\n");
	expect(session.holes[0]).toMatchObject({
		range: range(2, 0, 3, 3), text: "cde", settled: [[0, 1]], uncertain: [[1, 3]], tallest: 1,
	});
	session.takeHead(0, "cde");
	expect(session.holes).toHaveLength(0);
});

test("holes are found by position, in the order of the document", () => {
	const session = running(range(5, 0), range(1, 0, 2, 0), range(8, 3));
	expect(session.inOrder).toEqual([1, 0, 2]);
	expect(session.at({ line: 0, character: 0 })).toBe(1);
	expect(session.at({ line: 2, character: 0 })).toBe(1);
	expect(session.at({ line: 3, character: 0 })).toBe(0);
	expect(session.at({ line: 9, character: 0 })).toBe(1);
	expect(session.behind({ line: 1, character: 0 })).toBe(0);
	expect(session.behind({ line: 8, character: 3 })).toBe(1);
});
