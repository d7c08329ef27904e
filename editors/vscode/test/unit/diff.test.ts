import { expect, test } from "vitest";
import { chunksByLine, firstLine, firstWord, normalize, withoutHead } from "../../src/diff";

test("normalize moves spans with the line breaks", () => {
	expect(normalize("a\r\nb\r\nc", [[0, 3]], [[6, 7]])).toEqual({ text: "a\nb\nc", settled: [[0, 2]], uncertain: [[4, 5]] });
	expect(normalize("a\rb", [], []).text).toBe("a\nb");
});

test("chunks are of one kind and one line", () => {
	expect(chunksByLine("ab\ncdef", [[0, 5]], [[4, 6]])).toEqual([
		[{ text: "ab", kind: "settled" }],
		[{ text: "c", kind: "settled" }, { text: "de", kind: "uncertain" }, { text: "f", kind: "masked" }],
	]);
	expect(chunksByLine("", [], [])).toEqual([[]]);
	expect(chunksByLine("\n", [[0, 9]], [])).toEqual([[], []]);
	expect(chunksByLine("🦊x", [[0, 2]], [])).toEqual([[{ text: "🦊", kind: "settled" }, { text: "x", kind: "masked" }]]);
});

test.each([
	["one", "one"],
	["one\ntwo", "one\n"],
	["one\n", "one\n"],
	["\none\ntwo", "\none"],
	["\n", "\n"],
	["", ""],
])("first line of %j", (text, head) => {
	expect(firstLine(text)).toBe(head);
});

test.each([
	["one two", "one"],
	[" two", " two"],
	["\n    three.four", "\n    three"],
	[".four()", "."],
	["() + x", "()"],
	["größe = 1", "größe"],
	["🦊 x", "🦊"],
	["  ", "  "],
	["", ""],
])("first word of %j", (text, head) => {
	expect(firstWord(text)).toBe(head);
});

test("spans of what is left", () => {
	expect(withoutHead([[0, 2], [3, 6], [7, 9]], 4)).toEqual([[0, 2], [3, 5]]);
});
