"""A server behind the door, for real: sockets, a backend of its own, curl, and bodies that no memory holds."""

from __future__ import annotations

import hashlib
import json
import os
import select
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

from twisted.trial.unittest import SynchronousTestCase

from mtlsd.proxy.backend import watch
from tests.acceptance.harness import AcceptanceTestCase, Server, poll, reserve_port, short_folder
from tests.acceptance.peers import TlsClient

PIECE = b"0123456789abcdef" * 4096


class Backend(BaseHTTPRequestHandler):
    """Answers with what it was asked; keeps count of it."""

    protocol_version = "HTTP/1.1"
    server: Any

    def answer(self) -> None:
        self.server.seen.append(self.path)
        digest, size = hashlib.sha256(), 0
        for piece in self.pieces():
            digest.update(piece)
            size += len(piece)
        if self.path.startswith("/big/"):
            self.send_response(200)
            self.send_header("Content-Length", str(int(self.path[5:]) * len(PIECE)))
            self.end_headers()
            for _ in range(int(self.path[5:])):
                self.wfile.write(PIECE)
                self.server.sent += len(PIECE)
            return
        told = {"line": self.requestline, "headers": self.headers.items(), "size": size, "sha256": digest.hexdigest()}
        body = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def pieces(self) -> Any:
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length", 0))
        while left:
            piece = self.rfile.read(min(left, 1 << 16))
            left -= len(piece)
            yield piece

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


class TcpBackend(Backend):
    """Sends at once: it writes head and body one by one, and each body would wait 40 ms for an acknowledgement of its head."""

    disable_nagle_algorithm = True


class TcpServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that the door has cut is no error here."""


class UnixServer(TcpServer):
    address_family = socket.AF_UNIX

    def server_bind(self) -> None:
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = "localhost", 80

    def get_request(self) -> Any:
        return self.socket.accept()[0], ("unix", 0)


class ProxyTests(AcceptanceTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.alice = self.new_client("alice")
        self.backend = self.start_backend(TcpServer(("127.0.0.1", 0), TcpBackend))
        self.other = self.start_backend(UnixServer(cast(Any, str(short_folder(self) / "app.sock")), Backend))
        self.nobody = reserve_port(self)

    def start_backend(self, server: Any) -> Any:
        server.seen, server.sent = [], 0
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        self.addCleanup(server.server_close)
        self.addCleanup(thread.join)
        self.addCleanup(server.shutdown)
        return server

    def start(self) -> Server:
        tcp = f"http://127.0.0.1:{self.backend.server_port}"
        self.write(
            self.folder / "mtlsd.toml",
            f"""
