import { describe, expect, test } from "vitest";
import { advance, changeOf, endAfterAll, move, moved, type Range, smallest, touches } from "../../src/edit";
import { Model } from "./model";

const range = (a: number, b: number, c: number, d: number): Range =>
	({ start: { line: a, character: b }, end: { line: c, character: d } });

describe("touches", () => {
	test.each<[string, Range, string, boolean]>([
		["before, in the same line", range(1, 0, 1, 2), "x", false],
		["behind, in the same line", range(2, 4, 2, 4), "x", false],
		["an insertion at the start", range(1, 4, 1, 4), "x", true],
		["an insertion at the end", range(2, 3, 2, 3), "x", true],
		["a replacement that ends at the start", range(0, 0, 1, 4), "", true],
		["inside", range(1, 9, 1, 9), "x", true],
		["around", range(0, 0, 9, 0), "", true],
		["a line above", range(0, 0, 0, 0), "x\n", false],
	])("%s", (_, edited, text, expected) => {
		expect(touches(changeOf(edited, text), range(1, 4, 2, 3))).toBe(expected);
	});
});

describe("move", () => {
	test.each<[string, Range, string, Range | undefined]>([
		["a line inserted above", range(0, 0, 0, 0), "x\n", range(2, 4, 3, 3)],
		["a CRLF inserted above", range(0, 0, 0, 0), "x\r\n", range(2, 4, 3, 3)],
		["typing before it in its line", range(1, 0, 1, 0), "ab", range(1, 6, 2, 3)],
		["lines removed above", range(0, 0, 1, 2), "", range(0, 2, 1, 3)],
		["an edit below", range(3, 0, 4, 0), "", range(1, 4, 2, 3)],
		["an edit inside", range(1, 5, 1, 5), "x", undefined],
	])("%s", (_, edited, text, expected) => {
		expect(move(range(1, 4, 2, 3), changeOf(edited, text))).toEqual(expected);
	});
});

test("a position within what was replaced does not move", () => {
	const change = changeOf(range(0, 0, 5, 0), "");
	expect(moved({ line: 2, character: 3 }, change)).toEqual({ line: 2, character: 3 });
});

test.each([
	["", 1, 3],
	["ab", 1, 5],
	["a\nb", 2, 1],
	["a\r\n", 2, 0],
	["🦊", 1, 5],
])("advance by %j", (text, line, character) => {
	expect(advance({ line: 1, character: 3 }, text)).toEqual({ line, character });
});

describe("smallest", () => {
	test.each([
		["same", "same", { start: 4, end: 4, text: "" }],
		["abcd", "abxd", { start: 2, end: 3, text: "x" }],
		["", "new", { start: 0, end: 0, text: "new" }],
		["aa", "a", { start: 1, end: 2, text: "" }],
		["x🦊y", "x🦁y", { start: 1, end: 3, text: "🦁" }],
		["a\r\nb", "a\r\nc", { start: 3, end: 4, text: "c" }],
		["a\r\nb", "a\rb", { start: 1, end: 3, text: "\r" }],
	])("%j to %j", (old, text, expected) => {
		expect(smallest(old, text)).toEqual(expected);
	});
});

test("the end of an edit among others", () => {
	const model = new Model("one\ntwo three\nfour");
	const edits = [
		{ range: range(1, 4, 1, 9), text: "3\n3" },
		{ range: range(0, 0, 0, 3), text: "1\n1\n1" },
		{ range: range(1, 0, 1, 3), text: "2" },
	];
	const end = endAfterAll(edits, 0)!;
	for (const edit of [edits[0]!, edits[2]!, edits[1]!]) {
		model.replace(edit.range, edit.text);
	}
	expect(model.text.slice(0, model.offsetAt(end))).toBe("1\n1\n1\n2 3\n3");
	expect(endAfterAll([], 0)).toBeUndefined();
});
