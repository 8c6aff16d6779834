"""Routes and groups, with a real server, real applications and curl."""

from __future__ import annotations

import contextlib
import json
import re
import signal
from pathlib import Path

from tests.acceptance.harness import AcceptanceTestCase, Server, command, poll
from tests.acceptance.peers import TlsClient

APPLICATION = """
import json

def app(environ, start_response):
    body = environ["wsgi.input"].read().decode()
    told = {name: value for name, value in environ.items() if isinstance(value, str)}
    answer = json.dumps({**told, "body": body}).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
    return [answer]
"""

CONFIG = """
[server]
port = 0
interface = "127.0.0.1"
certs = "certs"
audit_log = "audit.jsonl"
access_log = "access.log"

[groups]
ops = ["alice"]

[[route]]
path = "/"
allow = ["*"]
wsgi = "application:app"

[[route]]
path = "/admin"
allow = ["group:ops"]
methods = ["GET"]
wsgi = "application:app"

[[route]]
path = "/files"
allow = ["*"]
static = "srv"
"""


#: Answers when twelve requests are there at once.
TOGETHER = """
import threading

barrier = threading.Barrier(12)


def app(environ, start_response):
    barrier.wait(20)
    start_response("200 OK", [("Content-Length", "0")])
    return []
"""
LARGE = """
made = closed = 0

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    if environ["PATH_INFO"] == "/made":
        return [b"%d %d" % (made, closed)]
    return Pieces()

class Pieces:
    def __iter__(self):
        global made
        for _ in range(8000):
            made += 1
            yield bytes(65536)

    def close(self):
        global closed
        closed += 1
"""


