#!/usr/bin/env bash
# A client made with pygls never hears the answer of a server that has chosen notebooks by their cells, as Ruff does.
#
# A server may say which notebooks it wants by the language of the cells alone; `notebook` may be left out beside
# `cells` in the protocol, and lsprotocol has a class for it, NotebookDocumentFilterWithCells. One expects that class to
# be read like any other. It cannot be: for its optional `notebook` the converter has no hook ("Unsupported
# type"), found out only when such a selector comes, and with it the whole answer to `initialize` is lost, whatever
# else it holds. Ruff sends one to every client, also to one that has said nothing of notebooks. pygls
# reports the message as unreadable and leaves the request open: nothing is raised where it is awaited. With `notebook`
# beside `cells` all is well.
#
# Guessed before: the client and `ruff server` get on. Seen on 2026-11-29 with lsprotocol 2025.0.0, cattrs 26.2.1, pygls
# 2.1.1 and ruff 0.17.5.
#
# Why it matters here: our server is tried out with such a client, and it would be at hand for a comparison with other
# servers side by side. A wait for an answer needs a limit of its own there, as an unreadable answer looks
# like a server that is slow.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check lsprotocol==2025.0.0 cattrs==26.2.1 pygls==2.1.1 \
  ruff==0.17.5
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PY'
import asyncio
import json
import subprocess
import sys

from lsprotocol import converters, types
from pygls.lsp.client import LanguageClient

RUFF = [f"{sys.prefix}/bin/ruff", "server"]
NOTHING = types.InitializeParams(capabilities=types.ClientCapabilities())


def selector_of_ruff():
    """As it stands in the answer to a client without any capabilities."""
    params = {"processId": None, "rootUri": None, "capabilities": {}}
    asked = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}).encode()
    with subprocess.Popen(RUFF, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        server.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(asked), asked))
        server.stdin.flush()
        length = 0
        while (line := server.stdout.readline()).strip():
            if line.lower().startswith(b"content-length"):
                length = int(line.split(b":")[1])
        answer = json.loads(server.stdout.read(length))
        server.kill()
    return answer["result"]["capabilities"]["notebookDocumentSync"]["notebookSelector"]


def is_read(selector):
    result = {"capabilities": {"hoverProvider": True, "notebookDocumentSync": {"notebookSelector": selector}}}
    try:
        converters.get_converter().structure(result, types.InitializeResult)
    except Exception:
        return False
    return True


async def greeted():
    """Whether the answer came, once the client has either got it or reported a message that it cannot read."""
    unreadable = asyncio.Event()

    class Client(LanguageClient):
        def report_server_error(self, error, source):
            unreadable.set()

    client = Client("client", "1")
    await client.start_io(*RUFF)
    answer = asyncio.ensure_future(client.initialize_async(NOTHING))
    report = asyncio.ensure_future(unreadable.wait())
    await asyncio.wait({answer, report}, timeout=60, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.sleep(1)
    seen = report.done(), answer.done()
    answer.cancel()
    client._server.kill()
    return seen


sent = selector_of_ruff()
named = [{"notebook": "*"} | one for one in sent]
reads = is_read(sent), is_read(named), is_read([{"notebook": "*"}])
print("ruff sends", sent, "which is read:", reads[0])
print("with a notebook named, and with nothing else:", reads[1:])
unreadable, answered = asyncio.run(greeted())
print(f"pygls and ruff: unreadable message reported {unreadable}, request answered {answered}")
sys.exit(not (reads == (False, True, True) and unreadable and not answered))
PY
