// What a user can ask for.

import * as vscode from "vscode";
import type { DiffView } from "./diffview";
import { type Drafts, editorOf } from "./drafts";
import { isEmpty, type Range } from "./edit";
import type { Inline } from "./inline";
import { notify, Problem } from "./log";
import { MOST_HOLES } from "./messages";
import { meant, meantAsWhole } from "./place";
import { linesOf } from "./preview";
import { run } from "./process";
import type { Pythons } from "./python";
import { SCHEMES, type Server } from "./server";

const MODELS_MILLISECONDS = 30_000;

export class Commands {
	constructor(
		private readonly drafts: Drafts,
		private readonly diffs: DiffView,
		private readonly inline: Inline,
		private readonly server: Server,
		private readonly pythons: Pythons,
		private readonly log: vscode.LogOutputChannel,
	) {}

	register(): vscode.Disposable[] {
		const all: Record<string, (argument?: unknown) => unknown> = {
			infillSelection: () => this.infill(false),
			fillAllHoles: () => this.infill(true),
			rewriteSelection: argument => this.rewrite(argument),
			accept: argument => this.onDraft(argument, document => this.drafts.accept(document)),
			acceptLine: argument => this.acceptPart(argument, "line"),
			acceptWord: argument => this.acceptPart(argument, "word"),
			reject: argument => this.drafts.reject(this.documentOf(argument)),
			showDiff: argument => this.onDraft(argument, document => this.showDiff(document)),
			nextSuggestion: () => this.next(),
			toggleMultiline: () => this.inline.toggleMultiline(),
			stop: () => this.stop(),
			restartEngine: () => this.restartEngine(),
			selectModel: () => this.selectModel(),
			showOutput: () => this.log.show(),
			openSettings: () => vscode.commands.executeCommand("workbench.action.openSettings", "blockdiff."),
		};
		return Object.entries(all).map(([name, command]) =>
			vscode.commands.registerCommand(`blockdiff.${name}`, async (argument?: unknown) => {
				try {
					await command(argument);
				} catch (error) {
					if (!(error instanceof Problem)) {
						throw error;
					}
					this.log.error(error.message);
					notify(error.message, error.remedies);
				}
			}),
		);
	}

	private async infill(isEachSelection: boolean): Promise<void> {
		const editor = await editable();
		const selections = isEachSelection ? editor.selections : [editor.selection];
		if (selections.length > MOST_HOLES) {
			throw new Problem(`${selections.length} holes are too many, ${MOST_HOLES} is the most`, []);
		}
		const ranges = selections.map(selection => meant(linesOf(editor.document), selection));
		await this.ask(editor, () => this.drafts.request(editor.document, { kind: "infill", ranges }), ranges);
	}

	private async rewrite(argument: unknown): Promise<void> {
		const editor = await editable();
		const range = meantAsWhole(linesOf(editor.document), editor.selection);
		if (isEmpty(range)) {
			throw new Problem("there is nothing to rewrite: select some code", []);
		}
		const { version } = editor.document;
		const instruction = instructionOf(argument) ?? await vscode.window.showInputBox({
			title: "BlockDiff: Rewrite Selection",
			prompt: "What should change? Empty: what the model finds unlikely is written anew.",
			placeHolder: "use a loop",
		});
		if (instruction === undefined) {
			return;
		}
		if (editor.document.version !== version) {
			throw new Problem("the document changed meanwhile: select the code again", []);
		}
		const asked = { kind: "rewrite", ranges: [range], instruction } as const;
		await this.ask(editor, () => this.drafts.request(editor.document, asked), [range]);
	}

	/** A selection would shine through the draft: it becomes a cursor at its start. */
	private async ask(editor: vscode.TextEditor, request: () => Promise<void>, ranges: readonly Range[]): Promise<void> {
		await vscode.commands.executeCommand("editor.action.inlineSuggest.hide");
		const most = vscode.workspace.getConfiguration("editor", editor.document).get("stopRenderingLineAfter", -1);
		if (most > 0 && ranges.some(({ start }) => start.character > most)) {
			this.log.info("this line is longer than VS Code paints: run Show Diff when the draft is ready, or raise editor.stopRenderingLineAfter");
		}
		editor.selections = ranges.map(({ start }) => {
			const place = new vscode.Position(start.line, start.character);
			return new vscode.Selection(place, place);
		});
		await request();
	}

	private async onDraft(argument: unknown, act: (document: vscode.TextDocument) => unknown): Promise<void> {
		const document = this.documentOf(argument);
		if (document) {
			await act(document);
		} else {
			notify("there is no draft");
		}
	}

	/** Of the draft; without one, of a completion, which VS Code takes apart itself. */
	private async acceptPart(argument: unknown, unit: "line" | "word"): Promise<void> {
		const document = this.documentOf(argument);
		if (document && !this.drafts.get(document)) {
			await vscode.commands.executeCommand(`editor.action.inlineSuggest.acceptNext${unit === "line" ? "Line" : "Word"}`);
			return;
		}
		await this.onDraft(argument, found => this.drafts.acceptPart(found, unit));
	}

