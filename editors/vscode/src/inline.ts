// Ghost text. VS Code asks while somebody types, and on command; the server does the rest.

import * as vscode from "vscode";
import { InlineCompletionRequest, type LanguageClient } from "vscode-languageclient/node";
import { settings } from "./settings";

const REST_MILLISECONDS = 100;

/** What this needs of the rest, which is made after it. */
export interface InlineContext {
	client(): Promise<LanguageClient>;
	/** The client if it runs or is on its way: nobody starts a server by typing. */
	clientIfStarted(): Promise<LanguageClient> | undefined;
	hasDraft(document: vscode.TextDocument): boolean;
	log: vscode.LogOutputChannel;
}

type Provide = vscode.InlineCompletionItemProvider["provideInlineCompletionItems"];

/**
 * Answers instead of the language client, which shows a notification for what fails, and which
 * VS Code would not ask about what was typed before the server had started.
 *
 * VS Code keeps what it shows while the next letters agree with it, and asks again only when they do
 * not; at the same position it asks again only on command. The server answers either from what it
 * said before, if that still holds, so no completion is kept here.
 */
export class Inline implements vscode.InlineCompletionItemProvider {
	private answered: { document: vscode.TextDocument; version: number; position: vscode.Position } | undefined;

	constructor(private readonly context: InlineContext) {}

	readonly provideInlineCompletionItems: Provide = async (document, position, request, token) => {
		const isAutomatic = request.triggerKind === vscode.InlineCompletionTriggerKind.Automatic;
		if (this.context.hasDraft(document)) {
			return [];
		}
		if (isAutomatic) {
			if (!settings(document).languages.includes(document.languageId)) {
				return [];
			}
			await new Promise(resolve => setTimeout(resolve, REST_MILLISECONDS));
		}
		if (token.isCancellationRequested) {
			return [];
		}
		const { version } = document;
		try {
			const client = await (isAutomatic ? this.context.clientIfStarted() : this.context.client());
			if (!client) {
				return [];
			}
			const params = client.code2ProtocolConverter.asInlineCompletionParams(document, position, request);
			const result = await client.sendRequest(InlineCompletionRequest.type, params, token);
			const found = await client.protocol2CodeConverter.asInlineCompletionResult(result, token) ?? [];
			const count = Array.isArray(found) ? found.length : found.items.length;
			this.answered = count > 0 ? { document, version, position } : undefined;
			return found;
		} catch (error) {
			this.context.log.debug(`no completion: ${(error as Error).message}`);
			return [];
		}
	};

	/** Show a completion at the cursor, or another one where one was found already. */
	async next(editor: vscode.TextEditor): Promise<void> {
		const isFound = this.answered?.document === editor.document
			&& this.answered.version === editor.document.version
			&& this.answered.position.isEqual(editor.selection.active);
		await vscode.commands.executeCommand(`editor.action.inlineSuggest.${isFound ? "showNext" : "trigger"}`);
	}
}
