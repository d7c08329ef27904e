import { describe, expect, test } from "vitest";
import type { Range } from "../../src/edit";
import { paint, stops, width } from "../../src/paint";
import type { Hole } from "../../src/session";
import { Model } from "./model";

const range = (a: number, b: number, c = a, d = b): Range =>
	({ start: { line: a, character: b }, end: { line: c, character: d } });

const hole = (where: Range, text: string, part: Partial<Hole> = {}): Hole => ({
	range: where, text, settled: [], uncertain: [], done: true, tallest: text.split("\n").length, ...part,
});

/** What would stand on the screen. */
function screen(document: string, holes: Hole[], tabSize = 4): string[] {
	const model = new Model(document);
	const lines = model.lines.slice();
	for (const row of [...paint(model, holes, tabSize).rows].reverse()) {
		const text = row.chunks.map(chunk => chunk.text).join("");
		if (row.below > 0) {
			lines[row.line + row.below] = text;
		} else {
			const line = lines[row.line]!;
			lines[row.line] = line.slice(0, row.column) + text + line.slice(row.hiddenTo);
		}
	}
	return lines;
}

describe("paint", () => {
	test.each<[string, string, Hole[], string[]]>([
		["an insertion in a line", "f()", [hole(range(0, 2), "x")], ["f(x)"]],
		["a replacement in a line", "f(old)", [hole(range(0, 2, 0, 5), "new")], ["f(new)"]],
		["lines cover those that follow", "a\nb\nc\nd", [hole(range(1, 1), "1\n2")], ["a", "b1", "2", "d"]],
		["what stands behind comes last", "a\nbc\nd", [hole(range(1, 1), "1\n2")], ["a", "b1", "2c"]],
		["fewer lines than before", "a\nb\nc\nd", [hole(range(0, 0, 2, 1), "x")], ["x", "", "", "d"]],
		["beyond the end", "a", [hole(range(0, 1), "\nb\nc")], ["a", "b", "c"]],
		["beyond an end with a line break", "a\n", [hole(range(1, 0), "b\nc")], ["a", "b", "c"]],
		["several holes", "a\nb\nc", [hole(range(0, 1), "1"), hole(range(2, 1), "3")], ["a1", "b", "c3"]],
		["no room before the next hole", "a\nb\nc", [hole(range(0, 1), "1\n2\n3"), hole(range(2, 1), "4")],
			["a1", "2 … 1 more line", "c4"]],
		["two holes in a line", "ab", [hole(range(0, 1), "1\n2"), hole(range(0, 2), "3")], ["a1 … 1 more lineb3"]],
		["tabs go on from their column", "x\ty", [hole(range(0, 2), "a\tb")], ["x\ta   by"]],
		["control characters", "", [hole(range(0, 0), "a\0b\u2028")], ["a␀b␤"]],
		["nothing at all", "ab", [hole(range(0, 1, 0, 2), "")], ["a"]],
	])("%s", (_, document, holes, expected) => {
		expect(screen(document, holes)).toEqual(expected);
	});

	test("an empty draft only marks what it replaces", () => {
		const early = { done: false, tallest: 1 };
		expect(paint(new Model("ab"), [hole(range(0, 0, 0, 1), "", early)], 4))
			.toEqual({ rows: [], replaced: [range(0, 0, 0, 1)] });
		expect(paint(new Model("ab"), [hole(range(0, 0), "", early)], 4)).toEqual({ rows: [], replaced: [] });
	});

	test("does not shrink while it changes", () => {
		const rows = paint(new Model("a\nb\nc"), [hole(range(0, 1), "x", { done: false, tallest: 3 })], 4).rows;
		expect(rows.map(row => [row.line, row.isCovered])).toEqual([[0, false], [1, true], [2, true]]);
	});

	test("an endless line is cut", () => {
		const [row] = paint(new Model(""), [hole(range(0, 0), "x".repeat(50_000))], 4).rows;
		expect(row!.chunks[0]!.text).toHaveLength(1001);
	});
});

test.each([["abc", 3], ["", 0], ["日本", 4], ["🦊", 2], ["e\u0301", 1], ["é", 1]])("width of %j", (text, columns) => {
	expect(width(text)).toBe(columns);
});

test("stops are shares of the width", () => {
	expect(stops([{ text: "ab", kind: "settled" }, { text: "日", kind: "masked" }]))
		.toEqual([{ kind: "settled", until: 0.5 }, { kind: "masked", until: 1 }]);
	expect(stops([])).toEqual([]);
});
