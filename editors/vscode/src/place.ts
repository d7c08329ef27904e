// From a selection to the hole that is meant.

import * as vscode from "vscode";

/**
 * A selection of whole lines, down to the start of the next one, means their content: the indentation
 * of the first and the ending of the last stay.
 */
export function meant(document: vscode.TextDocument, selection: vscode.Range): vscode.Range {
	const { start, end } = selection;
	if (end.character !== 0 || end.line === start.line) {
		return new vscode.Range(start, end);
	}
	const first = document.lineAt(start.line), last = document.lineAt(end.line - 1);
	const isWhole = start.character <= first.firstNonWhitespaceCharacterIndex;
	const from = isWhole && !first.isEmptyOrWhitespace
		? new vscode.Position(start.line, first.firstNonWhitespaceCharacterIndex)
		: start;
	return new vscode.Range(from, last.range.end);
}

/** The same; without a selection, the content of the cursor's line. */
export function meantAsWhole(document: vscode.TextDocument, selection: vscode.Range): vscode.Range {
	if (!selection.isEmpty) {
		return meant(document, selection);
	}
	const line = document.lineAt(selection.start.line);
	return new vscode.Range(line.lineNumber, line.firstNonWhitespaceCharacterIndex, line.lineNumber, line.text.length);
}
