// Runs a command to its end.

import { spawn } from "node:child_process";

export interface Finished {
	/** null: it could not be started, or was ended by a signal. */
	readonly code: number | null;
	readonly stdout: string;
	readonly stderr: string;
}

export interface RunOptions {
	/** Not the open project: a Python or a search for a program may find files of it. */
	readonly cwd: string;
	/** Milliseconds. */
	readonly timeout?: number;
	readonly signal?: AbortSignal;
	readonly onLine?: (line: string) => void;
}

/** Never rejects: a command that cannot be started has no exit code and says why on `stderr`. */
export function run(command: readonly string[], options: RunOptions): Promise<Finished> {
	return new Promise(resolve => {
		const [program = "", ...args] = command;
		const signals = [
			...(options.signal ? [options.signal] : []),
			...(options.timeout ? [AbortSignal.timeout(options.timeout)] : []),
		];
		const child = spawn(program, args, {
			cwd: options.cwd,
			windowsHide: true,
			stdio: ["ignore", "pipe", "pipe"],
			...(signals.length > 0 ? { signal: AbortSignal.any(signals) } : {}),
		});
		let stdout = "", stderr = "", rest = "";
		const lines = (text: string) => {
			const parts = (rest + text).split(/\r?\n/);
			rest = parts.pop() ?? "";
			parts.filter(line => line !== "").forEach(line => options.onLine?.(line));
		};
		child.stdout.setEncoding("utf8").on("data", (text: string) => {
			stdout += text;
			lines(text);
		});
		child.stderr.setEncoding("utf8").on("data", (text: string) => {
			stderr += text;
			lines(text);
		});
		child.on("error", error => resolve({ code: null, stdout, stderr: stderr || error.message }));
		child.on("close", code => resolve({ code, stdout, stderr }));
	});
}
