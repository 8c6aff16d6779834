"""Kept connections, and several servers behind one route: what becomes of requests when these come and go."""

from __future__ import annotations

import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable

from tests.acceptance.backends import Reader, ScriptedServer, answer
from tests.acceptance.harness import DEADLINE, AcceptanceTestCase, Server, poll, reserve_port
from tests.acceptance.peers import Cut, Response, TlsClient

EVIL = answer(b"evil")
ROUTE = """
[[route]]
path = "/"
allow = ["*"]
upstream = [{upstreams}]
"""
PRIVATE = """
[[route]]
path = "/private"
allow = ["carol"]
static = "."
"""


class Counting:
    """Answers each request with its path, and counts them.  *after* is what it does then; ``False``: close."""

    def __init__(self, after: Callable[[socket.socket], object] | None = None, port: int = 0) -> None:
        self.seen: Counter[str] = Counter()
        self._after = after
        self._open: set[socket.socket] = set()
        self.server = ScriptedServer(self._serve, port)
        self.port = self.server.port

    def _serve(self, connection: socket.socket, number: int) -> None:
        self._open.add(connection)
        reader = Reader(connection)
        while (request := reader.request()) is not None:
            method, path, _ = request.line.split(" ")
            self.seen[f"{method} {path}"] += 1
            connection.sendall(answer(path.encode(), is_head=method == "HEAD"))
            if self._after is not None and self._after(connection) is False:
                return

    def kill(self) -> None:
        """End as a process does that is killed: every connection with it, in the middle of what it does."""
        self.server.stop()
        for connection in list(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


class UpstreamsTestCase(AcceptanceTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.alice = self.new_client("alice")

    def start(self, *backends: Counting, more: str = "") -> Server:
        for backend in backends:
            self.addCleanup(backend.server.stop)
        upstreams = ", ".join(f'"http://127.0.0.1:{backend.port}"' for backend in backends)
        self.write(self.folder / "mtlsd.toml", (ROUTE.format(upstreams=upstreams) + PRIVATE + more).encode())
        return self.serve("--config", "mtlsd.toml")

    def ask(self, client: TlsClient, method: str, path: str) -> Response:
        client.send(f"{method} {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc".encode())
        return client.response()


class PoolTests(UpstreamsTestCase):
    ROUNDS = 200

    def test_what_nobody_has_asked_for(self) -> None:
        """An answer that lies in wait on a kept connection would be given to the next request, and its answer to the one after."""
        lies_there = threading.Event()

        def after(connection: socket.socket) -> None:
            connection.sendall(EVIL)
            lies_there.set()

        backend = Counting(after)
        server = self.start(backend)
        with TlsClient(server.port, self.alice) as client:
            for number in range(self.ROUNDS):
                self.assertEqual(client.ask(f"/{number}").body, b"/%d" % number)
                self.assertTrue(lies_there.wait(DEADLINE))
                lies_there.clear()
        self.assertEqual(server.stop(), 0)
        self.assert_quiet(server)

    def test_after_an_upload(self) -> None:
        """A body that had to wait for its server leaves a connection on which the next request is heard, whatever came of it."""
        backend, nobody = Counting(), reserve_port(self)
        server = self.start(backend, more=ROUTE.format(upstreams=f'"http://127.0.0.1:{nobody}"').replace('"/"', '"/nobody"'))
        with TlsClient(server.port, self.alice) as client:
            for number, size in enumerate((1, 70_000, 100_000, 300_000, 3_000_000) * 4):
                client.send(b"POST /%d HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % (number, size) + bytes(size))
                self.assertEqual(client.response().body, b"/%d" % number)
                self.assertEqual(client.ask("/next").body, b"/next")
            self.assertEqual(self.ask(client, "POST", "/nobody").status, 503)
            self.assertEqual(client.ask("/next").body, b"/next")
        self.assertEqual(server.stop(), 0)
        self.assert_quiet(server)

    def test_says_that_it_stays_and_leaves(self) -> None:
        """No GET fails for it, and no POST is done twice."""
        backend = Counting(lambda _: False)
        server = self.start(backend)
        with TlsClient(server.port, self.alice) as client:
            for number in range(self.ROUNDS):
                self.assertEqual(client.ask(f"/{number}").body, b"/%d" % number)
                answered = self.ask(client, "POST", f"/{number}")
                self.assertIn(answered.status, (200, 502))
                if answered.status == 200:
                    self.assertEqual(answered.body, b"/%d" % number)
        self.assertEqual({backend.seen[f"GET /{number}"] for number in range(self.ROUNDS)}, {1})
        self.assertLessEqual(max(backend.seen.values()), 1)
        self.assertEqual(server.stop(), 0)
        self.assert_quiet(server)


class SeveralTests(UpstreamsTestCase):
    WORKERS = 4

    def test_killed_and_started_again(self) -> None:
        """One of two servers is updated in the middle of the day: no idempotent request fails, and none of the others is done twice."""
        # The first comes back on its own port.
        backends = [Counting(port=reserve_port(self)), Counting()]
        server = self.start(*backends)
        over = threading.Event()
        wrong: list[str] = []
        done: Counter[str] = Counter()

        def work(worker: int) -> None:
            number = 0
            client = TlsClient(server.port, self.alice)
            while not over.is_set():
                path = f"/{worker}-{number}"
                number += 1
                try:
                    answered = client.ask(path)
                    if (answered.status, answered.body) != (200, path.encode()):
                        wrong.append(f"GET {path}: {answered}")
                    answered = self.ask(client, "POST", path)
                    if answered.status not in (200, 502) or (answered.status == 200 and answered.body != path.encode()):
                        wrong.append(f"POST {path}: {answered}")
                    done[f"POST {path}"] += answered.status == 200
                    if b"Connection: close" in answered.head:
                        client.close()
                        client = TlsClient(server.port, self.alice)
                except (Cut, OSError) as error:
                    wrong.append(f"{path}: {error!r}")
                    break
            client.close()

        workers = [threading.Thread(target=work, args=(number,)) for number in range(self.WORKERS)]
        for worker in workers:
            worker.start()
        try:
            for _ in range(3):
                first = backends[0]
                poll("the first serves", lambda: first.seen.total() > 100)  # noqa: B023
                first.kill()
                before = backends[1].seen.total()
                poll("the other goes on", lambda: backends[1].seen.total() > before + 300)  # noqa: B023
                again = Counting(port=first.port)
                self.addCleanup(again.server.stop)
                backends[0] = again
                backends.append(first)
            poll("the first serves again", lambda: backends[0].seen.total() > 100)
        finally:
            over.set()
            for worker in workers:
                worker.join(DEADLINE)
        self.assertEqual(wrong, [])
        posts: Counter[str] = Counter()
        for backend in backends:
            posts.update({path: count for path, count in backend.seen.items() if path.startswith("POST")})
        self.assertLessEqual(max(posts.values()), 1)
        self.assertEqual([path for path, count in done.items() if count > posts[path]], [])
        self.assertEqual(server.stop(), 0)
        self.assert_quiet(server)


class RewriteTests(UpstreamsTestCase):
    """The configuration is written again ten times a second, half of the time with a mistake."""

    REQUESTS, WORKERS = 10_000, 4
    MISTAKES = (
        "[[rout",
        'allow = "ops"',
        'allow = ["group:nobody"]',
        "[server]\nprot = 1",
        'path = "a//b"',
        "\x00",
        "=",
        "[[route]]\n",
    )

    def test_under_load(self) -> None:
        """No request is answered by half a configuration, and none is lost or sent twice between one and the next."""
        backends = [Counting(), Counting()]
        server = self.start(*backends)
        wrong: list[str] = []

        def work(worker: int) -> None:
            try:
                with TlsClient(server.port, self.alice) as client:
                    for number in range(self.REQUESTS // self.WORKERS):
                        path, private = f"/{worker}-{number}", number % 10 == 9
                        answered = client.ask(f"/private{path}" if private else path)
                        good = answered.status == 403 if private else answered.body == path.encode()
                        if not good:
                            wrong.append(f"{path}: {answered}")
            except BaseException as error:
                wrong.append(repr(error))

        workers = [threading.Thread(target=work, args=(number,)) for number in range(self.WORKERS)]
        for worker in workers:
            worker.start()
        try:
            rounds = self.rewrite(server, backends, workers)
        finally:
            for worker in workers:
                worker.join(4 * DEADLINE)
        self.assertEqual(wrong, [])
        seen = Counter(backends[0].seen)
        seen.update(backends[1].seen)
        self.assertEqual((set(seen.values()), seen.total()), ({1}, self.REQUESTS * 9 // 10))
        self.assertGreater(rounds, 10)
        self.assertEqual(server.stop(), 0)
        self.assert_quiet(server)

    def rewrite(self, server: Server, backends: list[Counting], workers: list[threading.Thread]) -> int:
        """Write the file anew until nobody asks any more.  Returns how often."""
        config, pause, rounds = self.folder / "mtlsd.toml", threading.Event(), 0
        tables = [
            "".join(f'"http://127.0.0.1:{backend.port}", ' for backend in some) for some in (backends, backends[:1], backends[1:])
        ]
        while any(worker.is_alive() for worker in workers):
            text = ROUTE.format(upstreams=tables[rounds % 3]) + f"idle_timeout = {rounds + 1}\n" + PRIVATE
            if rounds % 2:
                text += self.MISTAKES[rounds // 2 % len(self.MISTAKES)]
            said = len(server.log.lines)
            if rounds % 4 < 2:
                config.write_text(text)
            else:
                self.write(config, text.encode())
            server.signal(signal.SIGHUP)
            server.log.wait_for("stays in force" if rounds % 2 else "2 routes in force", after=said)
            rounds += 1
            pause.wait(0.1)
        return rounds
