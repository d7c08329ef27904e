// What a user can set. The table is in package.json; the server's part of it is its own schema.

import * as vscode from "vscode";

export const SECTION = "blockdiff";

/** Sections that are the server's; all other settings are for this extension. */
export const SERVER_SECTIONS = ["engine", "decoding", "inline", "context", "drafts", "rewrite"] as const;

export interface Settings {
	/** Path of the Python that has blockdiff; empty: find one. */
	readonly interpreter: string;
	/** What pip installs into an environment that we make. */
	readonly package: string;
	/** Where the server starts, and completes while typing, by itself. */
	readonly languages: readonly string[];
	/** Seconds a server may take to answer when it starts. */
	readonly startTimeout: number;
	/** Milliseconds that a cursor rests before something is completed that nobody typed at; 0: never. */
	readonly idleTrigger: number;
	/** Open a diff when a rewrite of several lines is finished. */
	readonly openDiff: boolean;
}

export function settings(scope?: vscode.ConfigurationScope): Settings {
	const values = vscode.workspace.getConfiguration(SECTION, scope);
	return {
		interpreter: values.get("interpreter", ""),
		package: values.get("package", ""),
		languages: values.get<string[]>("languages", []),
		startTimeout: values.get("startTimeout", 15),
		idleTrigger: values.get("idleTrigger", 0),
		openDiff: values.get("preview.openDiff", true),
	};
}

/** What the server is told when it asks for its settings. */
export function serverSettings(): Record<string, unknown> {
	const values = vscode.workspace.getConfiguration(SECTION);
	return Object.fromEntries(SERVER_SECTIONS.map(section => [section, values.get(section)]));
}
