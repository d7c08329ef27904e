// What a status reads like.

import type { Missed, Status } from "./messages";

export function percent(progress: number): string {
	return `${Math.round(100 * progress)}%`;
}

/** What a request waits for; undefined: nothing, it is being written. */
export function loadingText(status: Status): string | undefined {
	if (status.state !== "starting") {
		return undefined;
	}
	const what = status.message || "starting";
	return `${what[0]!.toUpperCase()}${what.slice(1)}…`;
}

const ICONS: Record<Status["state"], string> = {
	stopped: "circle-outline",
	starting: "loading~spin",
	ready: "check",
	busy: "sync~spin",
	error: "error",
};

/** For the status bar. */
export function shortText(status: Status): string {
	const details = {
		stopped: "",
		starting: status.progress === undefined ? "" : `${bar(status.progress)} ${percent(status.progress)}`,
		ready: status.tokensPerSecond === undefined ? "" : `${status.tokensPerSecond.toFixed(1)}/s`,
		busy: "writing",
		error: "error",
	}[status.state];
	const backend = status.backend && `$(cloud) ${status.backend}`;
	return [`$(${ICONS[status.state]})`, "blockdiff", backend, details].filter(Boolean).join(" ");
}

/** Name and value of everything that is known. */
export function details(status: Status): [name: string, value: string][] {
	const all: [string, string | undefined][] = [
		["State", status.state],
		["Model", status.model],
		["Device", status.backend ? undefined : status.device],
		["Code is sent to", status.backend],
		["Speed", status.tokensPerSecond === undefined ? undefined : `${status.tokensPerSecond.toFixed(1)} tokens/s`],
		["Progress", status.progress === undefined ? undefined : percent(status.progress)],
		["Message", status.message],
		["No completion", status.missed && missedText(status.missed)],
	];
	return all.filter((pair): pair is [string, string] => Boolean(pair[1]));
}

/** Why a completion did not come, where and when. */
function missedText({ message, uri, line, time }: Missed): string {
	const name = decodeURIComponent(uri.slice(uri.lastIndexOf("/") + 1));
	return `${message} (${name}:${line + 1}, ${new Date(1000 * time).toLocaleTimeString()})`;
}

function bar(progress: number): string {
	const full = Math.round(8 * progress);
	return "▰".repeat(full) + "▱".repeat(8 - full);
}
