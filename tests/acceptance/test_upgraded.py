"""WebSockets and what else an Upgrade may be, for real: twistd, uvicorn, the `websockets` client, and raw sockets."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import ssl
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from tests.acceptance.backends import Program
from tests.acceptance.harness import DEADLINE, PROMISE, AcceptanceTestCase, Server, poll, short_folder
from tests.acceptance.peers import Cut, TlsClient

APPLICATION = """
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})
        return
    await receive()
    if scope["path"] == "/ws/refuse":
        await send({"type": "websocket.close"})
        return
    await send({"type": "websocket.accept"})
    name = dict(scope["headers"]).get(b"x-client-name", b"").decode()
    await send({"type": "websocket.send", "text": name + " " + scope["path"]})
    while True:
        event = await receive()
        if event["type"] == "websocket.disconnect":
            print("closed with", event.get("code"), flush=True)
            return
        if event.get("text") == "end":
            await send({"type": "websocket.close", "code": 4001, "reason": "as you wish"})
            return
        await send({**event, "type": "websocket.send"})
"""
CONFIG = """
[groups]
chat = ["bob"]
[[route]]
path = "/"
allow = ["*"]
upstream = "{upstream}"
[[route]]
path = "/ws"
allow = ["group:chat"]
upstream = "{upstream}"
upgrade = true
"""
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n"


class WebSocket:
    """A client of the `websockets` package.

    In a loop of its own: its blocking client reads and writes one TLS connection in two threads, and Python before 3.13
    then loses a write now and then.
    """

    def __init__(self, url: str, **options: Any) -> None:
        self._runner = asyncio.Runner()
        try:
            self._connection: ClientConnection = self._run(connect(url, **options).__aenter__())
        except BaseException:
            self._runner.close()
            raise

    def send(self, data: str | bytes) -> None:
        self._run(self._connection.send(data))

    def recv(self, within: float = DEADLINE) -> str | bytes:
        received: str | bytes = self._run(self._connection.recv(), within)
        return received

    def ping(self, data: bytes) -> None:
        """Send a ping, and wait for its pong."""

        async def pinged() -> None:
            await (await self._connection.ping(data))

        self._run(pinged())

    def close(self, code: int = 1000, reason: str = "") -> None:
        self._run(self._connection.close(code, reason))

    def end(self) -> None:
        """Let go of it, whatever state it is in."""
        self._connection.transport.abort()
        self._runner.close()

    def _run(self, what: Coroutine[Any, Any, Any], within: float = DEADLINE) -> Any:
        return self._runner.run(asyncio.wait_for(what, within))


class UpgradedTestCase(AcceptanceTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.alice, self.bob = self.new_client("alice"), self.new_client("bob")
        self.in_group("chat")

    def in_group(self, *groups: str) -> None:
        """Put alice in these groups, and in no other."""
        listed = ", ".join(f'"{group}"' for group in groups)
        self.write(self.certs / "authorized" / "alice.toml", f"groups = [{listed}]\n".encode())

    def configure(self, text: str) -> None:
        self.write(self.folder / "mtlsd.toml", text.encode())

    def start(self, text: str, *more: str) -> Server:
        self.configure(text)
        # Clients of these tests look at what the door does, and do not hang up in return.
        return self.serve("--config", "mtlsd.toml", "--access-log", "access.log", "--close-timeout", "0.5", *more)


class WebSocketTests(UpgradedTestCase):
    """An application that knows nothing of certificates, and clients that know nothing of a door."""

    def start_application(self, *where: str) -> str:
        """Start uvicorn, and return where it says that it listens."""
        self.write(self.folder / "application.py", APPLICATION.encode())
        program = Program(self, [sys.executable, "-m", "uvicorn", "application:app", "--lifespan", "off", *where])
        # It would wait for the connections that a test has left open.
        self.addCleanup(program.process.kill)
        self.process, self.application = program.process, program.said
        return self.application.wait_for(r"running on (?:unix socket )?(\S+)")[1]

    def start_both(self, *more: str) -> Server:
        self.upstream = self.start_application("--port", "0")
        return self.start(CONFIG.format(upstream=self.upstream), *more)

    def open(self, server: Server, name: str = "alice", path: str = "/ws/x", **options: Any) -> WebSocket:
        context = ssl.create_default_context(cafile=self.certs / "serverCrt.pem")
        context.load_cert_chain(self.folder / f"{name}Crt.pem", self.folder / f"{name}Key.pem")
        opened = WebSocket(f"wss://localhost:{server.port}{path}", ssl=context, max_size=None, proxy=None, **options)
        self.addCleanup(opened.end)
        self.assertEqual(opened.recv(), f"{name} {path}")
        return opened

    def assert_cut(self, opened: WebSocket) -> None:
        """Without a close frame, within what is promised and what a busy machine adds."""
        self.assertRaises(ConnectionClosedError, opened.recv, 2 * PROMISE)

    def assert_open(self, opened: WebSocket) -> None:
        opened.send("still there")
        self.assertEqual(opened.recv(), "still there")

    def test_echo(self) -> None:
        """Every byte, of text and binary, packed or not, over TCP and over a unix socket; pings, and who closes with what."""
        server = self.start_both()
        sizes = (0, 1, 125, 126, 65_535, 65_536, 100_003, 1 << 20)
        for upstream in (self.upstream, None):
            if upstream is None:
                path = short_folder(self) / "app.sock"
                self.start_application("--uds", str(path))
                self.configure(CONFIG.format(upstream=f"http+unix:{path}"))
                server.signal(signal.SIGHUP)
                server.log.wait_for("2 routes in force")
            for compression in ("deflate", None):
                opened = self.open(server, compression=compression)
                for size in sizes:
                    data = os.urandom(size)
                    for sent in (data, data.hex()[:size]):
                        opened.send(sent)
                        self.assertEqual(opened.recv(), sent)
                opened.ping(b"are you there")
                opened.close(4002, "enough")
                self.application.wait_for("closed with 4002")
            opened = self.open(server)
            opened.send("end")
            closed = self.assertRaises(ConnectionClosedError, opened.recv)
            self.assertEqual((closed.rcvd.code, closed.rcvd.reason), (4001, "as you wish"))
        self.assertEqual(server.stop(), 0)
        self.assertEqual((self.folder / "access.log").read_text().count('"GET /ws/x HTTP/1.1" 101 '), 6)
        self.assert_quiet(server)

    def test_refused(self) -> None:
        """By the application, by the rules, and where no route says that it may."""
        server = self.start_both()
        for path, status, body in (("/ws/refuse", 403, b""), ("/x", 200, b"ok")):
            refused = self.assertRaises(InvalidStatus, self.open, server, "alice", path).response
            self.assertEqual((refused.status_code, refused.body), (status, body))
        self.in_group()

        def refusal() -> bytes | bytearray | None:
            try:
                self.open(server).close()
            except InvalidStatus as refused:
                return refused.response.body
            return None

        poll("alice is refused", lambda: b"not allowed: alice may not ask for this\n" in (refusal() or b""))
        self.assertEqual(server.stop(), 0)
        self.assert_quiet(server)

    def test_revoked(self) -> None:
        """Revoked means out, also for who has asked for nothing for hours."""
        server = self.start_both()
        alice, bob = self.open(server), self.open(server, "bob")
        (self.certs / "authorized" / "alice.pem").unlink()
        self.assert_cut(alice)
        server.wait_for_events(1, "revoked")
        self.application.wait_for("closed with 1006|closed with 1005")
        self.assert_open(bob)
        bob.close()
        self.assertEqual(server.stop(), 0)
        self.assert_quiet(server)

    def test_another_route(self) -> None:
        """A rule that is in force for whoever comes, and not for whoever is there, is no rule."""
        server = self.start_both()
        alice, bob = self.open(server), self.open(server, "bob")
        self.configure(CONFIG.format(upstream=self.upstream).replace('"group:chat"', '"bob"'))
        server.signal(signal.SIGHUP)
        self.assert_cut(alice)
        server.log.wait_for(r"alice GET /ws/x: http://127\S+: cut, it is no longer allowed: route\[1\] /ws allows bob")
        self.assert_open(bob)
        self.configure(CONFIG.format(upstream=self.upstream).replace("upgrade = true", ""))
        server.log.wait_for(r"bob GET /ws/x: \S+: cut, it is no longer allowed: route\[1\] /ws has no upgrade = true")
        self.assert_cut(bob)
        self.assertEqual(server.stop(), 0)
        self.assert_quiet(server)

    def test_another_group(self) -> None:
        """The operator takes a client out of a group, in a file beside its certificate."""
        server = self.start_both()
        alice, bob = self.open(server), self.open(server, "bob")
        self.in_group("chat", "more")
        self.in_group("more")
        server.log.wait_for(r"alice GET /ws/x: \S+: cut, it is no longer allowed: route\[1\] /ws allows group:chat")
        self.assert_cut(alice)
        self.assert_open(bob)
        self.assertEqual(server.stop(), 0)
        self.assert_quiet(server)

    def test_shutdown(self) -> None:
        """A service that waits for WebSockets to end never stops."""
        server = self.start_both("--drain-timeout", "600")
        opened = self.open(server)
        self.assertEqual(server.stop(), 0)
        self.assertRaises(ConnectionClosedError, opened.recv)
        self.assertIn('"GET /ws/x HTTP/1.1" 101 ', (self.folder / "access.log").read_text())
        self.assert_quiet(server)

    def test_a_dead_application(self) -> None:
        """Its clients hear of it."""
        server = self.start_both()
        opened = self.open(server)
        self.process.kill()
        self.assertRaises(ConnectionClosedError, opened.recv)
        self.assertEqual(server.stop(), 0)
        self.assert_quiet(server)


class RawTests(UpgradedTestCase):
    """Byte by byte: what reaches a backend, and when."""

    def setUp(self) -> None:
        super().setUp()
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(self.listening.close)
        self.listening.settimeout(DEADLINE)
        self.port = self.listening.getsockname()[1]

    def start_door(self) -> Server:
        return self.start(CONFIG.format(upstream=f"http://127.0.0.1:{self.port}"))

    def client(self, server: Server) -> TlsClient:
        client = TlsClient(server.port, self.alice).handshake()
        self.addCleanup(client.close)
        return client

    def accepted(self, listening: socket.socket | None = None) -> socket.socket:
        """Return the door's next connection to the backend."""
        found = (listening or self.listening).accept()[0]
        found.settimeout(DEADLINE)
        self.addCleanup(found.close)
        return found

    def head(self, backend: socket.socket) -> bytes:
        """Return what has come up to the end of the first head, and all that came with it."""
        data = b""
        while b"\r\n\r\n" not in data:
            piece = backend.recv(65_536)
            self.assertTrue(piece, data)
            data += piece
        return data

    def exactly(self, backend: socket.socket, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = backend.recv(size - len(data))
            self.assertTrue(piece, data)
            data += piece
        return data

    def received(self, client: TlsClient, ending: bytes) -> bytes:
        data = b""
        while not data.endswith(ending):
            data += client.receive()
        return data

    def ask(self, client: TlsClient, behind: bytes = b"", *, path: str = "/ws", upgrade: str = "raw") -> None:
        client.send(
            f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\n"
            f"Upgrade: {upgrade}\r\nHTTP2-Settings: AAMAAABkAAQ\r\n\r\n".encode()
            + behind
        )

    def upgraded(self, server: Server, listening: socket.socket | None = None) -> tuple[TlsClient, socket.socket]:
        client = self.client(server)
        self.ask(client)
        backend = self.accepted(listening)
        self.head(backend)
        backend.sendall(SWITCHED)
        self.received(client, b"\r\n\r\n")
        return client, backend

    def test_nothing_before_the_101(self) -> None:
        """Early bytes are a request to a backend that does not upgrade."""
        server = self.start_door()
        client = self.client(server)
        early = b"GET /admin HTTP/1.1\r\nHost: x\r\n\r\n"
        self.ask(client, early)
        client.send(b"and more")
        backend = self.accepted()
        head = self.head(backend)
        self.assertTrue(head.endswith(b"Connection: Upgrade\r\nUpgrade: raw\r\n\r\n"), head)
        self.assertEqual(select.select([backend], [], [], 0.3)[0], [])
        backend.sendall(SWITCHED + b"first")
        answer = self.received(client, b"first")
        self.assertTrue(answer.startswith(b"HTTP/1.1 101 Switching Protocols\r\n"), answer)
        self.assertEqual(self.exactly(backend, len(early) + 8), early + b"and more")
        client.send(b"x")
        self.assertEqual(backend.recv(100), b"x")
        backend.close()
        client.wait_until_cut()
        self.assertEqual(server.stop(), 0)
        self.assertIn('"GET /ws HTTP/1.1" 101 5 ', (self.folder / "access.log").read_text())
        self.assert_quiet(server)

    def test_another_answer(self) -> None:
        """What was sent behind an upgrade that is refused reaches nobody: not the backend, and no rule takes it for a request."""
        server = self.start_door()
        client = self.client(server)
        self.ask(client, b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n")
        backend = self.accepted()
        self.assertEqual(self.head(backend).count(b"HTTP/1.1"), 1)
        backend.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno")
        answer = client.response()
        self.assertIn(b"Connection: close", answer.head)
        client.wait_until_cut()
        # Its connection is kept, and the next thing that comes on it is the next client's request.
        other = self.client(server)
        other.send(b"GET /next HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertTrue(self.head(backend).startswith(b"GET /next HTTP/1.1\r\n"))
        backend.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        self.assertEqual(other.response().body, b"ok")
        self.assertEqual(server.stop(), 0)
        self.assertNotIn("smuggled", (self.folder / "access.log").read_text())
        self.assert_quiet(server)

    def test_h2c(self) -> None:
        """A backend that speaks HTTP/2 would answer whatever a client asks it in there."""
        server = self.start_door()
        for upgrade in ("h2c", "raw, h2c", "HTTP/2.0"):
            client = self.client(server)
            self.ask(client, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", upgrade=upgrade)
            backend = self.accepted()
            head = self.head(backend).lower()
            self.assertFalse([word for word in (b"upgrade", b"h2c", b"http2", b"pri *") if word in head], head)
            backend.sendall(SWITCHED.replace(b"raw", b"h2c"))
            self.assertEqual(client.response().status, 502)
            client.wait_until_cut()
            # Nobody reads on, so nobody takes the end of this for the beginning of anything.
            self.assertRaises(ConnectionResetError, backend.recv, 100)
        self.assertEqual(server.stop(), 0)
        self.assert_quiet(server)

    def test_unasked(self) -> None:
        """A backend that switches by itself takes the connection of a client that goes on in HTTP."""
        server = self.start_door()
        for path in ("/", "/ws"):
            client = self.client(server)
            client.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            backend = self.accepted()
            self.head(backend)
            backend.sendall(SWITCHED)
            self.assertEqual(client.response().status, 502)
        server.log.wait_for("it switches protocols, and nobody has asked for that")
        self.assertEqual(server.stop(), 0)
        self.assert_quiet(server)

    def test_half_closed(self) -> None:
        """`docker exec -i` and its like: the input ends, and the output is still to come."""
        path = short_folder(self) / "raw.sock"
        unix = socket.socket(socket.AF_UNIX)
        self.addCleanup(unix.close)
        unix.bind(str(path))
        unix.listen()
        unix.settimeout(DEADLINE)
        server = self.start_door()
        for listening in (self.listening, unix):
            if listening is unix:
                self.configure(CONFIG.format(upstream=f"http+unix:{path}"))
                server.signal(signal.SIGHUP)
                server.log.wait_for("2 routes in force")
            client, backend = self.upgraded(server, listening)
            client.send(b"input")
            client.tls.shutdown()
            client._flush()
            self.assertEqual(self.exactly(backend, 5), b"input")
            self.assertEqual(backend.recv(1), b"")
            backend.sendall(b"output")
            backend.close()
            self.assertEqual(self.received(client, b"output"), b"output")
            self.assertRaises(Cut, client.receive)
            client, backend = self.upgraded(server, listening)
            backend.sendall(b"output")
            backend.shutdown(socket.SHUT_WR)
            self.assertEqual(self.received(client, b"output"), b"output")
            self.assertRaises(Cut, client.receive)
            client.send(b"input")
            self.assertEqual(self.exactly(backend, 5), b"input")
            client.close()
            self.assertEqual(backend.recv(1), b"")
        self.assertEqual(server.stop(), 0)
        self.assert_quiet(server)

    def test_slow(self) -> None:
        """Whoever takes nothing, nothing is kept for, either way; and every byte arrives when it does take."""
        server = self.start_door()
        client, backend = self.upgraded(server)
        piece, count = os.urandom(1 << 14), 2560
        backend.settimeout(0.5)
        sent = 0
        with self.assertRaises(TimeoutError):
            while sent < count * len(piece):
                sent += backend.send(piece[sent % len(piece) :])
        self.assertLess(sent, 32 << 20)
        got = b""
        while len(got) < sent:
            got += client.receive()
        self.assertEqual(got, (piece * count)[:sent])
        client.socket.settimeout(0.5)
        sent = 0
        with self.assertRaises(TimeoutError):
            while sent < count * len(piece):
                client.send(piece)
                sent += len(piece)
        self.assertLess(sent, 32 << 20)
        backend.settimeout(DEADLINE)
        self.assertEqual(self.exactly(backend, sent), (piece * count)[:sent])
        self.assertEqual(server.stop(), 0)
        self.assert_quiet(server)

    def test_probes(self) -> None:
        """A peer that is gone without a word is found by the kernel, which has to be told to look for it (and when)."""
        server = self.start_door()
        client, _ = self.upgraded(server)
        # By both ports where both are known: another connection on this machine may have one of them.
        for own, remote in ((server.port, client.own_port), (None, self.port)):
            # Until the last bytes are acknowledged, it is the timer for sending them again.
            due = poll(f"probes to port {remote}", lambda own=own, remote=remote: probes_to(remote, own))  # type: ignore[misc]
            assert due is not None
            self.assertLessEqual(due, 60)
        self.assertEqual(server.stop(), 0)


def probes_to(port: int, own: int | None) -> float | None:
    """Return the seconds to the next probe on the connection (from *own*) to a port of loopback; ``None``: there is none."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    for _, local, remote, state, _, timer, *_ in lines:
        if state == "01" and remote.endswith(f":{port:04X}") and (own is None or local.endswith(f":{own:04X}")):
            kind, due = timer.split(":")
            return int(due, 16) / os.sysconf("SC_CLK_TCK") if kind == "02" else None
    # The kernel hands that list out piece by piece: while others come and go, a line may be missing.
    return None
