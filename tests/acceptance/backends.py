"""Servers behind the door: one that keeps every byte, one that does as it is told, and three that people use."""

from __future__ import annotations

import json
import shutil
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.acceptance.harness import DEADLINE, AcceptanceTestCase, Output, environment, poll, reserve_port

#: One connection to a :class:`ScriptedServer`: the socket, and how many came before it.
Script = Callable[[socket.socket, int], object]


class ScriptedServer(socketserver.ThreadingTCPServer):
    """Has *script* deal with each connection, which is closed when that returns."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, script: Script, port: int = 0) -> None:
        self.script = script
        self.count = 0
        self._counting = threading.Lock()
        super().__init__(("127.0.0.1", port), _Handler)
        self.port: int = self.server_address[1]
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def number(self) -> int:
        with self._counting:
            self.count += 1
            return self.count - 1

    def shutdown_request(self, request: Any) -> None:
        # A script that has reset its connection has closed it.
        self.close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that the door has cut is no error here."""

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join(DEADLINE)


class _Handler(socketserver.BaseRequestHandler):
    server: ScriptedServer

    def handle(self) -> None:
        self.request.settimeout(DEADLINE)
        self.server.script(self.request, self.server.number())


@dataclass
class Seen:
    """A request as a backend saw it.  ``headers`` by name in lower case, with underscores, as WSGI merges them.

    The trailers are among them too, as some servers have it; ``trailers`` are those alone, by name in lower case.
    """

    line: str
    headers: Mapping[str, list[str]]
    body: bytes = b""
    trailers: Mapping[str, list[str]] = field(default_factory=dict)


@dataclass
class Reader:
    """Reads requests from a connection as a strict server does, and keeps every byte."""

    connection: socket.socket | None
    raw: bytearray = field(default_factory=bytearray)
    at: int = 0

    def until(self, mark: bytes) -> bytes:
        """Return what comes up to *mark* and with it; empty at the end."""
        while (found := self.raw.find(mark, self.at)) < 0:
            if not self._more():
                return b""
        return self._take(found + len(mark))

    def exactly(self, size: int) -> bytes:
        while len(self.raw) - self.at < size:
            if not self._more():
                return b""
        return self._take(self.at + size)

    def request(self) -> Seen | None:
        """Return the next request, ``None`` at the end of the connection."""
        head = self.until(b"\r\n\r\n")
        if not head:
            return None
        line, *rest = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        headers: dict[str, list[str]] = {}
        trailers: dict[str, list[str]] = {}
        for header in rest:
            name, _, value = header.partition(": ")
            headers.setdefault(merged(name), []).append(value)
        body = b""
        if "transfer_encoding" in headers:
            while size := int(self.until(b"\r\n"), 16):
                body += self.exactly(size)
                self.exactly(2)
            while trailer := self.until(b"\r\n").decode("latin-1").removesuffix("\r\n"):
                name, _, value = trailer.partition(": ")
                headers.setdefault(merged(name), []).append(value)
                trailers.setdefault(name.lower(), []).append(value)
        elif "content_length" in headers:
            body = self.exactly(int(headers["content_length"][0]))
        return Seen(line, headers, body, trailers)

    def _take(self, to: int) -> bytes:
        taken = bytes(self.raw[self.at : to])
        self.at = to
        return taken

    def _more(self) -> bool:
        try:
            data = b"" if self.connection is None else self.connection.recv(1 << 16)
        except OSError:
            return False
        self.raw += data
        return bool(data)


class Recorder:
    """Keeps the bytes of each connection, and answers each request with its first line."""

    name = "recorder"

    def __init__(self) -> None:
        self.connections: list[bytearray] = []
        self.requests: list[Seen] = []
        self.server = ScriptedServer(self._serve)
        self.port = self.server.port

    def seen(self) -> list[Seen]:
        return list(self.requests)

    def _serve(self, connection: socket.socket, number: int) -> None:
        reader = Reader(connection)
        self.connections.append(reader.raw)
        while (request := reader.request()) is not None:
            self.requests.append(request)
            connection.sendall(answer(request.line.encode("latin-1"), is_head=request.line.startswith("HEAD ")))


def answer(body: bytes, *headers: bytes, status: bytes = b"200 OK", is_head: bool = False) -> bytes:
    """Return a whole answer."""
    lines = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *headers, b"", b""]
    return b"\r\n".join(lines) + (b"" if is_head else body)


def merged(name: str) -> str:
    """Return the one form of a header's name that WSGI and CGI have for all its spellings."""
    return "".join(character if character.isalnum() else "_" for character in name.lower())


