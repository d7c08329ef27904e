// Context keys for the `when` clauses of keybindings and menus.

import * as vscode from "vscode";
import type { DiffView } from "./diffview";
import type { Drafts } from "./drafts";

/** `blockdiff.hasDraft` and `blockdiff.isDraftReady` are of the document in the active editor. */
export function followContext(drafts: Drafts, diffs: DiffView): vscode.Disposable {
	const update = () => {
		const active = vscode.window.activeTextEditor?.document;
		const session = drafts.get(active && diffs.documentOf(active.uri))?.session;
		void vscode.commands.executeCommand("setContext", "blockdiff.hasDraft", session !== undefined);
		void vscode.commands.executeCommand("setContext", "blockdiff.isDraftReady", session?.state === "ready");
	};
	return vscode.Disposable.from(drafts.onDidChange(update), vscode.window.onDidChangeActiveTextEditor(update));
}
