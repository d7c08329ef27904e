// Drafts from request to end: asked for, refined, followed, taken or left. One for each document.

import * as vscode from "vscode";
import { firstLine, firstWord } from "./diff";
import { changeOf, endAfterAll, type Position, type Range, smallest } from "./edit";
import { notify, Problem, type Remedy } from "./log";
import { explain, INFILL, infillParams, type Outcome, type Refinement, REWRITE, rewriteParams } from "./messages";
import { type Preview, toRange } from "./preview";
import type { Server } from "./server";
import { type Hole, type Kind, Session } from "./session";

const FRAME_MILLISECONDS = 30;

export interface Draft {
	readonly session: Session;
	readonly document: vscode.TextDocument;
	readonly cancellation: vscode.CancellationTokenSource;
}

export interface Asked {
	readonly kind: Kind;
	readonly ranges: readonly Range[];
	/** Of a rewrite; empty: what the model finds unlikely is written anew. */
	readonly instruction?: string;
}

export class Drafts implements vscode.Disposable {
	private readonly open = new Map<vscode.TextDocument, Draft>();
	private readonly changed = new vscode.EventEmitter<vscode.TextDocument>();
	private readonly finished = new vscode.EventEmitter<Draft>();
	private readonly disposables: vscode.Disposable[];
	private readonly due = new Set<Draft>();
	/** The hole whose text we change ourselves, while we do. */
	private own: number | "all" | undefined;
	private count = 0;

	/** The draft of a document came, went, or is in another state; not: it was refined. */
	readonly onDidChange = this.changed.event;
	readonly onDidFinish = this.finished.event;

	constructor(
		private readonly server: Server,
		private readonly preview: Preview,
		private readonly log: vscode.LogOutputChannel,
	) {
		this.disposables = [
			this.changed, this.finished,
			server.onRefinement(refinement => this.refine(refinement)),
			vscode.workspace.onDidChangeTextDocument(event => this.follow(event)),
			vscode.workspace.onDidCloseTextDocument(document => this.reject(document)),
			vscode.window.onDidChangeVisibleTextEditors(() => this.open.forEach(draft => this.render(draft))),
			vscode.window.onDidChangeTextEditorViewColumn(() => this.open.forEach(draft => this.render(draft))),
		];
	}

	get(document: vscode.TextDocument | undefined): Draft | undefined {
		return document && this.open.get(document);
	}

	get isAnyRunning(): boolean {
		return [...this.open.values()].some(draft => draft.session.state === "running");
	}

	/** Ask for a draft; whoever asked is told what goes wrong. */
	async request(document: vscode.TextDocument, asked: Asked): Promise<void> {
		this.reject(document);
		const id = `vscode-${process.pid}-${++this.count}`;
		const draft: Draft = {
			session: new Session(id, asked.kind, asked.ranges),
			document,
			cancellation: new vscode.CancellationTokenSource(),
		};
		this.open.set(document, draft);
		this.render(draft);
		this.changed.fire(document);
		try {
			const outcome = await this.send(draft, asked);
			if (!draft.session.isAlive || !outcome) {
				return;
			}
			if (draft.session.finish(outcome)) {
				this.render(draft);
				this.changed.fire(document);
				this.finished.fire(draft);
				if (outcome.syntax === "skipped") {
					this.log.info(`there is no grammar for ${document.languageId}: the draft was not checked, read it with care`);
				}
				return;
			}
			this.close(draft);
			notify("there is nothing to change");
		} catch (error) {
			const wasAlive = draft.session.isAlive;
			this.close(draft);
			if (wasAlive) {
				this.answer(error as Error);
			}
		}
	}

	private async send({ session, document, cancellation }: Draft, asked: Asked): Promise<Outcome | undefined> {
		const client = await this.server.client();
		if (!session.isAlive) {
			return undefined;
		}
		const id = { uri: client.code2ProtocolConverter.asUri(document.uri), version: document.version };
		const ranges = session.holes.map(hole => hole.range);
		return asked.kind === "infill"
			? client.sendRequest<Outcome>(INFILL, infillParams(id, session.id, ranges), cancellation.token)
			: client.sendRequest<Outcome>(
				REWRITE, rewriteParams(id, session.id, ranges[0]!, asked.instruction ?? ""), cancellation.token,
			);
	}

	private answer(error: Error & { code?: number; data?: { code?: string } }): void {
		const message = explain(error);
		if (message === undefined) {
			return;
		}
		if (error instanceof Problem) { // the server has logged it
			notify(message, error.remedies);
			return;
		}
		this.log.error(message);
		const remedies: Remedy[] = error.data?.code?.startsWith("model") ? ["selectModel", "showOutput"] : ["showOutput"];
		notify(message, remedies);
	}

	/** Take the whole draft of a document; one undo step. */
	async accept(document: vscode.TextDocument): Promise<void> {
		const draft = this.ready(document);
		if (!draft) {
			return;
		}
		const { session } = draft;
		const cursor = editorOf(document)?.selection.active;
		const near = cursor ? session.at(cursor) : 0;
		const end = endAfterAll(session.holes, near);
		if (await this.apply(document, session.holes, "all")) {
			this.close(draft);
			await putCursor(document, end);
		}
	}

