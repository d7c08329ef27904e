"""What a page in a real browser can do to the endpoints for clients of other servers: nothing."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from blockdiff.client.endpoint import Runtime
from tests.editors.vscode.vscode import chromium
from tests.unit.compat_world import WRITING, compat

# Everything by which a page sends something, each with what it could read of the answer.
TRICKS = """
async ([url, paths, body]) => {
  const read = []
  const told = async (name, asked) => {
    try { const answer = await asked; if (answer.type !== 'opaque')
      read.push(`${name}: ${answer.status} ${await answer.text()}`) }
    catch (error) { /* what the browser says of a request that it does not let through */ }
  }
  const made = (tag, values) => Object.assign(document.createElement(tag), values)
  const add = (tag, values) => document.body.append(made(tag, values))
  for (const path of paths) {
    const at = url + path
    for (const mode of ['cors', 'no-cors'])
      for (const type of ['application/json', 'text/plain'])
        await told(`${mode} ${type} ${path}`,
          fetch(at, { method: 'POST', mode, body, headers: { 'Content-Type': type } }))
    await told(`get ${path}`, fetch(at))
    const blob = new Blob([body], { type: 'application/json' })
    await told(`blob ${path}`, fetch(at, { method: 'POST', mode: 'no-cors', body: blob }))
    navigator.sendBeacon(at, new Blob([body], { type: 'text/plain' }))
    add('iframe', { name: path })
    add('form', { action: at, method: 'POST', enctype: 'text/plain', target: path })
    const field = { name: body.slice(0, -1) + ',"x":"', value: '"}' }  // the form's body is JSON
    document.forms[document.forms.length - 1].append(made('input', field))
    document.forms[document.forms.length - 1].submit()
    add('img', { src: at })
    add('script', { src: at })
  }
  await new Promise(rested => setTimeout(rested, 1000))
  for (const frame of document.querySelectorAll('iframe'))
    if (frame.contentDocument?.body?.textContent)
      read.push(`frame: ${frame.contentDocument.body.textContent}`)
  return read
}
"""


class Empty(http.server.BaseHTTPRequestHandler):
    """A page without anything."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><body></body>")

    def log_message(self, *arguments: Any) -> None:
        """Nothing."""


@contextmanager
def page() -> Iterator[Page]:
    """A page of another origin, on this machine."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Empty)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with chromium() as browser:
        opened = browser.new_page()
        opened.goto(f"http://localhost:{server.server_port}/")
        yield opened
    server.shutdown()


@pytest.mark.parametrize("token", [True, False], ids=["token", "no token"])
def test_a_page_writes_nothing_and_reads_nothing(
    thread: ThreadPoolExecutor, tmp_path: Path, token: bool
) -> None:
    def story() -> None:
        with compat(Runtime(tmp_path / "run"), compat_token=token) as world, page() as opened:
            paths = ["/infill", "/v1/completions", "/api/generate", "/props", "/health"]
            body = '{"prompt":"a","suffix":"b","input_prefix":"c"}'
            assert opened.evaluate(TRICKS, [world.url, paths, body]) == []
            assert not world.engine.requests and not world.engine.warmed
            with world.http() as client:  # others are still answered
                assert client.post("/infill", json=WRITING["/infill"]).status_code == 200

    thread.submit(story).result()
