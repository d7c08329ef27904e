// Ghost text. VS Code asks while somebody types, and on command; the server does the rest.

import * as vscode from "vscode";
import { InlineCompletionRequest, type LanguageClient, type Middleware } from "vscode-languageclient/node";
import { settings } from "./settings";

const REST_MILLISECONDS = 100;

/** What this needs of the rest, which is made after it. */
export interface InlineContext {
	client(): Promise<LanguageClient>;
	hasDraft(document: vscode.TextDocument): boolean;
	log: vscode.LogOutputChannel;
}

/**
 * Answers instead of the language client, which shows a notification for what fails.
 *
 * VS Code keeps what it shows while the next letters agree with it, and asks again only when they do
 * not; at the same position it asks again only on command. The server answers either from what it
 * said before, if that still holds, so there is nothing to keep here.
 */
export function inlineMiddleware(context: InlineContext): NonNullable<Middleware["provideInlineCompletionItems"]> {
	return async (document, position, request, token) => {
		const isAutomatic = request.triggerKind === vscode.InlineCompletionTriggerKind.Automatic;
		if (context.hasDraft(document)) {
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
		try {
			const client = await context.client();
			const params = client.code2ProtocolConverter.asInlineCompletionParams(document, position, request);
			const result = await client.sendRequest(InlineCompletionRequest.type, params, token);
			return await client.protocol2CodeConverter.asInlineCompletionResult(result, token) ?? [];
		} catch (error) {
			context.log.debug(`no completion: ${(error as Error).message}`);
			return [];
		}
	};
}
