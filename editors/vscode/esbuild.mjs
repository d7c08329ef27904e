// Bundles the extension into one file: node esbuild.mjs [--production] [--watch]

import * as esbuild from "esbuild";

const isProduction = process.argv.includes("--production");

const context = await esbuild.context({
	entryPoints: ["src/extension.ts"],
	outfile: "dist/extension.js",
	bundle: true,
	platform: "node",
	format: "cjs",
	target: "node20",
	external: ["vscode"],
	minify: isProduction,
	sourcemap: !isProduction,
	legalComments: "none",
	logLevel: "info",
});

if (process.argv.includes("--watch")) {
	await context.watch();
} else {
	await context.rebuild();
	await context.dispose();
}
