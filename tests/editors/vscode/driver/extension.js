// Lets a test run code in the extension host of a window: POST {code, args} -> {result} or {error}.
// Where it listens is written to $DRIVER_FOLDER, a file for each workspace folder.
'use strict';
const crypto = require('node:crypto');
const fs = require('node:fs');
const http = require('node:http');
const path = require('node:path');
const vscode = require('vscode');

const AsyncFunction = Object.getPrototypeOf(async () => {}).constructor;
const state = {}; // kept from call to call

async function run(body) {
  const { code, args } = JSON.parse(body);
  const result = await new AsyncFunction('vscode', 'state', 'args', code)(vscode, state, args);
  return { result: result === undefined ? null : result };
}

function handle(request, response) {
  let body = '';
  request.setEncoding('utf8');
  request.on('data', (part) => (body += part));
  request.on('end', async () => {
    const answer = await run(body).catch((error) => ({ error: String(error?.stack ?? error) }));
    response.end(JSON.stringify(answer));
  });
}

exports.activate = (context) => {
  const folder = vscode.workspace.workspaceFolders?.[0]?.uri.fsPath ?? '';
  const name = crypto.createHash('sha256').update(folder).digest('hex');
  const file = path.join(process.env.DRIVER_FOLDER, name);
  const server = http.createServer(handle);
  server.listen(0, '127.0.0.1', () => {
    fs.writeFileSync(`${file}.new`, String(server.address().port));
    fs.renameSync(`${file}.new`, file);
  });
  context.subscriptions.push({ dispose: () => server.close() });
};