#: What waitress and uvicorn serve: each request is a line of a file, and its answer.
APPLICATIONS = """
import json

def keep(kind, line, pairs, body):
    with open(f"{kind}.jsonl", "a") as file:
        file.write(json.dumps([line, pairs, body.decode("latin-1")]) + "\\n")

def wsgi(environ, start_response):
    line = f"{environ['REQUEST_METHOD']} {environ['REQUEST_URI']} {environ['SERVER_PROTOCOL']}"
    names = [name for name in environ if name.startswith("HTTP_") or name in ("CONTENT_LENGTH", "REMOTE_USER")]
    body = environ["wsgi.input"].read()
    keep("waitress", line, [(name.removeprefix("HTTP_"), environ[name]) for name in names], body)
    start_response("200 OK", [("Content-Length", str(len(line)))])
    return [line.encode()]

async def asgi(scope, receive, send):
    target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
    line = f"{scope['method']} {target.decode()} HTTP/{scope['http_version']}"
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return  # Half a request is none.
        body, more = body + message.get("body", b""), message.get("more_body", False)
    keep("uvicorn", line, [(name.decode(), value.decode()) for name, value in scope["headers"]], body)
    headers = [(b"content-length", str(len(line)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": line.encode()})
"""

NGINX = """
daemon off;
worker_processes 1;
error_log stderr info;
pid nginx.pid;
events {{ worker_connections 256; }}
http {{
    log_format seen escape=json '["$request", [{names}["content_length", "$http_content_length"]], ""]';
    access_log nginx.jsonl seen;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    underscores_in_headers on;
    server {{
        listen 127.0.0.1:{port};
        keepalive_requests 100000;
        location / {{ return 200 "$request_method $request_uri"; }}
    }}
}}
"""
#: What nginx is asked to write down.
_NGINX_NAMES = ("client_cert", "x_client_name", "x_client_groups", "x_forwarded_for", "x_real_ip", "remote_user", "forwarded")


class Program:
    """A program of other people's in *test*'s folder: what it says is kept, and it is ended when the test is over."""

    def __init__(self, test: AcceptanceTestCase, arguments: Sequence[str], **environ: str) -> None:
        self.process = subprocess.Popen(
            arguments,
            cwd=test.folder,
            env=environment(**environ),
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.said = Output(self.process.stdout)
        test.addCleanup(self.stop)

    def stop(self) -> None:
        """End it, as an operator does: a master that is killed, as nginx's, leaves its workers behind."""
        self.process.terminate()
        try:
            self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(DEADLINE)
            raise
        finally:
            self.said.finish()


class Backend(Program):
    """A server of other people's; what it sees is in a file."""

    def __init__(self, test: AcceptanceTestCase, name: str, arguments: list[str], says: str, port: int | None = None) -> None:
        super().__init__(test, arguments)
        self.name = name
        self._file = test.folder / f"{name}.jsonl"
        found = self.said.wait_for(says)
        self.port = port or int(found[1])

    def seen(self) -> list[Seen]:
        lines = self._file.read_bytes().split(b"\n")[:-1] if self._file.exists() else []
        return [_seen(*json.loads(line)) for line in lines]


def _seen(line: str, pairs: list[tuple[str, str]], body: str) -> Seen:
    headers: dict[str, list[str]] = {}
    for name, value in pairs:
        if value:
            headers.setdefault(merged(name), []).append(value)
    return Seen(line, headers, body.encode("latin-1"))


def waitress(test: AcceptanceTestCase) -> Backend:
    """Start a WSGI server, which merges the spellings of a header."""
    (test.folder / "applications.py").write_text(APPLICATIONS)
    line = [sys.executable, "-m", "waitress", "--listen=127.0.0.1:0", "--no-clear-untrusted-proxy-headers", "applications:wsgi"]
    return Backend(test, "waitress", line, r"Serving on http://\S+:(\d+)")


def uvicorn(test: AcceptanceTestCase) -> Backend:
    """Start an ASGI server."""
    (test.folder / "applications.py").write_text(APPLICATIONS)
    line = [
        sys.executable,
        "-m",
        "uvicorn",
        "--port=0",
        "--http=h11",
        "--lifespan=off",
        "--no-proxy-headers",
        "applications:asgi",
    ]
    return Backend(test, "uvicorn", line, r"running on http://\S+:(\d+)")


def nginx(test: AcceptanceTestCase) -> Backend:
    """Start nginx."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if program is None:
        raise AssertionError("nginx is missing; to put it right: apt-get install nginx-light")
    port = reserve_port(test)
    names = "".join(f'["{name}", "$http_{name}"], ' for name in _NGINX_NAMES)
    (test.folder / "nginx.conf").write_text(NGINX.format(port=port, names=names))
    arguments = [program, "-e", "stderr", "-p", str(test.folder), "-c", "nginx.conf"]
    return Backend(test, "nginx", arguments, "start worker process", port)


def settled(backend: Recorder | Backend, count: int) -> list[Seen]:
    """Return what a backend has seen, once there are *count* requests; some write them down after the answer."""
    poll(f"{backend.name} has seen {count} requests", lambda: len(backend.seen()) >= count, DEADLINE)
    return backend.seen()
