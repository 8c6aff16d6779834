"""The pages for the other Python servers: ``app`` (ASGI), ``rsgi``, and aiohttp when it is run as a program.

They are told nothing of the client's certificate by the first two, so all greet with a fixed text, which is in their favour.
``BENCH_FILES`` is the folder that is served under ``/files``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

HELLO = b"Hello: client\n"
FILES = Path(os.environ["BENCH_FILES"])
PART = 1 << 16

Message = dict[str, Any]


async def app(scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]) -> None:
    """Answer as an ASGI application does."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] == "/hello":
        await _begin(send, len(HELLO))
        await send({"type": "http.response.body", "body": HELLO})
        return
    path = FILES / Path(scope["path"]).name
    left = path.stat().st_size
    await _begin(send, left)
    with path.open("rb", buffering=0) as file:
        while left:
            part = file.read(PART)
            left -= len(part)
            await send({"type": "http.response.body", "body": part, "more_body": left > 0})


async def _begin(send: Callable[[Message], Awaitable[None]], length: int) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % length)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def rsgi(scope: Any, protocol: Any) -> None:
    """Answer as an RSGI application does, which is granian's own and quicker interface."""
    if scope.path == "/hello":
        protocol.response_bytes(200, [("content-type", "text/plain"), ("content-length", str(len(HELLO)))], HELLO)
        return
    path = FILES / Path(scope.path).name
    headers = [("content-type", "text/plain"), ("content-length", str(path.stat().st_size))]
    protocol.response_file(200, headers, str(path))


def run_aiohttp() -> None:
    import logging
    import ssl

    import uvloop
    from aiohttp import web

    given = json.loads(sys.argv[1])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(given["cert"], given["key"])
    context.load_verify_locations(given["client"])
    context.verify_mode = ssl.CERT_REQUIRED

    async def hello(_: web.Request) -> web.Response:
        return web.Response(body=HELLO, content_type="text/plain")

    pages = web.Application()
    pages.add_routes([web.get("/hello", hello), web.static("/files", FILES)])
    log = None
    if given["access_log"]:
        log = logging.getLogger("access")
        log.setLevel(logging.INFO)
        log.addHandler(logging.FileHandler(given["access_log"]))
    uvloop.install()
    web.run_app(pages, host="127.0.0.1", port=given["port"], ssl_context=context, access_log=log, print=None, backlog=1024)


if __name__ == "__main__":
    run_aiohttp()
