// Puts the parts together.

import * as vscode from "vscode";
import { Commands } from "./commands";
import { followContext } from "./context";
import { DiffView } from "./diffview";
import { Drafts } from "./drafts";
import { createEnvironment } from "./environment";
import { Inline } from "./inline";
import { Lens } from "./lens";
import { Preview } from "./preview";
import { Pythons } from "./python";
import { SCHEMES, Server } from "./server";
import { SECTION, settings } from "./settings";
import { StatusBar } from "./status";

let running: Server | undefined;

export function activate(context: vscode.ExtensionContext): void {
	const log = vscode.window.createOutputChannel("BlockDiff", { log: true });
	const pythons = new Pythons(context, log);
	const inline: Inline = new Inline({
		client: () => server.client(),
		clientIfStarted: () => server.clientIfStarted(),
		hasDraft: document => drafts.get(document) !== undefined,
		noteMissed: missed => server.noteMissed(missed),
		log,
	});
	const server = new Server(pythons, log);
	running = server;
	const preview = new Preview();
	const drafts = new Drafts(server, preview, log);
	const diffs = new DiffView(drafts);
	const restart = () => void server.restart().catch(() => undefined);
	const startFor = (document: vscode.TextDocument) => {
		if (SCHEMES.some(scheme => scheme === document.uri.scheme)
			&& settings(document).languages.includes(document.languageId)) {
			void server.startQuietly();
		}
	};
	context.subscriptions.push(
		log, server, preview, drafts, diffs, inline,
		new Lens(drafts, server),
		new StatusBar(server, drafts),
		followContext(drafts, diffs),
		...new Commands(drafts, diffs, inline, server, pythons, log).register(),
		vscode.commands.registerCommand("blockdiff.createEnvironment", () => createEnvironment(pythons, server, log)),
		vscode.languages.registerInlineCompletionItemProvider(SCHEMES.map(scheme => ({ scheme })), inline),
		vscode.window.onDidChangeTextEditorSelection(event => inline.rest(event)),
		vscode.workspace.onDidOpenTextDocument(startFor),
		vscode.workspace.onDidChangeConfiguration(event => {
			if (event.affectsConfiguration(`${SECTION}.interpreter`)) {
				restart();
			}
		}),
		vscode.workspace.onDidGrantWorkspaceTrust(restart),
		// A step of the walkthrough is done.
		server.onDidStart(() => vscode.commands.executeCommand("setContext", "blockdiff.isServerFound", true)),
		drafts.onDidFinish(draft => {
			const { session, document } = draft;
			const isLong = session.holes.some(({ range, text }) => range.start.line < range.end.line || text.includes("\n"));
			const isActive = vscode.window.activeTextEditor?.document === document;
			if (session.kind === "rewrite" && isLong && isActive && settings(document).openDiff) {
				void diffs.show(draft);
			}
		}),
	);
	vscode.workspace.textDocuments.forEach(startFor);
	// Activating the Python extension may take seconds, and commands wait for us.
	void pythons.watch(() => {
		if (server.isFoundByPythonExtension) {
			restart();
		}
	}).then(watcher => watcher && context.subscriptions.push(watcher));
}

/** VS Code waits for this, so that no server is left behind. */
export async function deactivate(): Promise<void> {
	await running?.stop();
}
