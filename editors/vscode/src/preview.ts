// Paints drafts as decorations. The document does not change.

import * as vscode from "vscode";
import type { TokenKind } from "./diff";
import { paint, stops, type Row } from "./paint";
import type { Session } from "./session";

const COLORS: Record<TokenKind, string> = {
	settled: "blockdiff.settledForeground",
	masked: "blockdiff.maskedForeground",
	uncertain: "blockdiff.uncertainForeground",
	plain: "editor.foreground",
};

/** How VS Code names the value of a theme colour in its style sheets. */
function cssVariable(color: string): string {
	return `var(--vscode-${color.replaceAll(".", "-")})`;
}

/**
 * Style rules of one painted line. Decorations at the same position have no order that could be relied
 * on, so a line is one element, and a gradient with hard edges gives its tokens their colours.
 */
function style(row: Row): string {
	let from = 0;
	const colors = stops(row.chunks).map(({ kind, until }) => {
		const part = `${cssVariable(COLORS[kind])} ${percent(from)} ${percent(until)}`;
		from = until;
		return part;
	});
	const gradient = `linear-gradient(90deg, ${colors.join(", ")})`;
	const below = row.below === 0
		? ""
		: ` position: absolute; left: 0; top: ${100 * row.below}%; z-index: 1;`;
	return `none; white-space: pre; background: ${gradient} text; -webkit-background-clip: text; color: transparent;${below}`;
}

function percent(share: number): string {
	return `${(100 * share).toFixed(3)}%`;
}

export class Preview implements vscode.Disposable {
	private readonly text = vscode.window.createTextEditorDecorationType({
		rangeBehavior: vscode.DecorationRangeBehavior.ClosedClosed,
	});
	private readonly hidden = vscode.window.createTextEditorDecorationType({
		textDecoration: "none; display: none",
		rangeBehavior: vscode.DecorationRangeBehavior.ClosedClosed,
	});
	private readonly replaced = vscode.window.createTextEditorDecorationType({
		backgroundColor: new vscode.ThemeColor("blockdiff.replacedBackground"),
	});
	private readonly drafted = vscode.window.createTextEditorDecorationType({
		isWholeLine: true,
		backgroundColor: new vscode.ThemeColor("blockdiff.draftBackground"),
		overviewRulerColor: new vscode.ThemeColor("blockdiff.settledForeground"),
		overviewRulerLane: vscode.OverviewRulerLane.Center,
	});
	private readonly covered = vscode.window.createTextEditorDecorationType({
		isWholeLine: true,
		backgroundColor: new vscode.ThemeColor("blockdiff.coveredBackground"),
	});
	private readonly types = [this.text, this.hidden, this.replaced, this.drafted, this.covered];

	/** Paint the drafts of a session anew, in every editor that shows its document. */
	render(session: Session, document: vscode.TextDocument): void {
		for (const editor of editorsOf(document)) {
			this.renderIn(editor, session);
		}
	}

	clear(document: vscode.TextDocument): void {
		for (const editor of editorsOf(document)) {
			for (const type of this.types) {
				editor.setDecorations(type, []);
			}
		}
	}

	dispose(): void {
		for (const type of this.types) {
			type.dispose();
		}
	}

	private renderIn(editor: vscode.TextEditor, session: Session): void {
		const { document } = editor;
		const lines = {
			lineCount: document.lineCount,
			lineAt: (line: number) => document.lineAt(line).text,
		};
		const holes = session.inOrder.map(index => session.holes[index]!);
		const { rows, replaced } = paint(lines, holes, Number(editor.options.tabSize) || 4);
		const texts: vscode.DecorationOptions[] = [];
		const hidden: vscode.Range[] = [];
		for (const row of rows) {
			if (row.hiddenTo > row.column && row.below === 0) {
				hidden.push(new vscode.Range(row.line, row.column, row.line, row.hiddenTo));
			}
			const contentText = row.chunks.map(chunk => chunk.text).join("");
			if (contentText !== "") {
				texts.push({
					range: new vscode.Range(row.line, row.column, row.line, row.column),
					renderOptions: { before: { contentText, textDecoration: style(row) } },
				});
			}
		}
		const linesOf = (isCovered: boolean) => rows
			.filter(row => row.below === 0 && row.isCovered === isCovered)
			.map(row => new vscode.Range(row.line, 0, row.line, 0));
		editor.setDecorations(this.hidden, hidden);
		editor.setDecorations(this.text, texts);
		editor.setDecorations(this.drafted, linesOf(false));
		editor.setDecorations(this.covered, linesOf(true));
		editor.setDecorations(this.replaced, replaced.map(toRange));
	}
}

function toRange(range: { start: { line: number; character: number }; end: { line: number; character: number } }): vscode.Range {
	return new vscode.Range(range.start.line, range.start.character, range.end.line, range.end.character);
}

function editorsOf(document: vscode.TextDocument): vscode.TextEditor[] {
	return vscode.window.visibleTextEditors.filter(editor => editor.document === document);
}
