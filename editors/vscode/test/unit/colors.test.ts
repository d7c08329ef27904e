// Drafts can be read in every theme: contrast as WCAG 2.1 defines it, on the editor's own background.

import { expect, test } from "vitest";
import manifest from "../../package.json";

type Theme = "dark" | "light" | "highContrast" | "highContrastLight";

const EDITOR: Record<Theme, string> = {
	dark: "#1f1f1f", light: "#ffffff", highContrast: "#000000", highContrastLight: "#ffffff",
};
const TEXTS = ["settledForeground", "maskedForeground", "uncertainForeground"];
const BACKGROUNDS = ["draftBackground", "coveredBackground"];

const defaults = new Map(manifest.contributes.colors.map(color => [color.id, color.defaults]));

function color(name: string, theme: Theme): string {
	return defaults.get(`blockdiff.${name}`)![theme];
}

/** Channels of #rrggbb or #rrggbbaa on what is behind it. */
function over(value: string, behind: number[]): number[] {
	const [red = 0, green = 0, blue = 0, alpha = 255] = value.match(/[0-9a-f]{2}/gi)!.map(part => Number.parseInt(part, 16));
	return [red, green, blue].map((channel, i) => (channel * alpha + behind[i]! * (255 - alpha)) / 255);
}

function luminance(channels: number[]): number {
	const [red, green, blue] = channels.map(channel => {
		const share = channel / 255;
		return share <= 0.03928 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
	});
	return 0.2126 * red! + 0.7152 * green! + 0.0722 * blue!;
}

function contrast(one: number[], other: number[]): number {
	const [high, low] = [luminance(one), luminance(other)].sort((a, b) => b - a);
	return (high! + 0.05) / (low! + 0.05);
}

test.each(Object.keys(EDITOR) as Theme[])("%s", theme => {
	for (const name of BACKGROUNDS) {
		const background = over(color(name, theme), over(EDITOR[theme], [0, 0, 0]));
		for (const text of TEXTS) {
			expect(contrast(over(color(text, theme), background), background), `${text} on ${name}`).toBeGreaterThan(4.5);
		}
	}
});
