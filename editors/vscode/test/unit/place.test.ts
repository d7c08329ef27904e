import { expect, test } from "vitest";
import type { Range } from "../../src/edit";
import { meant, meantAsWhole } from "../../src/place";
import { Model } from "./model";

const range = (a: number, b: number, c = a, d = b): Range =>
	({ start: { line: a, character: b }, end: { line: c, character: d } });

const document = new Model("def f():\n    one\n    two\n\n");

test.each<[string, Range, Range]>([
	["a cursor", range(1, 4), range(1, 4)],
	["a part of a line", range(1, 5, 1, 6), range(1, 5, 1, 6)],
	["a line with its ending", range(1, 0, 2, 0), range(1, 4, 1, 7)],
	["lines from the middle of the first", range(1, 6, 3, 0), range(1, 6, 2, 7)],
	["lines from the indentation", range(1, 2, 3, 0), range(1, 4, 2, 7)],
	["an empty line", range(3, 0, 4, 0), range(3, 0)],
	["parts of lines", range(1, 0, 2, 5), range(1, 0, 2, 5)],
])("%s", (_, selection, expected) => {
	expect(meant(document, selection)).toEqual(expected);
});

test("without a selection, the line", () => {
	expect(meantAsWhole(document, range(2, 6))).toEqual(range(2, 4, 2, 7));
	expect(meantAsWhole(document, range(4, 0))).toEqual(range(4, 0));
	expect(meantAsWhole(document, range(1, 5, 1, 6))).toEqual(range(1, 5, 1, 6));
});
