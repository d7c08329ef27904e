// The status bar item, and a progress bar for somebody who waits for a model to load.

import * as vscode from "vscode";
import { details, loadingText, percent, shortText } from "./describe";
import type { Drafts } from "./drafts";
import type { Status } from "./messages";
import type { Server } from "./server";

const LINKS = ["selectModel", "restartEngine", "showOutput"] as const;
const TITLES: Record<typeof LINKS[number], string> = {
	selectModel: "Select Model", restartEngine: "Restart Engine", showOutput: "Show Output",
};

export class StatusBar implements vscode.Disposable {
	private readonly item = vscode.window.createStatusBarItem("blockdiff.status", vscode.StatusBarAlignment.Right, 100);
	private readonly disposables: vscode.Disposable[];
	private isProgressShown = false;

	constructor(private readonly server: Server, private readonly drafts: Drafts) {
		this.item.name = "BlockDiff";
		this.item.command = "blockdiff.showOutput";
		this.disposables = [this.item, server.onDidChangeStatus(status => this.show(status))];
		this.show(server.status);
		this.item.show();
	}

	dispose(): void {
		this.disposables.forEach(disposable => disposable.dispose());
	}

	private show(status: Status): void {
		this.item.text = shortText(status);
		this.item.accessibilityInformation = { label: `BlockDiff ${status.state} ${status.message}` };
		this.item.backgroundColor = status.state === "error"
			? new vscode.ThemeColor("statusBarItem.errorBackground")
			: undefined;
		const tooltip = new vscode.MarkdownString("**BlockDiff**\n\n", true);
		tooltip.isTrusted = { enabledCommands: LINKS.map(name => `blockdiff.${name}`) };
		for (const [name, value] of details(status)) {
			tooltip.appendMarkdown(`${name}: `).appendText(value).appendMarkdown("  \n");
		}
		tooltip.appendMarkdown(`\n${LINKS.map(name => `[${TITLES[name]}](command:blockdiff.${name})`).join(" · ")}`);
		this.item.tooltip = tooltip;
		if (status.state === "starting" && status.progress !== undefined && this.drafts.isAnyRunning && !this.isProgressShown) {
			void this.showProgress();
		}
	}

	/** Only while somebody waits: an automatic completion loads a model without a word. */
	private async showProgress(): Promise<void> {
		this.isProgressShown = true;
		const options = { location: vscode.ProgressLocation.Notification, title: "BlockDiff", cancellable: true };
		await vscode.window.withProgress(options, (progress, token) => new Promise<void>(resolve => {
			let shown = 0;
			const update = (status: Status) => {
				const share = 100 * (status.progress ?? 0);
				progress.report({ message: `${loadingText(status) ?? ""} ${percent(status.progress ?? 0)}`, increment: share - shown });
				shown = share;
				if (status.state !== "starting" || !this.drafts.isAnyRunning) {
					subscriptions.forEach(subscription => subscription.dispose());
					resolve();
				}
			};
			const subscriptions = [
				this.server.onDidChangeStatus(update),
				this.drafts.onDidChange(() => update(this.server.status)),
				token.onCancellationRequested(() => this.drafts.stop()),
			];
			update(this.server.status);
		}));
		this.isProgressShown = false;
	}
}
