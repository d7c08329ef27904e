// The messages of our own, as `docs/lsp.md` and `tests/contract/` have them.

import type { Range } from "./edit";

export const INFILL = "blockdiff/infill";
export const REWRITE = "blockdiff/rewrite";
export const REFINEMENT = "blockdiff/refinement";
export const STATUS = "blockdiff/status";

/** Which notifications we take, as `capabilities.experimental.blockdiff` of `initialize`. */
export const UNDERSTOOD = { refinement: true, status: true } as const;

export const MOST_HOLES = 8;

/** Half-open, in UTF-16 units of the text of a draft. */
export type Span = readonly [start: number, end: number];

export interface DocumentId {
	readonly uri: string;
	readonly version: number;
}

export interface InfillParams {
	readonly textDocument: DocumentId;
	readonly holes: readonly Range[];
	readonly requestId: string;
}

export interface RewriteParams {
	readonly textDocument: DocumentId;
	readonly range: Range;
	/** Empty: what the model finds unlikely is written anew. */
	readonly instruction: string;
	readonly requestId: string;
}

/** `ranges` may be an editor's, which become something else in JSON. */
export function infillParams(textDocument: DocumentId, requestId: string, ranges: readonly Range[]): InfillParams {
	return { textDocument, holes: ranges.map(plain), requestId };
}

export function rewriteParams(
	textDocument: DocumentId, requestId: string, range: Range, instruction: string,
): RewriteParams {
	return { textDocument, range: plain(range), instruction, requestId };
}

function plain({ start, end }: Range): Range {
	return {
		start: { line: start.line, character: start.character },
		end: { line: end.line, character: end.character },
	};
}

export interface Refinement {
	readonly requestId: string;
	readonly seq: number;
	readonly version?: number;
	readonly hole: number;
	readonly range: Range;
	readonly text: string;
	readonly settled: readonly Span[];
	readonly uncertain: readonly Span[];
	readonly step: number;
	readonly done: boolean;
}

export interface Outcome {
	readonly requestId: string;
	readonly version?: number;
	readonly edits: readonly { readonly range: Range; readonly newText: string }[];
	readonly finish: "eom" | "length";
	readonly syntax: "ok" | "broken" | "skipped";
	readonly tokens: number;
	readonly forwards: number;
	readonly elapsedMs: number;
	readonly model: string;
}

export interface Status {
	readonly state: "stopped" | "starting" | "ready" | "busy" | "error";
	readonly model: string;
	readonly device: string;
	/** The server of others that code is sent to; empty: our own engine writes. */
	readonly backend: string;
	readonly message: string;
	/** Of starting, 0 to 1. */
	readonly progress?: number;
	/** Of the last request. */
	readonly tokensPerSecond?: number;
	/** The last automatic completion that did not come, or was dropped. */
	readonly missed?: Missed;
}

export interface Missed {
	readonly kind: "off" | "excluded" | "ignored" | "modelAbsent" | "inWord" | "inComment" | "inString" | "tooLarge"
		| "replaced" | "failed" | "empty" | "repeats" | "tooLate";
	/** In seconds since 1970. */
	readonly time: number;
	readonly uri: string;
	/** 0-based. */
	readonly line: number;
	/** What `kind` means, and what to do. */
	readonly message: string;
}

/** Errors of the protocol, https://microsoft.github.io/language-server-protocol */
export const ErrorCode = {
	methodNotFound: -32601,
	/** Of the client itself: the connection ended, `vscode-jsonrpc` has -32099 to -32096. */
	connectionEnded: -32096,
	requestCancelled: -32800,
	contentModified: -32801,
	serverCancelled: -32802,
} as const;

/** What an error of the protocol means to somebody who waits; undefined: there is nothing to say. */
export function explain(error: { code?: number; message: string }): string | undefined {
	if (error.code !== undefined && error.code <= ErrorCode.connectionEnded && error.code >= ErrorCode.connectionEnded - 3) {
		return "the language server ended: ask again, it is started anew";
	}
	switch (error.code) {
		case ErrorCode.requestCancelled:
		case ErrorCode.contentModified:
		case ErrorCode.serverCancelled:
			return undefined;
		case ErrorCode.methodNotFound:
			return OLD_SERVER;
		default:
			return error.message;
	}
}

export const OLD_SERVER =
	"the language server is older than this extension: run `pip install --upgrade blockdiff` in its environment";