class RoutesTests(AcceptanceTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.alice = self.new_client("alice")
        self.bob = self.new_client("bob")
        (self.folder / "application.py").write_text(APPLICATION)
        (self.folder / "srv").mkdir()
        (self.folder / "srv" / "big").write_bytes(bytes(range(256)) * 8192)
        self.config = self.write(self.folder / "mtlsd.toml", CONFIG.encode())

    def start(self, config: Path | str = "mtlsd.toml") -> Server:
        arguments = self.arguments()
        return self.serve(arguments=[*arguments[: arguments.index("mtlsd") + 1], "--config", str(config)])

    def status(self, name: str, server: Server, path: str, *more: str) -> int:
        shown = self.curl_as(name, server, "--path-as-is", "-o", "body", "-w", "%{http_code}", *more, server.url(path))
        self.assertEqual(shown.returncode, 0, shown.stderr)
        return int(shown.stdout)

    def test_who_may_ask_for_what(self) -> None:
        """The whole way: certificate, client, group, route, application."""
        server = self.start()
        answer = self.curl(
            "-k",
            "--cert",
            "aliceCrt.pem",
            "--key",
            "aliceKey.pem",
            "-d",
            "abc",
            "-H",
            "X-Client-Name: root",
            server.url("/a%20b?q"),
        )
        told = json.loads(answer.stdout)
        self.assertEqual((told["HTTP_X_CLIENT_NAME"], told["REMOTE_USER"], told["body"]), ("alice", "alice", "abc"))
        self.assertEqual((told["PATH_INFO"], told["QUERY_STRING"], told["HTTP_X_CLIENT_GROUPS"]), ("/a b", "q", "ops"))
        self.assertEqual(told["SSL_CLIENT_CERT"].split(), self.alice.pem.decode().split())
        for name, path, status in (
            ("alice", "/admin/x", 200),
            ("bob", "/admin/x", 403),
            ("bob", "/adminx", 200),
            ("bob", "/%61dmin/x", 403),
            ("bob", "/x/../admin", 400),
            ("bob", "//admin", 400),
            ("bob", "/files/big", 200),
            ("bob", "/files", 302),
            ("bob", "/files/", 404),
            ("bob", "/files/..%2fmtlsd.toml", 400),
            ("bob", "/.mtlsd/hello", 200),
        ):
            self.assertEqual(self.status(name, server, path), status, (name, path))
        self.assertEqual(self.status("alice", server, "/admin", "-X", "DELETE"), 405)
        self.assertEqual(self.status("alice", server, "/files/big", "-X", "DELETE"), 405)
        self.assertEqual(self.status("bob", server, "/files/big", "-r", "256-511"), 206)
        self.assertTrue((self.folder / "body").read_bytes().endswith(b"\r\n\r\n" + bytes(range(256))))
        server.log.wait_for(r"bob was refused GET /admin/x: route\[1\] /admin allows group:ops")
        self.assertEqual(server.stop(), 0)
        self.assertIn('"GET /admin/x HTTP/1.1" 403', (self.folder / "access.log").read_text())
        self.assert_quiet(server)

    def test_files_that_end_their_connection(self) -> None:
        """Some client that asks for a file and the close, and the server would be deaf to whoever comes next."""
        sizes = {"none": 0, "small": 10, "big": 300_000}
        bodies = {name: bytes(range(256)) * (size // 256) + b"x" * (size % 256) for name, size in sizes.items()}
        for name, body in bodies.items():
            (self.folder / "srv" / name).write_bytes(body)
        server = self.start()
        requests = (
            "GET /files/{} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            "GET /files/{} HTTP/1.0\r\n\r\n",
        )
        for nth in range(200):
            name = tuple(bodies)[nth % 3]
            for request in requests:
                with TlsClient(server.port, self.bob) as client:
                    client.send(request.format(name).encode())
                    answer = client.response()
                    self.assertTrue((answer.status, answer.body) == (200, bodies[name]), (nth, request, answer.head))
                    client.wait_until_cut()
        # Whatever number a descriptor has, it is a newcomer's own: with many at once, each number there is comes up.
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(TlsClient(server.port, self.alice)) for _ in range(20)]
            for client in clients:
                client.handshake()
            for client in clients:
                for path in ("/files/big", "/admin", "/files/small"):
                    self.assertEqual(client.ask(path).status, 200)
        self.assertEqual(server.stop(), 0)
        errors = [line for line in server.log.lines if re.search("error|fail|unhandled|exception", line, re.IGNORECASE)]
        self.assertEqual(errors, [])
        self.assert_quiet(server)

    def test_a_change_bites_on_a_live_connection(self) -> None:
        """Nobody restarts a server, and nobody hangs up, to take a right away."""
        server = self.start()
        with TlsClient(server.port, self.alice) as client:
            self.assertEqual(client.ask("/admin").status, 200)
            self.config.write_text(CONFIG.replace('ops = ["alice"]', 'ops = ["bob"]'))
            server.log.wait_for("3 routes in force")
            self.assertEqual(client.ask("/admin").status, 403)
            self.assertEqual(self.status("bob", server, "/admin"), 200)
            self.authorize("alice", self.alice).with_suffix(".toml").write_text('groups = ["ops"]')
            poll("the group of the registry bites", lambda: client.ask("/admin").status == 200)
        self.assertEqual(server.stop(), 0)
        self.assert_quiet(server)

    def test_a_mistake_changes_nothing(self) -> None:
        """It is named with its place, at once where the operator has asked for the reload."""
        server = self.start()
        self.config.write_text(CONFIG.replace('"*"', '"group:op"'))
        server.signal(signal.SIGHUP)
        server.log.wait_for(
            r"mtlsd\.toml: route\[0\]\.allow\[0\]: unknown group op.*; route\[2\].*what was in force stays in force"
        )
        self.assertEqual(self.status("bob", server, "/x"), 200)
        self.assertEqual(self.status("bob", server, "/admin"), 403)
        self.assertEqual(server.stop(), 0)

    def test_a_wrong_file_at_the_start(self) -> None:
        """One line on standard error, every mistake in it, and nothing is served."""
        self.config.write_text(CONFIG.replace('allow = ["*"]', 'allow = "*"').replace('"srv"', '"nowhere"'))
        wrong = AssertionError
        text = str(self.assertRaises(wrong, self.start))
        self.assertIn("mtlsd.toml: route[0].allow: a list is wanted; route[2].allow: a list is wanted", text)
        self.config.write_text(CONFIG.replace('"srv"', '"nowhere"').replace("application:app", "applicatoin:app"))
        text = str(self.assertRaises(wrong, self.start))
        self.assertIn("route[0].wsgi: applicatoin:app: ModuleNotFoundError", text)
        self.assertIn("/nowhere is not a folder", text)

    def test_rewritten_all_the_time(self) -> None:
        """Half of the time with a mistake: no request is answered by half a configuration."""
        server = self.start()
        with TlsClient(server.port, self.bob) as client:
            for round_ in range(40):
                text = CONFIG if round_ % 2 else CONFIG.replace("[[route]]", "[[rout", 1)
                (self.config.write_text if round_ % 4 < 2 else lambda text: self.write(self.config, text.encode()))(text)
                server.signal(signal.SIGHUP)
                for _ in range(10):
                    self.assertEqual(client.ask("/x").status, 200)
                    self.assertEqual(client.ask("/admin").status, 403)
        self.assertEqual(server.stop(), 0)

    def test_the_command_says_the_same(self) -> None:
        """An answer of `mtlsd route` that the server does not keep is worse than none."""
        server = self.start()
        for client, path in (
            ("alice", "/admin/x"),
            ("bob", "/admin/x"),
            ("bob", "/x"),
            ("alice", "/a//b"),
            ("bob", "/.mtlsd/hello"),
        ):
            said = command("route", "--config", "mtlsd.toml", "--client", client, "GET", path, "--json", cwd=self.folder)
            answer = json.loads(said.stdout)
            self.assertEqual(self.status(client, server, path), answer["status"] or 200, (client, path))
            self.assertEqual(said.returncode, 0 if answer["allowed"] else 1)
        checked = command("check", "mtlsd.toml", cwd=self.folder)
        self.assertEqual((checked.returncode, checked.stdout), (0, "mtlsd.toml is right: 3 routes, 1 group\n"), checked.stderr)
        self.assertEqual(server.stop(), 0)


class ThreadsTests(AcceptanceTestCase):
    def test_as_many_as_are_set(self) -> None:
        """Who has many slow clients would have all applications wait for ten of them, whatever the file says."""
        alice = self.new_client("alice")
        (self.folder / "together.py").write_text(TOGETHER)
        text = '[server]\nthreads = 12\n[[route]]\npath = "/"\nallow = ["*"]\nwsgi = "together:app"\n'
        server = self.serve("--config", self.write(self.folder / "mtlsd.toml", text.encode()))
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(TlsClient(server.port, alice)) for _ in range(12)]
            for client in clients:
                client.handshake().send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            self.assertEqual([client.response().status for client in clients], [200] * 12)
        self.assertEqual(server.stop(), 0)


class SlowClientTests(AcceptanceTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.alice = self.new_client("alice")
        (self.folder / "large.py").write_text(LARGE)
        self.config = self.write(self.folder / "mtlsd.toml", b'[[route]]\npath = "/"\nallow = ["*"]\nwsgi = "large:app"\n')
        self.server = self.serve("--config", self.config, "--drain-timeout", "0.2")

    def counts(self) -> tuple[int, int]:
        """Return how many pieces the application has made, and how many of its answers were closed."""
        shown = self.curl("-k", "--cert", "aliceCrt.pem", "--key", "aliceKey.pem", self.server.url("/made"))
        made, closed = shown.stdout.split()
        return int(made), int(closed)

    def stalled(self) -> int:
        """Wait until the application makes nothing more; return how many pieces it has made."""

        def count() -> int:
            # Each look takes a whole connection, in which it would make some hundred.
            first, second, third = (self.counts()[0] for _ in range(3))
            return first if first == second == third else 0

        return poll("an application that waits", count)

    def resident(self) -> int:
        """Return the server's memory, in KiB."""
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.server.process.pid}/status").read_text())
        assert found is not None
        return int(found[1])

    def test_an_answer_that_nobody_takes(self) -> None:
        """Half a gigabyte would lie in the door's memory for each client that reads nothing; and others are served."""
        self.assertEqual(self.counts(), (0, 0))
        before = self.resident()
        with TlsClient(self.server.port, self.alice, small_window=True) as client:
            client.handshake().send(b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n")
            made = self.stalled()
            self.assertLess(made * 65536, 32 << 20)
            self.assertLess(self.resident() - before, 64 << 10)
            self.assertEqual(self.counts(), (made, 0))
            for _ in range(4 * made):
                client.receive()
            poll("it goes on", lambda: self.counts()[0] > made)
        poll("its thread is let go", lambda: self.counts()[1] == 1)
        self.assertEqual(self.server.stop(), 0)
        self.assert_quiet(self.server)

    def test_the_end_of_the_service(self) -> None:
        """A thread that waits for a client would keep a stopped service for ever."""
        with TlsClient(self.server.port, self.alice, small_window=True) as client:
            client.handshake().send(b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n")
            self.stalled()
            self.assertEqual(self.server.stop(), 0)
            self.assert_quiet(self.server)

    def test_the_end_of_the_service_in_full_flow(self) -> None:
        """A thread whose piece the reactor has not taken would wait for it, and the reactor for the thread: a stop would never end."""
        for _ in range(5):
            with TlsClient(self.server.port, self.alice) as client:
                client.handshake().send(b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n")
                for _ in range(50):
                    client.receive()
                self.server.signal(signal.SIGTERM)
                client.wait_until_cut()
            self.assertEqual(self.server.wait(), 0)
            self.server = self.serve("--config", self.config, "--drain-timeout", "0.2")
        self.assertEqual(self.server.stop(), 0)
