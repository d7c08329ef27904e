import { expect, test } from "vitest";
import { details, loadingText, shortText } from "../../src/describe";
import type { Status } from "../../src/messages";
import { isOlder } from "../../src/version";

const status = (part: Partial<Status>): Status => ({ state: "ready", model: "", device: "", backend: "", message: "", ...part });

test.each<[Partial<Status>, string]>([
	[{ state: "stopped" }, "$(circle-outline) blockdiff"],
	[{ state: "starting" }, "$(loading~spin) blockdiff"],
	[{ state: "starting", progress: 0.5 }, "$(loading~spin) blockdiff ▰▰▰▰▱▱▱▱ 50%"],
	[{ state: "ready", tokensPerSecond: 12.34 }, "$(check) blockdiff 12.3/s"],
	[{ state: "busy", tokensPerSecond: 12.34 }, "$(sync~spin) blockdiff writing"],
	[{ state: "stopped", backend: "mistral at api.mistral.ai" }, "$(circle-outline) blockdiff $(cloud) mistral at api.mistral.ai"],
	[{ state: "error", message: "no model" }, "$(error) blockdiff error"],
])("status bar of %j", (part, expected) => {
	expect(shortText(status(part))).toBe(expected);
});

test("what is waited for", () => {
	expect(loadingText(status({ state: "starting", message: "loading weights", progress: 0.4 }))).toBe("Loading weights…");
	expect(loadingText(status({ state: "starting" }))).toBe("Starting…");
	expect(loadingText(status({ state: "busy" }))).toBeUndefined();
});

test("why no completion came is one of the details", () => {
	const missed = { kind: "inWord", time: 0, uri: "file:///a%20b.py", line: 6, message: "type on" } as const;
	const [, [name, value]] = details(status({ missed })) as [unknown, [string, string]];
	expect(name).toBe("No completion");
	expect(value).toMatch(/^type on \(a b\.py:7, \d.*\)$/);
});

test("where code is sent is one of the details", () => {
	const sent = status({ state: "ready", device: "ollama at pc:11434", backend: "ollama at pc:11434" });
	expect(details(sent)).toEqual([["State", "ready"], ["Code is sent to", "ollama at pc:11434"]]);
});

test("details are those that are known", () => {
	expect(details(status({ model: "m", device: "cpu", tokensPerSecond: 3 }))).toEqual([
		["State", "ready"], ["Model", "m"], ["Device", "cpu"], ["Speed", "3.0 tokens/s"],
	]);
});

test.each([
	["0.1.0", "0.1.0", false],
	["0.0.9", "0.1.0", true],
	["0.1", "0.1.0", false],
	["0.10.0", "0.9.0", false],
	["0.1.0rc1", "0.1.0", false],
	["", "0.1.0", true],
])("%j is older than %j: %s", (version, than, expected) => {
	expect(isOlder(version, than)).toBe(expected);
});