	/** Take the first line or word of the draft at the cursor; one undo step. The rest stays. */
	async acceptPart(document: vscode.TextDocument, unit: "line" | "word"): Promise<void> {
		const draft = this.ready(document);
		if (!draft) {
			return;
		}
		const { session } = draft;
		const index = session.at(editorOf(document)?.selection.active ?? session.holes[0]!.range.start);
		const hole = session.holes[index]!;
		const head = unit === "line" ? firstLine(hole.text) : firstWord(hole.text);
		const { start } = hole.range;
		const isLast = head.length === hole.text.length;
		const edit = { range: isLast ? hole.range : { start, end: start }, text: head };
		if (!await this.apply(document, [edit], index)) {
			return;
		}
		session.takeHead(index, head);
		await putCursor(document, endAfterAll([edit], 0));
		if (session.holes.length === 0) {
			this.close(draft);
		} else {
			this.render(draft);
			this.changed.fire(document);
		}
	}

	/** Leave the draft of a document; what is still being written is cancelled. */
	reject(document: vscode.TextDocument | undefined): void {
		const draft = this.get(document);
		if (draft) {
			this.close(draft);
		}
	}

	/** Cancel whatever is being written, in all documents. Finished drafts stay. */
	stop(): void {
		for (const draft of this.open.values()) {
			if (draft.session.state === "running") {
				this.close(draft);
			}
		}
	}

	dispose(): void {
		this.open.forEach(draft => this.close(draft));
		this.disposables.forEach(disposable => disposable.dispose());
	}

	private ready(document: vscode.TextDocument): Draft | undefined {
		const draft = this.open.get(document);
		if (draft?.session.state === "ready" && this.own === undefined) {
			return draft;
		}
		if (this.own === undefined) {
			notify(draft ? "the draft is not finished yet" : "there is nothing to accept");
		}
		return undefined;
	}

	/** Replace texts of a document in one undo step. False if that cannot be done. */
	private async apply(
		document: vscode.TextDocument, edits: readonly Pick<Hole, "range" | "text">[], own: number | "all",
	): Promise<boolean> {
		const changes = edits.map(edit => minimal(document, edit.range, edit.text));
		const { version } = document;
		this.own = own;
		try {
			// An editor that is read-only says that it has made the edit.
			if (await replace(document, changes) && document.version !== version) {
				return true;
			}
		} finally {
			this.own = undefined;
		}
		notify("this document cannot be changed: save a copy that can be");
		return false;
	}

	private refine(refinement: Refinement): void {
		for (const draft of this.open.values()) {
			const taken = draft.session.refine(refinement, draft.document.version);
			if (taken === "taken") {
				this.renderSoon(draft);
			} else if (taken === "lost" && refinement.requestId === draft.session.id) {
				this.log.warn("a draft was dropped: the server followed an edit to another place");
				this.close(draft);
			}
		}
	}

	private follow({ document, contentChanges }: vscode.TextDocumentChangeEvent): void {
		const draft = this.open.get(document);
		if (!draft || contentChanges.length === 0 || this.own === "all") {
			return;
		}
		for (const { range, text } of contentChanges) {
			if (!draft.session.follow(changeOf(range, text), this.own)) {
				this.close(draft);
				return;
			}
		}
		this.render(draft);
		this.changed.fire(document);
	}

	private close(draft: Draft): void {
		draft.session.stop();
		draft.cancellation.cancel();
		draft.cancellation.dispose();
		if (this.open.get(draft.document) === draft) {
			this.open.delete(draft.document);
			this.preview.clear(draft.document);
			this.changed.fire(draft.document);
		}
	}

	private render(draft: Draft): void {
		if (draft.session.isAlive) {
			this.preview.render(draft.session, draft.document);
		}
	}

	/** Engines refine faster than anybody reads: paint the latest draft of each frame. */
	private renderSoon(draft: Draft): void {
		if (!this.due.has(draft)) {
			this.due.add(draft);
			setTimeout(() => {
				this.due.delete(draft);
				this.render(draft);
			}, FRAME_MILLISECONDS);
		}
	}
}

/** The editor proper of a document: panes of a diff have no column. */
export function editorOf(document: vscode.TextDocument): vscode.TextEditor | undefined {
	const editors = vscode.window.visibleTextEditors.filter(editor => editor.document === document);
	return editors.find(editor => editor === vscode.window.activeTextEditor)
		?? editors.find(editor => editor.viewColumn !== undefined) ?? editors[0];
}

function minimal(document: vscode.TextDocument, range: Range, text: string): [vscode.Range, string] {
	const lineBreak = document.eol === vscode.EndOfLine.CRLF ? "\r\n" : "\n";
	const whole = toRange(range);
	const change = smallest(document.getText(whole), text.replaceAll("\n", lineBreak));
	const from = document.offsetAt(whole.start);
	return [
		new vscode.Range(document.positionAt(from + change.start), document.positionAt(from + change.end)),
		change.text,
	];
}

function replace(document: vscode.TextDocument, changes: readonly [vscode.Range, string][]): Thenable<boolean> {
	const editor = editorOf(document);
	if (editor) {
		return editor.edit(
			builder => changes.forEach(([range, text]) => builder.replace(range, text)),
			{ undoStopBefore: true, undoStopAfter: true },
		);
	}
	const edit = new vscode.WorkspaceEdit();
	changes.forEach(([range, text]) => edit.replace(document.uri, range, text));
	return vscode.workspace.applyEdit(edit);
}

/** In the editor proper, even if the draft was taken in a diff. */
async function putCursor(document: vscode.TextDocument, position: Position | undefined): Promise<void> {
	if (!position) {
		return;
	}
	const place = new vscode.Position(position.line, position.character);
	const selection = new vscode.Selection(place, place);
	const editor = editorOf(document);
	if (editor?.viewColumn !== undefined) {
		editor.selection = selection;
		editor.revealRange(selection);
	} else {
		await vscode.window.showTextDocument(document, { selection });
	}
}
