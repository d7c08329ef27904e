// Ghost text. VS Code asks while somebody types, and on command; the server does the rest.

import * as vscode from "vscode";
import { InlineCompletionRequest, type LanguageClient } from "vscode-languageclient/node";
import type { Missed } from "./messages";
import { SECTION, settings } from "./settings";

const REST_MILLISECONDS = 100;

/** What this needs of the rest, which is made after it. */
export interface InlineContext {
	client(): Promise<LanguageClient>;
	/** The client if it runs or is on its way: nobody starts a server by typing. */
	clientIfStarted(): Promise<LanguageClient> | undefined;
	hasDraft(document: vscode.TextDocument): boolean;
	noteMissed(missed: Missed): void;
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
export class Inline implements vscode.InlineCompletionItemProvider, vscode.Disposable {
	private answered: Place | undefined;
	private asked: Place | undefined;
	/** Where we have VS Code ask because the cursor rests there. */
	private rested: Place | undefined;
	private timer: NodeJS.Timeout | undefined;

	constructor(private readonly context: InlineContext) {}

	readonly provideInlineCompletionItems: Provide = async (document, position, request, token) => {
		const here = { document, version: document.version, position };
		const triggerKind = isSame(this.rested, here) ? vscode.InlineCompletionTriggerKind.Automatic : request.triggerKind;
		const isAutomatic = triggerKind === vscode.InlineCompletionTriggerKind.Automatic;
		this.rested = undefined;
		if (this.context.hasDraft(document)) {
			return [];
		}
		this.asked = here;
		if (isAutomatic) {
			if (!settings(document).languages.includes(document.languageId)) {
				this.context.noteMissed(excluded(here));
				return [];
			}
			await new Promise(resolve => setTimeout(resolve, REST_MILLISECONDS));
		}
		if (token.isCancellationRequested) {
			return [];
		}
		try {
			const client = await (isAutomatic ? this.context.clientIfStarted() : this.context.client());
			if (!client) {
				return [];
			}
			const params = client.code2ProtocolConverter.asInlineCompletionParams(document, position, { ...request, triggerKind });
			const result = await client.sendRequest(InlineCompletionRequest.type, params, token);
			const found = await client.protocol2CodeConverter.asInlineCompletionResult(result, token) ?? [];
			const count = Array.isArray(found) ? found.length : found.items.length;
			this.answered = count > 0 ? here : undefined;
			return found;
		} catch (error) {
			this.context.log.debug(`no completion: ${(error as Error).message}`);
			return [];
		}
	};

	/** Show a completion at the cursor, or another one where one was found already. */
	async next(editor: vscode.TextEditor): Promise<void> {
		const isFound = isSame(this.answered, placeOf(editor));
		await vscode.commands.executeCommand(`editor.action.inlineSuggest.${isFound ? "showNext" : "trigger"}`);
	}

	/** Complete one line from now on where it was several, and the reverse; what is shown is replaced. */
	async toggleMultiline(): Promise<void> {
		const values = vscode.workspace.getConfiguration(`${SECTION}.inline`);
		const isWorkspace = values.inspect("multiline")?.workspaceValue !== undefined;
		const target = isWorkspace ? vscode.ConfigurationTarget.Workspace : vscode.ConfigurationTarget.Global;
		await vscode.commands.executeCommand("editor.action.inlineSuggest.hide");
		await values.update("multiline", !values.get("multiline", true), target);
		await vscode.commands.executeCommand("editor.action.inlineSuggest.trigger");
	}

	/** The cursor moved: where it rests, something is completed though nobody types, if that is set. */
	rest({ textEditor, selections }: vscode.TextEditorSelectionChangeEvent): void {
		clearTimeout(this.timer);
		const pause = settings(textEditor.document).idleTrigger;
		if (pause <= 0 || selections.length !== 1 || !selections[0]!.isEmpty) {
			return;
		}
		const place = placeOf(textEditor);
		this.timer = setTimeout(() => {
			const isActive = vscode.window.activeTextEditor === textEditor && isSame(place, placeOf(textEditor));
			if (isActive && !isSame(this.asked, place)) {
				this.rested = place;
				void vscode.commands.executeCommand("editor.action.inlineSuggest.trigger");
			}
		}, pause);
	}

	dispose(): void {
		clearTimeout(this.timer);
	}
}

interface Place {
	readonly document: vscode.TextDocument;
	readonly version: number;
	readonly position: vscode.Position;
}

function placeOf({ document, selection }: vscode.TextEditor): Place {
	return { document, version: document.version, position: selection.active };
}

function isSame(one: Place | undefined, other: Place): boolean {
	return one?.document === other.document && one.version === other.version && one.position.isEqual(other.position);
}

function excluded({ document, position }: Place): Missed {
	return {
		kind: "excluded",
		time: Math.floor(Date.now() / 1000),
		uri: document.uri.toString(),
		line: position.line,
		message: `nothing is completed by itself in this language: add ${document.languageId} to blockdiff.languages`,
	};
}
