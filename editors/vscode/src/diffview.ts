// Shows a draft as a diff of its document against a virtual one that has the draft in it.

import * as vscode from "vscode";
import type { Draft, Drafts } from "./drafts";

export const DIFF_SCHEME = "blockdiff-draft";

export class DiffView implements vscode.TextDocumentContentProvider, vscode.Disposable {
	private readonly changed = new vscode.EventEmitter<vscode.Uri>();
	private readonly disposables: vscode.Disposable[];
	readonly onDidChange = this.changed.event;

	constructor(private readonly drafts: Drafts) {
		this.disposables = [
			this.changed,
			vscode.workspace.registerTextDocumentContentProvider(DIFF_SCHEME, this),
			drafts.onDidChange(document => this.update(document)),
		];
	}

	async show({ document }: Draft): Promise<void> {
		const name = document.uri.path.split("/").pop() ?? "";
		await vscode.commands.executeCommand(
			"vscode.diff", document.uri, draftUri(document.uri), `${name}: Draft of BlockDiff`, { preview: true },
		);
	}

	/** The document of a URI; of a virtual one, the document whose draft it shows. */
	documentOf(uri: vscode.Uri): vscode.TextDocument | undefined {
		const source = uri.scheme === DIFF_SCHEME ? uri.query : uri.toString();
		return vscode.workspace.textDocuments.find(document => document.uri.toString() === source);
	}

	provideTextDocumentContent(uri: vscode.Uri): string {
		const document = this.documentOf(uri);
		const draft = this.drafts.get(document);
		if (!document || !draft) {
			return document?.getText() ?? "";
		}
		let text = "", at = 0;
		for (const index of draft.session.inOrder) {
			const { range, text: made } = draft.session.holes[index]!;
			const start = document.offsetAt(new vscode.Position(range.start.line, range.start.character));
			text += document.getText().slice(at, start) + made;
			at = document.offsetAt(new vscode.Position(range.end.line, range.end.character));
		}
		return text + document.getText().slice(at);
	}

	dispose(): void {
		this.disposables.forEach(disposable => disposable.dispose());
	}

	/** A diff follows its draft, and closes with it. */
	private update(document: vscode.TextDocument): void {
		const uri = draftUri(document.uri);
		if (this.drafts.get(document)) {
			this.changed.fire(uri);
			return;
		}
		const tabs = vscode.window.tabGroups.all.flatMap(group => group.tabs).filter(({ input }) =>
			input instanceof vscode.TabInputTextDiff && input.modified.toString() === uri.toString(),
		);
		if (tabs.length > 0) {
			void vscode.window.tabGroups.close(tabs);
		}
	}
}

function draftUri(source: vscode.Uri): vscode.Uri {
	return vscode.Uri.from({ scheme: DIFF_SCHEME, path: source.path, query: source.toString() });
}
