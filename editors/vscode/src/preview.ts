// Paints drafts as decorations. The document does not change.

import * as vscode from "vscode";
import type { TokenKind } from "./diff";
import { type Lines, paint, type Row, stops } from "./paint";
import type { Range } from "./edit";
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
		: ` position: absolute; left: 0; top: ${100 * row.below}%; margin-top: -0.3em; z-index: 1;`;
	// The background is the text: without the padding it ends above an underscore.
	return `none; white-space: pre; padding: 0.3em 0; background: ${gradient} text; color: transparent;${below}`;
}

function percent(share: number): string {
	return `${(100 * share).toFixed(3)}%`;
}

export class Preview implements vscode.Disposable {
	private readonly text = vscode.window.createTextEditorDecorationType({
		rangeBehavior: vscode.DecorationRangeBehavior.ClosedClosed,
	});
	private readonly hidden = vscode.window.createTextEditorDecorationType({
		// Without any width, but not without a place: the cursor and the lens need one.
		textDecoration: "none; font-size: 0",
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
	private readonly edge = vscode.window.createTextEditorDecorationType({
		isWholeLine: true,
		borderColor: new vscode.ThemeColor("blockdiff.draftBorder"),
		borderStyle: "solid",
		borderWidth: "0 0 1px 0",
	});
	private readonly types = [this.text, this.hidden, this.replaced, this.drafted, this.covered, this.edge];

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
		const holes = session.inOrder.map(index => session.holes[index]!);
		const { rows, replaced } = paint(linesOf(document), holes, Number(editor.options.tabSize) || 4);
		const texts: vscode.DecorationOptions[] = [];
		const hidden: vscode.Range[] = [];
		for (const row of rows) {
			const { line, column, hiddenTo } = row;
			const seam = behindFirst(row, document);
			if (row.below === 0) {
				const parts = [new vscode.Range(line, column, line, seam), new vscode.Range(line, seam, line, hiddenTo)];
				hidden.push(...parts.filter(part => !part.isEmpty));
			}
			const contentText = row.chunks.map(chunk => chunk.text).join("");
			if (contentText !== "") {
				texts.push({
					range: new vscode.Range(line, column, line, seam),
					renderOptions: { after: { contentText, textDecoration: style(row) } },
				});
			}
		}
		const rangesOf = (isWanted: (row: Row) => boolean) => rows
			.filter(row => row.below === 0 && isWanted(row))
			.map(row => new vscode.Range(row.line, 0, row.line, 0));
		editor.setDecorations(this.hidden, hidden);
		editor.setDecorations(this.text, texts);
		editor.setDecorations(this.drafted, rangesOf(row => !row.isCovered));
		editor.setDecorations(this.covered, rangesOf(row => row.isCovered));
		editor.setDecorations(this.edge, rangesOf(row => row.isLast));
		editor.setDecorations(this.replaced, replaced.map(toRange));
	}
}

/**
 * A draft stands behind the first character that is hidden: so the cursor and the lens stay at its start,
 * and of a line that wraps it takes the first row.
 */
function behindFirst({ line, column, hiddenTo }: Row, document: vscode.TextDocument): number {
	const code = document.lineAt(line).text.codePointAt(column) ?? 0;
	return Math.min(column + (code > 0xffff ? 2 : 1), hiddenTo);
}

export function linesOf(document: vscode.TextDocument): Lines {
	return { lineCount: document.lineCount, lineAt: line => document.lineAt(line).text };
}

export function toRange({ start, end }: Range): vscode.Range {
	return new vscode.Range(start.line, start.character, end.line, end.character);
}

/** A pane of a diff has no column: there the document is what the draft is compared to. */
function editorsOf(document: vscode.TextDocument): vscode.TextEditor[] {
	return vscode.window.visibleTextEditors.filter(
		editor => editor.document === document && editor.viewColumn !== undefined,
	);
}
