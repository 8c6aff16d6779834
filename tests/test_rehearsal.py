"""What `mtlsd route` says of a request is what the door does with it."""

from __future__ import annotations

import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mtlsd.config import Config, parse
from mtlsd.rehearsal import rehearsed
from mtlsd.routing.explain import Answer as Told
from mtlsd.routing.rules import Static
from tests.site_in_memory import ALICE, Answer, Gate, ask
from tests.test_router import RouterTestCase

METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "FOO", "get", "A" * 41, "A@B", "SETUP")
TARGETS = (
    *("/", "/files/a", "/files", "/files/", "/%66iles/a", "/files/a?x", "/app/x", "/posts", "/posts/x", "/private", "/nowhere"),
    *("*", "*?x", "/a#b", "/a/../b", "//", "/a%2Fb", "/\\", "/a;b", "/a?x#y", "a", "h:443", "?x", "/" + "a" * 40_000),
    *(
        "https://host/files/a",
        "https://host",
        "https://host?x",
        "HTTP://host/private",
        "https://host//",
        "ftp://host/",
        "https:///x",
    ),
    *("/.mtlsd", "/.mtlsd/", "/.mtlsd/hello", "/.mtlsd/hello/", "/.mtlsd/nothing", "/hello", "/%68ello", "/whoami/", "/.mtlsdx"),
)

GROUPS = """
[groups]
staff = []
"""
CONFIG = f"""{GROUPS}
[[route]]
path = "/files"
allow = ["*"]
static = "."
[[route]]
path = "/app"
allow = ["alice"]
wsgi = "tests.test_router:application"
[[route]]
path = "/posts"
allow = ["group:staff"]
methods = ["POST", "PROPFIND"]
wsgi = "tests.test_router:application"
[[route]]
path = "/private"
allow = ["carol"]
wsgi = "tests.test_router:application"
"""
UPSTREAM = """
[[route]]
path = "/up"
allow = ["*"]
upstream = "http://localhost:1"
"""


class RehearsalTests(RouterTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.text = CONFIG
        (self.folder / "a").write_text("a")
        self.addCleanup(sys.path.__setitem__, slice(None), sys.path[:])

    def told(self, method: str, target: str) -> Told:
        return rehearsed(parse(self.text, self.config), "alice", ALICE.groups, method, target)

    def done(self, method: str, target: str) -> int:
        """Return the status of the door's answer to the same request."""
        self.configure(self.text)
        gate = self.door.connect(Gate(ALICE))
        gate.protocol.dataReceived(ask(target, method))
        while gate.producer is not None and not gate.streaming:
            gate.producer.resumeProducing()
        return Answer(gate.taken()).status

    def compare(self, method: str, target: str) -> None:
        said, status = self.told(method, target), self.done(method, target)
        where = (method, target[:50], said.as_text()[:200], status)
        to_files = said.route is not None and isinstance(said.route.destination, Static)
        if said.status is not None:
            # What is not there is 404 to every method; the command does not look.
            self.assertTrue(status == int(said.status) or (to_files and status == 404), where)
            self.assertEqual(said.allowed, status < 400, where)
        else:
            self.assertTrue(said.allowed, where)
            self.assertIn(status, (200, 302, 404) if to_files else (200,), where)

    def test_every_method_and_target(self) -> None:
        """Whoever relies on "allowed" would find 405, 501 or 400 on the live server; and the other way round."""
        for method in METHODS:
            for target in TARGETS:
                self.compare(method, target)

    def test_without_routes(self) -> None:
        """The same, where all there is are mtlsd's own pages."""
        self.text = GROUPS
        for method in METHODS:
            for target in TARGETS:
                self.compare(method, target)

    @given(
        st.sampled_from(METHODS),
        st.lists(
            st.sampled_from(["/", "files", "a", ".mtlsd", "hello", "%61", ".", "%2F", "#", "?", "*", "https://h"]), max_size=5
        ),
    )
    def test_any_target(self, method: str, parts: list[str]) -> None:
        """What no list of examples has thought of."""
        target = "".join(parts)
        self.compare(method, target)

    def test_the_settings(self) -> None:
        """How long a head may be is the file's to say."""
        target = "/app/" + "a" * 2000
        self.assertTrue(self.told("GET", target).allowed)
        self.text = CONFIG + "[server]\nmax_head = 1024\n"
        self.assertEqual(self.told("GET", target).status, 431)


class WordsTests(SynchronousTestCase):
    def told(self, method: str, target: str, own: tuple[str, ...] | None = ()) -> str:
        return rehearsed(parse(CONFIG + UPSTREAM, Path("/srv/mtlsd.toml")), "alice", own, method, target).as_text()

    def test_words(self) -> None:
        """A status alone does not say what to put right."""
        for method, target, text in (
            (
                "DELETE",
                "/files/a",
                "refused with 405: alice DELETE /files/a: route[0] /files leads to files, which are there for GET and HEAD",
            ),
            ("FOO", "/app", "refused with 501: alice FOO /app: no such method"),
            ("GET", "/a#b", "refused with 400: alice GET /a#b: what follows a # is never sent, and belongs to no target"),
            (
                "GET",
                "/a b",
                "refused with 400: alice GET /a b: a space or a control character belongs neither to a method nor to a target",
            ),
            (
                "GET / HTTP/1.1\r\nX:",
                "/",
                "refused with 400: alice GET / HTTP/1.1\r\nX: /: a space or a control character belongs neither to a method nor to a target",
            ),
            (
                "GET",
                "https://h/app/x?y",
                "allowed: alice GET /app/x goes to the WSGI application tests.test_router:application (route[1] /app allows alice)",
            ),
            (
                "OPTIONS",
                "*",
                "allowed: alice OPTIONS * goes to the door itself (it is about the server, for every authorized client)",
            ),
            ("CONNECT", "h:80", "refused with 405: alice CONNECT h:80: the door makes no tunnels"),
            ("TRACE", "/up", "refused with 405: alice TRACE /up: TRACE is not passed on to any server"),
            ("GET", "*", "refused with 405: alice GET *: only OPTIONS asks about the server, and takes no path"),
            ("GET", "/.mtlsd", "allowed: alice GET /.mtlsd goes to mtlsd's own pages (it is /.mtlsd/)"),
            ("GET", "/.mtlsd/x", "refused with 404: alice GET /.mtlsd/x: no such page"),
        ):
            self.assertEqual(self.told(method, target), text)

    def test_who_is_not_let_in(self) -> None:
        """`*` is every authorized client, and nobody else."""
        self.assertEqual(
            self.told("GET", "/files/a", None),
            "refused: alice GET /files/a: no certificate of alice would be let in, so the door does not open",
        )
        told = rehearsed(Config(), "alice", None, "GET", "/").as_dict()
        self.assertEqual((told["allowed"], told["status"], told["destination"]), (False, None, None))

    @given(st.text(max_size=12), st.text(max_size=4))
    def test_any_text(self, target: str, method: str) -> None:
        """The command is given whatever a shell lets through; a traceback is no answer."""
        self.assertTrue(self.told(method, target))
