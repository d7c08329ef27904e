// One request and its drafts: which messages it takes, and where its holes are by now.

import { advance, type Change, isBeforeOrAt, isSame, move, moved, type Position, type Range } from "./edit";
import { normalize, withoutHead } from "./diff";
import type { Outcome, Refinement, Span } from "./messages";

export interface Hole {
	/** What the draft would replace. */
	readonly range: Range;
	/** Lines separated by "\n". */
	readonly text: string;
	readonly settled: readonly Span[];
	readonly uncertain: readonly Span[];
	readonly done: boolean;
	/** Most lines of any draft so far: what is painted does not shrink meanwhile. */
	readonly tallest: number;
}

export type Kind = "infill" | "rewrite";

/** `ready` has its answer; nothing that arrives for one that is `over` is taken. */
export type State = "running" | "ready" | "over";

export class Session {
	readonly holes: Hole[];
	state: State = "running";
	outcome: Outcome | undefined;
	private seq = -1;

	/** `ranges` in the order they are sent in. */
	constructor(readonly id: string, readonly kind: Kind, ranges: readonly Range[]) {
		this.holes = ranges.map(range => ({
			range, text: "", settled: [], uncertain: [], done: false, tallest: 1,
		}));
	}

	/** Take a refinement. "stale" was dropped; "lost": the server writes elsewhere than we think. */
	refine(refinement: Refinement, version: number): "taken" | "stale" | "lost" {
		const hole = this.holes[refinement.hole];
		if (this.state !== "running" || refinement.requestId !== this.id || refinement.seq <= this.seq || !hole) {
			return "stale";
		}
		// A draft for an older version is still good: the edit since then touched no hole, or we were over.
		if (refinement.version === version && !isSame(refinement.range, hole.range)) {
			this.state = "over";
			return "lost";
		}
		this.seq = refinement.seq;
		const { text, settled, uncertain } = normalize(refinement.text, refinement.settled, refinement.uncertain);
		const lines = text.split("\n").length;
		this.holes[refinement.hole] = {
			range: hole.range,
			text, settled, uncertain,
			done: refinement.done,
			tallest: refinement.done ? lines : Math.max(hole.tallest, lines),
		};
		return "taken";
	}

	/** Take the answer. False if there is nothing to accept or nobody waits for it. */
	finish(outcome: Outcome): boolean {
		if (this.state !== "running" || outcome.requestId !== this.id) {
			return false;
		}
		this.outcome = outcome;
		this.state = outcome.edits.length > 0 && this.holes.every(hole => hole.done) ? "ready" : "over";
		return this.state === "ready";
	}

	/**
	 * Follow an edit of the document. False if it touched a hole: then all is over. `own` is the index
	 * of a hole whose text we change ourselves.
	 */
	follow(change: Change, own?: number): boolean {
		if (this.state === "over") {
			return false;
		}
		for (const [index, hole] of this.holes.entries()) {
			if (index === own) {
				continue;
			}
			const range = move(hole.range, change);
			if (!range) {
				this.state = "over";
				return false;
			}
			this.holes[index] = { ...hole, range };
		}
		return true;
	}

	/** The first part of a draft stands in the document now; the rest waits behind it. */
	takeHead(index: number, head: string): void {
		const hole = this.holes[index];
		if (!hole) {
			return;
		}
		const text = hole.text.slice(head.length);
		if (text === "") {
			this.holes.splice(index, 1);
			return;
		}
		const { start } = hole.range;
		const newEnd = advance(start, head);
		const end = moved(hole.range.end, { start, oldEnd: start, newEnd });
		this.holes[index] = {
			...hole,
			range: { start: newEnd, end },
			text,
			settled: withoutHead(hole.settled, head.length),
			uncertain: withoutHead(hole.uncertain, head.length),
			tallest: text.split("\n").length,
		};
	}

	/** End it: whatever arrives later is stale. */
	stop(): void {
		this.state = "over";
	}

	get isAlive(): boolean {
		return this.state !== "over";
	}

	/** Indices of the holes in the order of the document. */
	get inOrder(): number[] {
		return [...this.holes.keys()].sort((a, b) => {
			const one = this.holes[a]!.range.start, other = this.holes[b]!.range.start;
			return one.line - other.line || one.character - other.character;
		});
	}

	/** Index of the hole at a position, or of the first behind it, or of the first of all. */
	at(position: Position): number {
		const order = this.inOrder;
		return order.find(index => isBeforeOrAt(position, this.holes[index]!.range.end)) ?? order[0] ?? 0;
	}

	/** Index of the first hole that begins behind a position, or of the first of all. */
	behind(position: Position): number {
		const order = this.inOrder;
		return order.find(index => !isBeforeOrAt(this.holes[index]!.range.start, position)) ?? order[0] ?? 0;
	}
}
