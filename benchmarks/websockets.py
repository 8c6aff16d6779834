"""What an idle WebSocket takes of the door's memory: the client's connection and the one behind it.

.venv/bin/python benchmarks/websockets.py [--connections 1000]

The server behind the door is this script's own (``--upstream``), in a process of its own, and so are the clients: only the
door's memory is looked at.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import re
import resource
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import memory_kib
from scale import Server, make_folder

#: Clients that come and go before the first look, seconds before each look, and for all of them to come.
WARM, SETTLE, LIMIT = 100, 3.0, 120.0
#: How many come at once: a handshake has a deadline.
AT_ONCE = 50
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_ECHOED = b"\x81\x05hello"

CONFIG = """
[[route]]
path = "/"
allow = ["*"]
upstream = "http://127.0.0.1:{port}"
upgrade = true
"""


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one WebSocket handshake (RFC 6455 4.2.2), and each frame of 5 bytes with one."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        key = re.search(rb"(?i)\r\nsec-websocket-key: (\S+)\r\n", head)
        assert key is not None
        accept = base64.b64encode(hashlib.sha1(key[1] + _GUID).digest())
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %b\r\n\r\n"
            % accept
        )
        while await reader.readexactly(11):
            writer.write(_ECHOED)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def upstream() -> None:
    """Serve until this process is ended; the port is the first line of its output."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def opened(port: int, context: ssl.SSLContext) -> asyncio.StreamWriter:
    """Open a WebSocket and have one frame echoed; from then on it says nothing."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    writer.write(
        b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 101 ") or b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" not in head:
        raise SystemExit(f"no WebSocket: {head!r}")
    # A frame with a mask of zeros is its own text.
    writer.write(b"\x81\x85\0\0\0\0hello")
    if await reader.readexactly(len(_ECHOED)) != _ECHOED:
        raise SystemExit("the WebSocket does not echo")
    return writer


async def open_all(port: int, context: ssl.SSLContext, count: int) -> list[asyncio.StreamWriter]:
    found: list[asyncio.StreamWriter] = []
    while len(found) < count:
        some = min(AT_ONCE, count - len(found))
        found += await asyncio.gather(*(opened(port, context) for _ in range(some)))
    return found


async def measure(server: Server, context: ssl.SSLContext, count: int) -> tuple[int, int]:
    """Return the door's memory without and with *count* WebSockets, in KiB."""
    for writer in await open_all(server.port, context, WARM):
        writer.close()
    await asyncio.sleep(SETTLE)
    before = memory_kib(server.process.pid)
    writers = await asyncio.wait_for(open_all(server.port, context, count), LIMIT)
    await asyncio.sleep(SETTLE)
    after = memory_kib(server.process.pid)
    for writer in writers:
        writer.close()
    return before, after


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--upstream", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if arguments.upstream:
        asyncio.run(upstream())
        return 0
    folder = Path(tempfile.mkdtemp())
    behind = subprocess.Popen([sys.executable, __file__, "--upstream"], stdout=subprocess.PIPE, text=True)
    try:
        assert behind.stdout is not None
        (folder / "mtlsd.toml").write_text(CONFIG.format(port=int(behind.stdout.readline())))
        alice = make_folder(folder, 1)
        (folder / "alice.pem").write_bytes(alice.pem + alice.key)
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.load_cert_chain(folder / "alice.pem")
        server = Server(folder, "--config", folder / "mtlsd.toml")
        try:
            server.settle()
            began = time.monotonic()
            before, after = asyncio.run(measure(server, context, arguments.connections))
            print(
                f"{arguments.connections:,} idle WebSockets: {(after - before) / arguments.connections:.1f} KiB each"
                f" ({before / 1024:.1f} MiB before, {after / 1024:.1f} MiB after, {time.monotonic() - began:.0f} s)"
            )
        finally:
            server.stop()
    finally:
        behind.terminate()
        behind.wait(30)
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
