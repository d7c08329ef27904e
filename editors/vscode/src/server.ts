// The language server: started when it is needed, watched, and ended.

import { type ChildProcess, type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import * as vscode from "vscode";
import {
	CloseAction, DidChangeConfigurationNotification, ErrorAction, LanguageClient, type LanguageClientOptions,
	MessageType, RevealOutputChannelOn, ShowMessageNotification, type StaticFeature,
} from "vscode-languageclient/node";
import { notify, Problem } from "./log";
import { OLD_SERVER, REFINEMENT, STATUS, UNDERSTOOD, type Missed, type Refinement, type Status } from "./messages";
import type { Installation, Pythons } from "./python";
import { isOlder } from "./version";
import { SECTION, serverSettings, settings } from "./settings";

const OLDEST_SERVER = "0.1.0";
const STOPPED: Status = { state: "stopped", model: "", device: "", backend: "", message: "" };
const MOST_RESTARTS = 3;
const RESTART_MILLISECONDS = 180_000;
const EXIT_MILLISECONDS = 2_000;

/** Where documents are code; output channels, diffs and notebook cells are not. */
export const SCHEMES = ["file", "untitled", "vscode-vfs"] as const;

/** Tells the server which notifications of its own there is somebody for. */
const understood: StaticFeature = {
	fillClientCapabilities: capabilities => {
		const others = capabilities.experimental as Record<string, unknown> | undefined;
		capabilities.experimental = { ...others, blockdiff: UNDERSTOOD };
	},
	initialize: () => undefined,
	getState: () => ({ kind: "static" }),
	clear: () => undefined,
};

/** Says nothing but in the log: who asked for something is answered by who asks the client. */
class QuietClient extends LanguageClient {
	override error(message: string, data?: unknown): void {
		this.note("error", message, data);
	}

	override warn(message: string, data?: unknown): void {
		this.note("warn", message, data);
	}

	/** What comes of a server that ended, or never started, is said once, by who watches it. */
	private note(level: "error" | "warn", message: string, data: unknown): void {
		const line = data instanceof Error ? `${message} ${data.message}` : message;
		this.outputChannel[this.isRunning() ? level : "debug"](line);
	}
}

interface Running {
	readonly client: LanguageClient;
	readonly process: ChildProcess;
	readonly installation: Installation;
}

export class Server implements vscode.Disposable {
	status: Status = STOPPED;
	private readonly refined = new vscode.EventEmitter<Refinement>();
	private readonly statusChanged = new vscode.EventEmitter<Status>();
	private readonly started = new vscode.EventEmitter<void>();
	readonly onRefinement = this.refined.event;
	readonly onDidChangeStatus = this.statusChanged.event;
	readonly onDidStart = this.started.event;

	private starting: Promise<Running> | undefined;
	private source: string | undefined;
	private isLeaving = false;
	private restarts: number[] = [];

	constructor(
		private readonly pythons: Pythons,
		private readonly log: vscode.LogOutputChannel,
	) {}

	/** The client, started if need be. Throws a Problem. */
	async client(): Promise<LanguageClient> {
		return (await this.running()).client;
	}

	/** The client if it runs or is being started. */
	clientIfStarted(): Promise<LanguageClient> | undefined {
		return this.starting?.then(running => running.client);
	}

	/** What the server runs from, started if need be. Throws a Problem. */
	async installation(): Promise<Installation> {
		return (await this.running()).installation;
	}

	/** Whether another choice in the Python extension would matter. */
	get isFoundByPythonExtension(): boolean {
		return this.source === undefined || this.source === "Python extension";
	}

	/** An automatic completion did not come, and the server was not asked for it. */
	noteMissed(missed: Missed): void {
		this.setStatus({ ...this.status, missed });
	}

	/** Start because a document is open: a failure is a state and a line in the log. */
	async startQuietly(): Promise<void> {
		await this.running().catch(() => undefined);
	}

	async stop(): Promise<void> {
		const starting = this.starting;
		this.starting = undefined;
		const running = await starting?.catch(() => undefined);
		if (running) {
			this.isLeaving = true;
			await end(running);
			this.isLeaving = false;
		}
		this.setStatus(STOPPED);
	}

	async restart(): Promise<void> {
		await this.stop();
		await this.running();
	}

	dispose(): void {
		void this.stop();
		this.refined.dispose();
		this.statusChanged.dispose();
		this.started.dispose();
	}

	private running(): Promise<Running> {
		if (!this.starting) {
			const starting = this.start();
			this.starting = starting;
			starting.catch((error: Error) => {
				this.forget(starting);
				this.fail(error.message);
			});
		}
		return this.starting;
	}

	private forget(starting: Promise<Running>): void {
		if (this.starting === starting) {
			this.starting = undefined;
		}
	}

	private async start(): Promise<Running> {
		this.setStatus({ ...STOPPED, state: "starting", message: "starting the language server" });
		this.source = undefined;
		const installation = await this.pythons.find();
		this.source = installation.source;
		const command = [installation.python, "-m", "lsp_server", "--stdio"];
		this.log.info(`${command.join(" ")} (found by: ${installation.source}; blockdiff ${installation.version})`);
		if (isOlder(installation.version, OLDEST_SERVER)) {
			throw new Problem(OLD_SERVER);
		}
		const process = spawn(command[0]!, command.slice(1), {
			cwd: this.pythons.cwd, windowsHide: true,
		});
		let lastLine = "";
		createInterface({ input: process.stderr }).on("line", line => {
			lastLine = line;
			this.log.info(line);
		});
		const client = this.newClient(process);
		const running = { client, process, installation };
		process.once("exit", (code, signal) => this.ended(running, code, signal));
		try {
			await Promise.race([client.start(), failure(process, settings().startTimeout)]);
		} catch (error) {
			process.kill("SIGKILL");
			const reason = [(error as Error).message, lastLine].filter(Boolean).join(": ");
			throw new Problem(`the language server does not start, ${reason}; the next command tries again`);
		}
		this.setStatus(this.status.state === "starting" ? STOPPED : this.status);
		this.started.fire();
		return running;
	}

	private newClient(process: ChildProcessWithoutNullStreams): LanguageClient {
		const options: LanguageClientOptions = {
			documentSelector: SCHEMES.map(scheme => ({ scheme })),
			outputChannel: this.log,
			revealOutputChannelOn: RevealOutputChannelOn.Never,
			textSynchronization: { delayOpenNotifications: true },
			initializationFailedHandler: () => false,
			errorHandler: {
				error: () => ({ action: ErrorAction.Continue, handled: true }),
				closed: () => ({ action: CloseAction.DoNotRestart, handled: true, message: "the connection is closed" }),
			},
			middleware: {
				provideInlineCompletionItems: () => [], // see `Inline`
				workspace: {
					configuration: params => params.items.map(item => item.section === SECTION ? serverSettings() : null),
					// The server pulls: settings that are ours alone are not its business.
					didChangeConfiguration: () =>
						client.sendNotification(DidChangeConfigurationNotification.type, { settings: null }),
				},
			},
		};
		const streams = { reader: process.stdout, writer: process.stdin };
		const client = new QuietClient(SECTION, "BlockDiff", () => Promise.resolve(streams), options);
		client.registerFeature(understood);
		client.onNotification(REFINEMENT, (refinement: Refinement) => this.refined.fire(refinement));
		client.onNotification(STATUS, (status: Status) =>
			this.setStatus({ ...status, ...later(this.status.missed, status.missed) }));
		client.onNotification(ShowMessageNotification.type, ({ type, message }) => {
			if (type === MessageType.Warning) {
				this.log.warn(message); // what is wrong with the settings; nobody asked for it now
			} else {
				notify(message.replace(/^blockdiff: /, ""), type === MessageType.Error ? ["showOutput"] : []);
			}
		});
		return client;
	}

	private ended(running: Running, code: number | null, signal: string | null): void {
		if (this.isLeaving || !this.starting) {
			return;
		}
		const starting = this.starting;
		void starting.then(current => {
			if (current !== running) {
				return;
			}
			this.forget(starting);
			const how = signal ? `signal ${signal}` : `exit code ${code}`;
			this.fail(`the language server ended (${how}); the next command starts it again`);
			const now = Date.now();
			this.restarts = [...this.restarts.filter(at => now - at < RESTART_MILLISECONDS), now];
			if (this.restarts.length <= MOST_RESTARTS) {
				void this.startQuietly();
			}
		}, () => undefined);
	}

	/** Something failed: a state and a line in the log, never a notification. */
	private fail(message: string): void {
		this.log.error(message);
		this.setStatus({ ...this.status, state: "error", message });
	}

	private setStatus(status: Status): void {
		this.status = status;
		this.statusChanged.fire(status);
	}
}

/** The later of two, as a part of a status. */
function later(one: Missed | undefined, other: Missed | undefined): Pick<Status, "missed"> {
	const missed = one && (!other || other.time < one.time) ? one : other;
	return missed ? { missed } : {};
}

/** Rejects when a server that is starting ends, or does not answer for so many seconds. */
function failure(process: ChildProcess, seconds: number): Promise<never> {
	return new Promise((_, reject) => {
		const timer = setTimeout(
			() => reject(new Error(`no answer for ${seconds} seconds, see blockdiff.startTimeout`)), 1000 * seconds,
		);
		process.once("error", error => reject(error));
		process.once("exit", code => {
			clearTimeout(timer);
			reject(new Error(`it ended with exit code ${code}`));
		});
	});
}

async function end({ client, process }: Running): Promise<void> {
	const timer = setTimeout(() => process.kill("SIGKILL"), EXIT_MILLISECONDS);
	process.once("exit", () => clearTimeout(timer));
	await client.dispose(EXIT_MILLISECONDS).catch(() => process.kill("SIGKILL"));
}
