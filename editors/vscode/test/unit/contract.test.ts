// Our messages, our settings and our manifest against what the server says of them.

import { readFileSync } from "node:fs";
import { Ajv2020 } from "ajv/dist/2020";
import { describe, expect, test } from "vitest";
import {
	explain, infillParams, MOST_HOLES, OLD_SERVER, type Outcome, type Refinement, rewriteParams, type Status,
} from "../../src/messages";
import manifest from "../../package.json";

interface Schema {
	required: string[];
	properties: Record<string, { maxItems?: number; enum?: string[] }>;
}

function contract(name: string): Schema {
	return JSON.parse(readFileSync(new URL(`../../../../tests/contract/${name}.json`, import.meta.url), "utf8")) as Schema;
}

function problems(name: string, message: unknown): string {
	const ajv = new Ajv2020({ strict: false, allErrors: true });
	ajv.validate(contract(name), JSON.parse(JSON.stringify(message)));
	return ajv.errorsText();
}

const position = { line: 1, character: 4 };
const range = { start: position, end: position };
const id = { uri: "file:///a.py", version: 7 };

/** Like VS Code's ranges, which write themselves as a list. */
class EditorRange {
	readonly start = position;
	readonly end = position;

	toJSON(): unknown {
		return [this.start, this.end];
	}
}

describe("what we send", () => {
	test.each([
		["infill-params", infillParams(id, "r1", [range, new EditorRange()])],
		["rewrite-params", rewriteParams(id, "r1", new EditorRange(), "use a loop")],
		["rewrite-params", rewriteParams(id, "r1", range, "")],
	])("%s", (name, message) => {
		expect(problems(name, message)).toBe("No errors");
	});

	test("as many holes as the server takes", () => {
		expect(contract("infill-params").properties["holes"]!.maxItems).toBe(MOST_HOLES);
	});
});

const refinement: Required<Refinement> = {
	requestId: "r1", seq: 2, version: 7, hole: 0, range, text: "return", settled: [[0, 4]], uncertain: [[4, 6]],
	step: 3, done: false,
};
const outcome: Required<Outcome> = {
	requestId: "r1", version: 7, edits: [{ range, newText: "return" }], finish: "eom", syntax: "ok", tokens: 5,
	forwards: 3, elapsedMs: 812.4, model: "m",
};
const status: Required<Status> = {
	state: "starting", model: "m", device: "cpu", backend: "", message: "loading weights", progress: 0.5, tokensPerSecond: 12.3,
	missed: { kind: "inWord", time: 1_790_000_000, uri: "file:///a.py", line: 3, message: "type on" },
};

describe("what we get: our types know all of it and nothing else", () => {
	test.each<[string, object, string[]]>([
		["refinement", refinement, ["version"]],
		["outcome", outcome, ["version"]],
		["status", status, ["progress", "tokensPerSecond", "missed"]],
	])("%s", (name, message, optional) => {
		expect(problems(name, message)).toBe("No errors");
		const schema = contract(name);
		expect(Object.keys(message).sort()).toEqual(Object.keys(schema.properties).sort());
		expect(Object.keys(schema.properties).filter(key => !schema.required.includes(key))).toEqual(optional);
	});

	test("a state that is not in the contract is refused", () => {
		expect(problems("status", { ...status, state: "asleep" })).toContain("must be equal to one of the allowed values");
	});
});

test.each([
	[-32800, undefined],
	[-32801, undefined],
	[-32802, undefined],
	[-32601, OLD_SERVER],
	[-32803, "no model: pull it"],
	[-32097, "the language server ended: ask again, it is started anew"],
])("error %d", (code, expected) => {
	expect(explain({ code, message: "no model: pull it" })).toBe(expected);
});

type Setting = Record<string, unknown> & { markdownDescription: string; default: unknown };

describe("settings", () => {
	const ours = ["idleTrigger", "interpreter", "languages", "package", "preview.openDiff", "startTimeout", "trace.server"];
	const all: Record<string, Setting> = Object.assign({}, ...manifest.contributes.configuration.map(group => group.properties));
	const schema = contract("settings") as unknown as {
		properties: Record<string, { properties: Record<string, Record<string, unknown>> }>;
	};
	const theirs = Object.entries(schema.properties).flatMap(([section, { properties }]) =>
		Object.entries(properties).map(([key, setting]) => [`${section}.${key}`, setting] as const),
	);

	test("are those of the server and our own", () => {
		const expected = [...theirs.map(([name]) => name), ...ours].map(name => `blockdiff.${name}`);
		expect(Object.keys(all).sort()).toEqual(expected.sort());
	});

	test.each(theirs)("%s is what the server says", (name, setting) => {
		for (const key of ["type", "default", "enum", "minimum", "maximum"]) {
			expect([key, all[`blockdiff.${name}`]![key]]).toEqual([key, setting[key]]);
		}
	});

	test("are all described, and lead to what is there", () => {
		const commands = manifest.contributes.commands.map(({ command }) => command);
		for (const [name, { markdownDescription }] of Object.entries(all)) {
			expect(markdownDescription, name).toMatch(/\.$/);
			for (const [, command] of markdownDescription.matchAll(/\(command:([\w.]+)\)/g)) {
				expect(commands).toContain(command);
			}
			for (const [, setting] of markdownDescription.matchAll(/`#([\w.]+)#`/g)) {
				expect(setting!.startsWith("editor.") || setting! in all, setting).toBe(true);
			}
		}
	});

	test("of a folder that is not trusted choose no program and no engine", () => {
		const restricted = manifest.capabilities.untrustedWorkspaces.restrictedConfigurations;
		const sensitive = Object.keys(all).filter(name => /^blockdiff\.(interpreter|package|engine\.)/.test(name));
		expect(restricted).toEqual(expect.arrayContaining(sensitive));
		expect(all["blockdiff.engine.token"]).toMatchObject({ scope: "machine", ignoreSync: true });
	});

	test("of no folder say where code is sent", () => {
		for (const name of ["backend", "fim", "url", "token", "caFile", "allowPlainHttp"]) {
			expect(all[`blockdiff.engine.${name}`], name).toMatchObject({ scope: "machine" });
		}
	});
});

describe("keybindings", () => {
	const { keybindings, commands } = manifest.contributes;

	test("are of commands that are there", () => {
		const known = commands.map(({ command }) => command);
		keybindings.forEach(({ command }) => expect(known).toContain(command));
	});

	test("take Tab and Escape only while a draft of ours is shown and nothing else is", () => {
		for (const key of ["tab", "escape"]) {
			const found = keybindings.filter(binding => binding.key === key);
			expect(found).toHaveLength(1);
			const { when } = found[0]!;
			expect(when).not.toContain("||");
			expect(when).toMatch(/blockdiff\.(hasDraft|isDraftReady)/);
			for (const other of ["!suggestWidgetVisible", "!inlineSuggestionVisible", "!inSnippetMode", "editorTextFocus"]) {
				expect(when).toContain(other);
			}
		}
	});
});