	/** Of a lens that names it, else of the active editor, be it a diff of the draft. */
	private documentOf(argument: unknown): vscode.TextDocument | undefined {
		const uri = argument instanceof vscode.Uri ? argument : vscode.window.activeTextEditor?.document.uri;
		return uri && this.diffs.documentOf(uri);
	}

	private async showDiff(document: vscode.TextDocument): Promise<void> {
		const draft = this.drafts.get(document);
		if (draft?.session.state === "ready") {
			await this.diffs.show(draft);
		} else {
			notify(draft ? "the draft is not finished yet" : "there is no draft");
		}
	}

	/** The next hole of a draft, or another completion. */
	private async next(): Promise<void> {
		const editor = vscode.window.activeTextEditor;
		const session = this.drafts.get(editor?.document)?.session;
		if (editor && session) {
			const { start } = session.holes[session.behind(editor.selection.active)]!.range;
			const place = new vscode.Position(start.line, start.character);
			editor.selection = new vscode.Selection(place, place);
			editor.revealRange(editor.selection);
			return;
		}
		if (editor) {
			await this.inline.next(editor);
		}
	}

	private async stop(): Promise<void> {
		this.drafts.stop();
		await vscode.commands.executeCommand("editor.action.inlineSuggest.hide");
	}

	private async restartEngine(): Promise<void> {
		this.drafts.stop();
		const installation = await this.server.installation();
		const { code, stderr } = await run([installation.python, "-m", "blockdiff", "stop"], { cwd: this.pythons.cwd });
		if (code !== 0) {
			this.log.warn(`the engine was not stopped: ${stderr.trim()}`);
		}
		await this.server.restart();
	}

	private async selectModel(): Promise<void> {
		const { python } = await this.server.installation();
		const { code, stdout, stderr } = await run(
			[python, "-m", "blockdiff", "models", "list"], { cwd: this.pythons.cwd, timeout: MODELS_MILLISECONDS },
		);
		if (code !== 0) {
			throw new Problem(`the models cannot be listed: ${stderr.trim()}`);
		}
		const values = vscode.workspace.getConfiguration("blockdiff");
		const current = values.get("engine.model", "");
		const models = stdout.trim().split(/\r?\n/).slice(1).map(line => {
			const [label = "", state = "", ...rest] = line.trim().split(/\s{2,}/);
			return { label, description: [label === current ? "chosen" : "", state].filter(Boolean).join(", "), detail: rest.join(", "), model: label };
		});
		const chosen = await vscode.window.showQuickPick(
			[{ label: "Default", description: current === "" ? "chosen" : "", detail: "", model: "" }, ...models],
			{ title: "BlockDiff: Select Model", placeHolder: "A path is entered in the setting blockdiff.engine.model" },
		);
		if (chosen) {
			await values.update("engine.model", chosen.model || undefined, vscode.ConfigurationTarget.Global);
		}
	}
}

/** The active editor, if a draft can be written for it. Throws a Problem that says why not. */
async function editable(): Promise<vscode.TextEditor> {
	const editor = vscode.window.activeTextEditor;
	if (!editor) {
		throw new Problem("there is no editor: open a file first", []);
	}
	const { uri } = editor.document;
	if (uri.scheme === "vscode-notebook-cell") {
		throw new Problem("a notebook cell cannot hold a draft: copy the code to a file", []);
	}
	if (!SCHEMES.some(scheme => scheme === uri.scheme)) {
		throw new Problem(`a document of the kind "${uri.scheme}" cannot be changed: open the file itself`, []);
	}
	if (editorOf(editor.document)?.viewColumn === undefined) {
		throw new Problem("drafts are not shown here: open the file in an editor of its own", []);
	}
	if (await isReadOnly(editor.document)) {
		throw new Problem("this file is read-only: make it writable, or save a copy", []);
	}
	return editor;
}

async function isReadOnly(document: vscode.TextDocument): Promise<boolean> {
	const { uri } = document;
	if (uri.scheme === "untitled") {
		return false;
	}
	if (vscode.workspace.fs.isWritableFileSystem(uri.scheme) === false || isReadOnlyBySettings(document)) {
		return true;
	}
	try {
		const { permissions } = await vscode.workspace.fs.stat(uri);
		return permissions !== undefined && (permissions & vscode.FilePermission.Readonly) !== 0;
	} catch {
		return false; // a file that is not saved yet
	}
}

function isReadOnlyBySettings(document: vscode.TextDocument): boolean {
	const files = vscode.workspace.getConfiguration("files", document);
	const matches = (setting: string) => Object.entries(files.get<Record<string, boolean>>(setting, {}))
		.some(([pattern, isOn]) => isOn && vscode.languages.match({ pattern }, document) > 0);
	return matches("readonlyInclude") && !matches("readonlyExclude");
}

function instructionOf(argument: unknown): string | undefined {
	const { instruction } = (argument ?? {}) as { instruction?: unknown };
	return typeof instruction === "string" ? instruction : undefined;
}
