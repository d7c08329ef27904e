// Accept | Reject above a draft. The row is there from the first moment to the last, so that nothing
// moves when the draft is ready.

import * as vscode from "vscode";
import type { Drafts } from "./drafts";
import type { Session } from "./session";
import { loadingText } from "./describe";
import { SCHEMES, type Server } from "./server";

export class Lens implements vscode.CodeLensProvider, vscode.Disposable {
	private readonly changed = new vscode.EventEmitter<void>();
	private readonly disposables: vscode.Disposable[];
	readonly onDidChangeCodeLenses = this.changed.event;

	constructor(private readonly drafts: Drafts, private readonly server: Server) {
		this.disposables = [
			this.changed,
			drafts.onDidChange(() => this.changed.fire()),
			server.onDidChangeStatus(() => drafts.isAnyRunning && this.changed.fire()),
			vscode.languages.registerCodeLensProvider(SCHEMES.map(scheme => ({ scheme })), this),
		];
	}

	provideCodeLenses(document: vscode.TextDocument): vscode.CodeLens[] {
		const session = this.drafts.get(document)?.session;
		const first = session?.inOrder[0];
		if (!session || first === undefined) {
			return [];
		}
		const { line } = session.holes[first]!.range.start;
		const range = new vscode.Range(line, 0, line, 0);
		return this.commands(session, document.uri).map(command => new vscode.CodeLens(range, command));
	}

	dispose(): void {
		this.disposables.forEach(disposable => disposable.dispose());
	}

	private commands(session: Session, uri: vscode.Uri): vscode.Command[] {
		const offer = (title: string, command: string) => ({ title, command: `blockdiff.${command}`, arguments: [uri] });
		if (session.state === "running") {
			return [offer(`$(loading~spin) ${loadingText(this.server.status) ?? "Writing…"}`, "showOutput"), offer("Stop", "reject")];
		}
		const flaws = [
			{ broken: "does not parse", skipped: "not checked", ok: "" }[session.outcome?.syntax ?? "ok"],
			session.outcome?.finish === "length" ? "cut at the limit" : "",
		].filter(Boolean);
		return [
			offer("$(check) Accept", "accept"),
			offer("$(close) Reject", "reject"),
			offer("Accept Line", "acceptLine"),
			offer("Show Diff", "showDiff"),
			...(flaws.length > 0 ? [offer(`$(warning) ${flaws.join(", ")}`, "showDiff")] : []),
		];
	}
}
