// What goes wrong: one line in the output channel that says what to do, and for somebody who asked
// for something, a notification with a button.

import * as vscode from "vscode";

export type Remedy = "createEnvironment" | "openSettings" | "selectModel" | "showOutput";

/** Something that the user can mend. */
export class Problem extends Error {
	constructor(message: string, readonly remedies: readonly Remedy[] = ["showOutput"]) {
		super(message);
	}
}

const BUTTONS: Record<Remedy, { title: string; command: string }> = {
	createEnvironment: { title: "Create Environment", command: "blockdiff.createEnvironment" },
	openSettings: { title: "Open Settings", command: "blockdiff.openSettings" },
	selectModel: { title: "Select Model", command: "blockdiff.selectModel" },
	showOutput: { title: "Show Output", command: "blockdiff.showOutput" },
};

/** Answer somebody who asked for something. Nobody waits for the answer to that. */
export function notify(message: string, remedies: readonly Remedy[] = []): void {
	const buttons = remedies.map(remedy => BUTTONS[remedy]);
	void vscode.window.showWarningMessage(
		`BlockDiff: ${message}`, ...buttons.map(button => button.title),
	).then(chosen => {
		const button = buttons.find(({ title }) => title === chosen);
		return button && vscode.commands.executeCommand(button.command);
	});
}
