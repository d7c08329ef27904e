#!/usr/bin/env bash
# A server on asyncio answers 40 ms late if its listener was made without naming TCP.
#
# asyncio switches Nagle's algorithm off on every connection, except that it takes the number of the protocol
# for what tells TCP: `socket.socket(AF_INET, SOCK_STREAM)` has 0 there, which is TCP to the system, and what it
# accepts inherits the 0. A response of two writes (uvicorn: head and body) then waits in a kept connection for
# the delayed acknowledgement of the first, however fast the program. `socket.create_server` makes such a socket;
# `asyncio.start_server(host, port)` does not.
#
# Seen on 2026-11-28 with Python 3.11.7, 3.12.1 and 3.13.0 on Linux 6.18.
#
# Why it matters here: completions from a warm cache over loopback TCP took 44 ms more than over a Unix socket.
# `service/listen.py` names the protocol now.
set -euo pipefail
"${PYTHON:-python3}" - <<'PY'
import asyncio
import socket
import statistics
import sys
import time


async def answer(reader, writer):
    while await reader.read(64):
        writer.write(b"head")
        await asyncio.sleep(0)
        writer.write(b"body")


async def milliseconds(protocol: int) -> float:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol)
    listener.bind(("127.0.0.1", 0))
    server = await asyncio.start_server(answer, sock=listener)
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    times = []
    for _ in range(20):
        began = time.perf_counter()
        writer.write(b"ask")
        await reader.readexactly(8)
        times.append(1e3 * (time.perf_counter() - began))
    writer.close()
    await writer.wait_closed()
    server.close()
    await asyncio.sleep(0.1)
    return statistics.median(times)


unnamed = asyncio.run(milliseconds(0))
named = asyncio.run(milliseconds(socket.IPPROTO_TCP))
print(f"median of 20 answers: protocol 0 {unnamed:.1f} ms, IPPROTO_TCP {named:.1f} ms")
sys.exit(not unnamed > 4 * named)
PY