[[route]]
path = "/"
allow = ["*"]
upstream = "{tcp}"
[[route]]
path = "/unix"
allow = ["alice"]
strip_prefix = true
upstream = ["http+unix:{self.other.server_address}", "http://127.0.0.1:{self.nobody}"]
[[route]]
path = "/nobody"
allow = ["*"]
upstream = "http://127.0.0.1:{self.nobody}"
[[route]]
path = "/private"
allow = ["carol"]
upstream = "{tcp}"
""".encode(),
        )
        return self.serve("--config", "mtlsd.toml", "--access-log", "access.log")

    def get(self, server: Server, path: str, *more: str) -> Any:
        shown = self.curl("-k", "--path-as-is", "--cert", "aliceCrt.pem", "--key", "aliceKey.pem", *more, server.url(path))
        self.assertEqual(shown.returncode, 0, shown.stderr)
        return json.loads(shown.stdout)

    def test_curl(self) -> None:
        """The whole way and back, over TCP and over a unix socket, with one of two servers down."""
        server = self.start()
        told = self.get(server, "/a%20b?q", "-H", "X_Client_Name: root", "-d", "abc")
        headers = dict(told["headers"])
        self.assertEqual((told["line"], told["size"]), ("POST /a%20b?q HTTP/1.1", 3))
        self.assertEqual((headers["X-Client-Name"], headers["X-Forwarded-For"]), ("alice", "127.0.0.1"))
        self.assertNotIn("X_Client_Name", headers)
        for _ in range(4):
            self.assertEqual(self.get(server, "/unix/x")["line"], "GET /x HTTP/1.1")
        for path, status in (("/private", "403"), ("/nobody", "503"), ("/x/../private", "400"), ("/x", "200")):
            shown = self.curl_as("alice", server, "--path-as-is", "-I", "-o", "/dev/null", "-w", "%{http_code}", server.url(path))
            self.assertEqual(shown.stdout, status, path)
        self.assertEqual(self.backend.seen, ["/a%20b?q", "/x"])
        self.assertEqual(server.stop(), 0)
        self.assertIn('"HEAD /nobody HTTP/1.1" 503', (self.folder / "access.log").read_text())
        self.assert_quiet(server)

    def test_large_bodies(self) -> None:
        """Up, with a length and in chunks, and down: every byte arrives."""
        server = self.start()
        data = self.folder / "data"
        data.write_bytes(os.urandom(1 << 16) * 512)
        digest = hashlib.sha256(data.read_bytes()).hexdigest()
        for more in ((), ("-H", "Transfer-Encoding: chunked")):
            told = self.get(server, "/up", "-T", str(data), *more)
            self.assertEqual((told["size"], told["sha256"]), (32 << 20, digest))
        shown = self.curl_as("alice", server, "-o", "got", server.url("/big/512"))
        self.assertEqual(shown.returncode, 0, shown.stderr)
        self.assertTrue((self.folder / "got").read_bytes().endswith(PIECE * 512))
        self.assertEqual(server.stop(), 0)
        self.assert_quiet(server)

    def test_a_client_that_reads_nothing(self) -> None:
        """A gigabyte for a client that does not take it is not held in memory, and revoking that client ends it."""
        server = self.start()
        with TlsClient(server.port, self.alice, small_window=True) as client:
            client.handshake()
            client.send(b"GET /big/16384 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            client.receive()
            sent = [-1, 0]

            def stands_still() -> bool:
                sent.append(self.backend.sent)
                threading.Event().wait(0.3)
                return sent[-1] > 0 and sent[-1] == self.backend.sent

            poll("the backend is held up", stands_still)
            self.assertLess(self.backend.sent, 16 << 20)
            (self.certs / "authorized" / "alice.pem").unlink()
            server.wait_for_events(1, "revoked")
        self.assertEqual(server.stop(), 0)
        self.assert_quiet(server)

    def test_kept_connections(self) -> None:
        """A thousand requests of one client are a handful of connections, and every answer is its own request's."""
        server = self.start()
        with TlsClient(server.port, self.alice) as client:
            for number in range(1000):
                answer = client.ask(f"/{number}")
                self.assertEqual(json.loads(answer.body)["line"], f"GET /{number} HTTP/1.1")
        self.assertEqual(len(self.backend.seen), 1000)
        self.assertEqual(server.stop(), 0)
        self.assert_quiet(server)


class WatchTests(SynchronousTestCase):
    """Whether something has come on a connection that waits for a request, as the kernel knows it."""

    def ends(self) -> list[tuple[socket.socket, socket.socket]]:
        """Return connections, each as (the backend's end, ours): over TCP and over a unix socket."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            theirs = socket.create_connection(listening.getsockname())
            ours, _ = listening.accept()
        pairs = [(theirs, ours), socket.socketpair()]
        for pair in pairs:
            for end in pair:
                self.addCleanup(end.close)
        return pairs

    def comes(self, end: socket.socket) -> None:
        self.assertEqual(select.select([end], [], [], 10)[0], [end])

    def test_bytes(self) -> None:
        """An answer to nobody would be the next client's; and to look for it must not take a byte of what is somebody's."""
        for theirs, ours in self.ends():
            news = watch(ours)
            self.assertFalse(news() or news())
            theirs.send(b"ab")
            self.comes(ours)
            self.assertTrue(news() and news())
            self.assertEqual(ours.recv(1), b"a")
            self.assertTrue(news())
            self.assertEqual(ours.recv(9), b"b")
            self.assertFalse(news())
            # That there is room for what we send is no news.
            ours.send(b"x")
            self.assertFalse(news())

    def test_the_end(self) -> None:
        """A request would go out on a connection that has ended, and a POST be lost: in good order, half of it, or by a reset."""
        for how in ("close", "half", "reset"):
            for theirs, ours in self.ends():
                news = watch(ours)
                if how == "half":
                    theirs.shutdown(socket.SHUT_WR)
                else:
                    if how == "reset":
                        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    theirs.close()
                self.comes(ours)
                self.assertTrue(news(), how)
