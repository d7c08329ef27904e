// Finds the Python that has blockdiff: by setting, in the checkout that this extension lies in, the one that
// installed this extension, by the Python extension, in the environment we made, on PATH.

import * as fs from "node:fs";
import * as path from "node:path";
import * as vscode from "vscode";
import { Problem } from "./log";
import { run } from "./process";
import { settings } from "./settings";

export interface Installation {
	readonly python: string;
	/** Version of blockdiff. */
	readonly version: string;
	/** Who named it. */
	readonly source: string;
}

/** What we use of the API of ms-python.python. */
interface PythonApi {
	readonly environments: {
		getActiveEnvironmentPath(resource?: vscode.Uri): { readonly path: string };
		resolveEnvironment(environment: { readonly path: string }):
			Promise<{ readonly executable: { readonly uri?: vscode.Uri } } | undefined>;
		readonly onDidChangeActiveEnvironmentPath: vscode.Event<unknown>;
	};
}

const PROBE = [
	"import json, sys",
	"try:",
	"    import blockdiff, lsp_server",
	"    version = blockdiff.__version__",
	"except ImportError:",
	"    version = ''",
	"print(json.dumps([sys.version_info >= (3, 10), version]))",
].join("\n");

const PYTHON_NAMES = process.platform === "win32" ? ["python.exe"] : ["python3", "python"];
const PROBE_MILLISECONDS = 20_000;

interface Probed {
	readonly isRecent: boolean;
	/** Empty: blockdiff is not there. */
	readonly version: string;
}

/** What a Python says of itself; undefined if there is none. Run where no file can shadow a module. */
async function probe(python: string, cwd: string): Promise<Probed | undefined> {
	const { code, stdout } = await run([python, "-c", PROBE], { cwd, timeout: PROBE_MILLISECONDS });
	if (code !== 0) {
		return undefined;
	}
	try {
		const [isRecent, version] = JSON.parse(stdout) as [boolean, string];
		return { isRecent, version };
	} catch {
		return undefined;
	}
}

export class Pythons {
	constructor(private readonly context: vscode.ExtensionContext, private readonly log: vscode.LogOutputChannel) {}

	/** Where we make an environment. */
	get ownEnvironment(): string {
		return path.join(this.context.globalStorageUri.fsPath, "python");
	}

	/** A folder that holds no Python. */
	get cwd(): string {
		return this.context.extensionPath;
	}

	/** Throws a Problem that says what to do if no Python has blockdiff. */
	async find(): Promise<Installation> {
		const chosen = settings().interpreter;
		if (chosen !== "") {
			const found = await probe(chosen, this.cwd);
			if (found?.version) {
				return { python: chosen, version: found.version, source: "blockdiff.interpreter" };
			}
			const what = found ? "has no blockdiff: install it there, or choose another" : "cannot be run";
			throw new Problem(`blockdiff.interpreter names ${chosen}, which ${what}`, ["openSettings"]);
		}
		let isAnyPython = false;
		for await (const [python, source] of this.candidates()) {
			const found = await probe(python, this.cwd);
			isAnyPython ||= found?.isRecent === true;
			if (found?.version) {
				return { python, version: found.version, source };
			}
			this.log.debug(`${python} (${source}): ${found ? "no blockdiff" : "cannot be run"}`);
		}
		throw isAnyPython
			? new Problem(
				"no Python environment has the package blockdiff: create one, or set blockdiff.interpreter",
				["createEnvironment", "openSettings"],
			)
			: new Problem("no Python 3.10 or newer was found: install one, or set blockdiff.interpreter", ["openSettings"]);
	}

	/** A Python to make an environment from. Throws a Problem if there is none. */
	async base(): Promise<string> {
		const chosen = settings().interpreter;
		const found = chosen === "" ? [] : [chosen];
		for await (const [python] of this.candidates()) {
			found.push(python);
		}
		for (const python of found) {
			if ((await probe(python, this.cwd))?.isRecent) {
				return python;
			}
		}
		throw new Problem("no Python 3.10 or newer was found: install one first", ["openSettings"]);
	}

	/** Calls back when another environment is chosen in the Python extension. */
	async watch(changed: () => void): Promise<vscode.Disposable | undefined> {
		return (await this.api())?.environments.onDidChangeActiveEnvironmentPath(changed);
	}

	private async *candidates(): AsyncGenerator<[python: string, source: string]> {
		const root = path.resolve(this.context.extensionPath, "..", "..");
		if (fs.existsSync(path.join(root, "lsp_server", "__main__.py"))) {
			yield [interpreterIn(path.join(root, ".venv")), "checkout"];
		}
		const installer = installerOf(this.context.extensionPath);
		if (installer) {
			yield [installer, "blockdiff editors install"];
		}
		// An environment inside a folder that is not trusted may run anything.
		const active = vscode.workspace.isTrusted ? await this.active() : undefined;
		if (active) {
			yield [active, "Python extension"];
		}
		const own = interpreterIn(this.ownEnvironment);
		if (fs.existsSync(own)) {
			yield [own, "environment of this extension"];
		}
		for (const folder of (process.env["PATH"] ?? "").split(path.delimiter).filter(path.isAbsolute)) {
			const python = interpreterOf(path.join(folder, "blockdiff-lsp"))
				?? PYTHON_NAMES.map(name => path.join(folder, name)).find(file => fs.existsSync(file));
			// The Microsoft Store's placeholder opens the store.
			if (python && !python.includes("WindowsApps")) {
				yield [python, "PATH"];
			}
		}
	}

	private async active(): Promise<string | undefined> {
		const environments = (await this.api())?.environments;
		const resource = vscode.window.activeTextEditor?.document.uri;
		const resolved = await environments?.resolveEnvironment(environments.getActiveEnvironmentPath(resource));
		return resolved?.executable.uri?.fsPath;
	}

	private async api(): Promise<PythonApi | undefined> {
		try {
			return await vscode.extensions.getExtension<PythonApi>("ms-python.python")?.activate();
		} catch (error) {
			this.log.warn(`the Python extension cannot be asked: ${String(error)}`);
			return undefined;
		}
	}
}

/** The Python that ran `blockdiff editors install`. */
function installerOf(extension: string): string | undefined {
	try {
		const marker: unknown = JSON.parse(fs.readFileSync(path.join(extension, "blockdiff-installed.json"), "utf8"));
		const python = (marker as { python?: unknown }).python;
		return typeof python === "string" && fs.existsSync(python) ? python : undefined;
	} catch {
		return undefined;
	}
}

/** The Python beside a script; tools such as pipx and uv put a link to the script on PATH. */
function interpreterOf(script: string): string | undefined {
	try {
		const python = path.join(path.dirname(fs.realpathSync(script)), "python");
		return fs.existsSync(python) ? python : undefined;
	} catch {
		return undefined;
	}
}

export function interpreterIn(environment: string): string {
	return process.platform === "win32"
		? path.join(environment, "Scripts", "python.exe")
		: path.join(environment, "bin", "python");
}
