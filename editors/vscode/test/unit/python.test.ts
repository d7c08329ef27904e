// Which Python is found, with scripts in the place of interpreters.

import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import type * as vscode from "vscode";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { Problem } from "../../src/log";
import { Pythons } from "../../src/python";

const editor = vi.hoisted(() => ({ isTrusted: true, interpreter: "", active: undefined as string | undefined }));

vi.mock("vscode", () => ({
	workspace: {
		get isTrusted() {
			return editor.isTrusted;
		},
		getConfiguration: () => ({
			get: (name: string, value: unknown) => name === "interpreter" ? editor.interpreter : value,
		}),
	},
	window: { activeTextEditor: undefined },
	extensions: {
		getExtension: () => editor.active === undefined ? undefined : {
			activate: () => Promise.resolve({
				environments: {
					getActiveEnvironmentPath: () => ({ path: "chosen" }),
					resolveEnvironment: () => Promise.resolve({ executable: { uri: { fsPath: editor.active } } }),
				},
			}),
		},
	},
}));

describe.skipIf(process.platform === "win32")("find", () => {
	let folder = "";
	const { PATH } = process.env;

	beforeEach(() => {
		folder = mkdtempSync(path.join(tmpdir(), "blockdiff-"));
		Object.assign(editor, { isTrusted: true, interpreter: "", active: undefined });
		process.env["PATH"] = path.join(folder, "bin");
	});

	afterEach(() => {
		process.env["PATH"] = PATH;
		rmSync(folder, { recursive: true });
	});

	/** A script that says what a Python says: of itself, and of blockdiff. */
	function python(name: string, says: [isRecent: boolean, version: string]): string {
		const file = path.join(folder, name);
		mkdirSync(path.dirname(file), { recursive: true });
		writeFileSync(file, `#!/bin/sh\necho '${JSON.stringify(says)}'\n`);
		chmodSync(file, 0o755);
		return file;
	}

	function pythons(): Pythons {
		const context = {
			extensionPath: path.join(folder, "extensions", "blockdiff"),
			globalStorageUri: { fsPath: path.join(folder, "storage") },
		};
		mkdirSync(context.extensionPath, { recursive: true });
		const log = { debug: () => undefined, warn: () => undefined };
		return new Pythons(context as vscode.ExtensionContext, log as unknown as vscode.LogOutputChannel);
	}

	async function problem(): Promise<Problem> {
		const error: unknown = await pythons().find().catch((reason: unknown) => reason);
		expect(error).toBeInstanceOf(Problem);
		return error as Problem;
	}

	test("the setting comes before all others", async () => {
		python("bin/python3", [true, "1.0"]);
		editor.active = python("active", [true, "2.0"]);
		editor.interpreter = python("chosen", [true, "3.0"]);
		expect(await pythons().find()).toEqual({
			python: editor.interpreter, version: "3.0", source: "blockdiff.interpreter",
		});
	});

	test("then the Python extension, then our own, then PATH", async () => {
		python("bin/python3", [true, "1.0"]);
		const own = python("storage/python/bin/python", [true, "2.0"]);
		editor.active = python("active", [true, "3.0"]);
		expect((await pythons().find()).python).toBe(editor.active);
		editor.active = undefined;
		expect((await pythons().find()).python).toBe(own);
		rmSync(own);
		expect((await pythons().find()).source).toBe("PATH");
	});

	test("the one that installed the extension, while it is there", async () => {
		editor.active = python("active", [true, "1.0"]);
		const installer = python("installer", [true, "2.0"]);
		const marker = path.join(pythons().cwd, "blockdiff-installed.json");
		writeFileSync(marker, JSON.stringify({ python: installer }));
		expect((await pythons().find()).source).toBe("blockdiff editors install");
		rmSync(installer);
		expect((await pythons().find()).python).toBe(editor.active);
	});

	test("one without blockdiff is passed over", async () => {
		const onPath = python("bin/python3", [true, "1.0"]);
		editor.active = python("active", [true, ""]);
		expect((await pythons().find()).python).toBe(onPath);
	});

	test("nothing of a folder that is not trusted is run", async () => {
		python("bin/python3", [true, ""]);
		editor.active = python("active", [true, "1.0"]);
		editor.isTrusted = false;
		expect((await problem()).remedies).toContain("createEnvironment");
	});

	test("the environment behind a link to the server on PATH", async () => {
		const inside = python("tools/blockdiff/bin/python", [true, "1.0"]);
		const script = python("tools/blockdiff/bin/blockdiff-lsp", [true, ""]);
		mkdirSync(path.join(folder, "bin"));
		symlinkSync(script, path.join(folder, "bin", "blockdiff-lsp"));
		expect((await pythons().find()).python).toBe(inside);
	});

	test("a setting that leads nowhere says so", async () => {
		python("bin/python3", [true, "1.0"]);
		editor.interpreter = path.join(folder, "missing");
		expect((await problem()).message).toContain("cannot be run");
		editor.interpreter = python("chosen", [true, ""]);
		expect((await problem()).message).toContain("has no blockdiff");
	});

	test("no Python, or one that is too old", async () => {
		expect((await problem()).message).toContain("no Python 3.10");
		python("bin/python3", [false, ""]);
		expect((await problem()).message).toContain("no Python 3.10");
	});

	test("a base for an environment need not have blockdiff", async () => {
		const base = python("bin/python3", [true, ""]);
		expect(await pythons().base()).toBe(base);
	});
});
