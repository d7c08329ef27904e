"""`blockdiff-lsp`: the language server on standard input and output, or on a port for debugging.

An editor starts it in the folder of the open project. `python -m lsp_server` would look for
`lsp_server` itself there first: editors are to start `blockdiff-lsp`, or Python in another folder.
"""

# ruff: noqa: E402
from blockdiff.system import search_path

search_path.leave_project()  # before anything is looked for there

import argparse
import json
import logging
import sys
from typing import BinaryIO, cast

import blockdiff
from lsp_server.greeting import greet

_LEVELS = ("error", "warning", "info", "debug")


def main(arguments: list[str] | None = None) -> int:
    """Run the server until the editor ends it; the exit status."""
    options = _options(arguments)
    if options.schema:
        from lsp_server.settings import schema

        print(json.dumps(schema(), indent=2))
        return 0
    _start_log(options.log_level, options.log_file)
    replay = None if options.tcp else greet(sys.stdin.buffer, sys.stdout.buffer)
    from lsp_server.handlers import create

    server = create()
    if replay is None:
        host, _, port = options.tcp.rpartition(":")
        try:
            server.start_tcp(host or "127.0.0.1", int(port))
        except OSError as error:
            print(f"error: cannot listen on {options.tcp}: {error.strerror}", file=sys.stderr)
            print("hint: choose another port", file=sys.stderr)
            return 2
        return server.protocol.exit_status
    server.protocol.answered = replay.answered
    server.start_io(cast(BinaryIO, replay))
    return server.protocol.exit_status


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="blockdiff-lsp",
        description="Language server of blockdiff: fills in and rewrites code with a local model.",
        epilog="An editor starts it. docs/lsp.md has the configuration for Neovim, Helix, Emacs "
        "and Zed, and every message.",
    )
    parser.add_argument("--stdio", action="store_true", help="talk over stdin and stdout (default)")
    parser.add_argument(
        "--tcp", metavar="HOST:PORT", help="wait for one editor on a port, for debugging"
    )
    parser.add_argument(
        "--log-level", choices=_LEVELS, default="warning",
        help="what goes to the log; source text only ever at debug (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--log-file", metavar="PATH", help="log there instead of to stderr")
    parser.add_argument("--schema", action="store_true", help="print the settings as JSON Schema")
    parser.add_argument("--version", action="version", version=f"blockdiff {blockdiff.__version__}")
    options = parser.parse_args(arguments)
    if options.tcp and not options.tcp.rpartition(":")[2].isdecimal():
        parser.error(f"--tcp needs HOST:PORT or PORT, not {options.tcp!r}")
    return options


def _start_log(level: str, path: str | None) -> None:
    handler = logging.FileHandler(path, encoding="utf-8") if path else logging.StreamHandler()
    logging.basicConfig(
        level=level.upper(),
        handlers=[handler],
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    if level != "debug":
        for name in ("pygls", "asyncio", "httpx", "httpcore"):  # they quote messages
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)


if __name__ == "__main__":
    sys.exit(main())
