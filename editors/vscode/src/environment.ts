// Makes a Python environment with blockdiff in it, when somebody asks for it.

import * as fs from "node:fs/promises";
import * as path from "node:path";
import * as vscode from "vscode";
import { notify, Problem } from "./log";
import { run } from "./process";
import { interpreterIn, type Pythons } from "./python";
import type { Server } from "./server";
import { settings } from "./settings";

export async function createEnvironment(pythons: Pythons, server: Server, log: vscode.LogOutputChannel): Promise<void> {
	const options = {
		location: vscode.ProgressLocation.Notification,
		title: "BlockDiff: creating a Python environment",
		cancellable: true,
	};
	try {
		const isMade = await vscode.window.withProgress(options, (progress, token) => {
			const abort = new AbortController();
			token.onCancellationRequested(() => abort.abort());
			return make(pythons, log, abort.signal, message => progress.report({ message }));
		});
		if (isMade) {
			await server.restart();
		}
	} catch (error) {
		if (!(error instanceof Problem)) {
			throw error;
		}
		log.error(error.message);
		notify(error.message, error.remedies);
	}
}

/** False if it was cancelled: then nothing is left of it. */
async function make(
	pythons: Pythons, log: vscode.LogOutputChannel, signal: AbortSignal, report: (message: string) => void,
): Promise<boolean> {
	const folder = pythons.ownEnvironment;
	const base = await pythons.base();
	await fs.mkdir(path.dirname(folder), { recursive: true });
	const steps: [message: string, command: string[]][] = [
		[`with ${base}`, [base, "-m", "venv", "--clear", folder]],
		[`installing ${settings().package}`, [
			interpreterIn(folder), "-m", "pip", "--disable-pip-version-check", "install", "--progress-bar", "off",
			settings().package,
		]],
	];
	for (const [message, command] of steps) {
		report(message);
		log.info(command.join(" "));
		const { code, stderr } = await run(command, {
			cwd: pythons.cwd,
			signal,
			onLine: line => {
				log.info(line);
				if (/^(Collecting|Downloading|Installing)/.test(line.trim())) {
					report(line.trim().slice(0, 80));
				}
			},
		});
		if (code !== 0) {
			await fs.rm(folder, { recursive: true, force: true });
			if (signal.aborted) {
				return false;
			}
			const last = stderr.trim().split(/\r?\n/).pop() ?? "";
			throw new Problem(`the environment could not be made: ${last}`);
		}
	}
	return true;
}
