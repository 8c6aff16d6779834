"""Who may ask for what: the longest path decides, alone, and what nobody has allowed is refused."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mtlsd.routing.explain import answered
from mtlsd.routing.rules import Allow, Made, Route, Routed, Rules, Ruling, Target, Turned, Upstream, Wsgi

TARGET = Target("127.0.0.1", 8000)


def route(number: int, path: str, *allow: str, methods: str | None = None) -> Route:
    """Return a route; *path* as in the file, *methods* with spaces between them."""
    of = None if methods is None else frozenset(methods.encode().split())
    return Route(number, path.encode().removesuffix(b"/"), Allow.of(allow), Made(f"m:r{number}"), of)


RULES = Rules(
    (
        route(0, "/", "*"),
        route(1, "/admin", "group:ops", methods="GET POST"),
        route(2, "/admin/keys", "carol"),
        route(3, "/upload", "dave", methods="PUT"),
    ),
    {"ops": frozenset({"alice", "bob"}), "none": frozenset()},
)


def judged(path: str, client: str = "alice", method: str = "GET", groups: tuple[str, ...] = (), rules: Rules = RULES) -> Ruling:
    return rules.rule(client, rules.groups_of(client, groups), method.encode(), path.encode())


class MatchTests(SynchronousTestCase):
    def matched(self, path: str, rules: Rules = RULES) -> int | None:
        found = rules.match(path.encode())
        return None if found is None else found.number

    def test_whole_segments(self) -> None:
        """A rule for `/admin` that also takes `/adminx` opens, or shuts, what nobody meant."""
        for path, number in (
            ("/", 0),
            ("/adminx", 0),
            ("/Admin", 0),
            ("/x/admin", 0),
            ("/admin", 1),
            ("/admin/", 1),
            ("/admin/users", 1),
            ("/admin/keysx", 1),
            ("/admin/keys", 2),
            ("/admin/keys/", 2),
            ("/admin/keys/1/2/3", 2),
        ):
            self.assertEqual(self.matched(path), number, path)

    def test_any_spelling(self) -> None:
        """`/%40keys` would go by the rule of `/`, and be `/@keys` to the application behind it."""
        rules = Rules(
            (route(0, "/", "*"), route(1, "/@keys/a+b", "carol"), route(2, "/x%2Cy", "carol"), route(3, "/%20", "carol"))
        )
        for path, number in (
            ("/@keys/a+b", 1),
            ("/%40keys/a%2Bb/c", 1),
            ("/%40keys/a+bc", 0),
            ("/%2540keys/a+b", 0),
            ("/x,y", 2),
            ("/x%2Cy/", 2),
            ("/%20", 3),
            ("/%2520", 0),
        ):
            self.assertEqual(self.matched(path, rules), number, path)

    def test_below(self) -> None:
        """What is left of a path is cut behind whole segments, and not by the bytes of another spelling."""
        for path, asked, below in (
            ("/", "/x", "/x"),
            ("/a", "/a", ""),
            ("/a", "/a/", "/"),
            ("/@/b", "/@/b/%40", "/%40"),
            ("/@/b", "/%40/b/%40/c", "/%40/c"),
            ("/@/b", "/%40/b", ""),
            ("/%40/b", "/@/b/", "/"),
        ):
            self.assertEqual(route(0, path, "*").below(asked.encode()), below.encode(), asked)

    def test_no_route(self) -> None:
        """Without a route for `/`, what is named nowhere belongs to nobody."""
        rules = Rules((route(0, "/a", "*"),))
        self.assertEqual([self.matched(path, rules) for path in ("/", "/b", "/ab", "/a", "/a/b")], [None, None, None, 0, 0])
        self.assertIsNone(Rules().match(b"/"))

    @given(
        st.lists(st.lists(st.sampled_from("ab"), max_size=4), max_size=6),
        st.lists(st.sampled_from("ab"), max_size=6),
        st.booleans(),
    )
    def test_the_longest(self, paths: list[list[str]], asked: list[str], slash: bool) -> None:
        """By hand: of all the routes that are a beginning of the path, the longest."""
        distinct = {tuple(path) for path in paths}
        rules = Rules(tuple(route(number, "/" + "/".join(path), "*") for number, path in enumerate(sorted(distinct))))
        fitting = [path for path in distinct if tuple(asked[: len(path)]) == path]
        path = "/" + "/".join(asked) + ("/" if slash and asked else "")
        found = rules.match(path.encode())
        wanted = None if not fitting else "".join(f"/{part}" for part in max(fitting, key=len)).encode()
        self.assertEqual(None if found is None else found.path, wanted)

    def test_a_long_path_is_cheap(self) -> None:
        """A path of 32 KiB has 16,000 beginnings: only those that a route may have are looked at."""
        asked: list[bytes] = []

        class Spy(dict[bytes, Route]):
            def get(self, key: bytes, default: object = None) -> object:  # type: ignore[override]
                asked.append(key)
                return super().get(key, default)

        rules = Rules(RULES.routes)
        rules.__dict__["_by_path"] = Spy({route.path: route for route in RULES.routes if route.path})
        self.assertIsNone(rules.match(b"/x" * 16_000))
        self.assertLess(len(asked), 10)
        self.assertLess(max(map(len, asked)), 20)


class RuleTests(SynchronousTestCase):
    def test_allowed(self) -> None:
        """By everyone, by a group of the file, by a group of the registry, and by name."""
        self.assertEqual(judged("/x", "zoe"), Routed(RULES.routes[0]))
        self.assertEqual(judged("/admin/x"), Routed(RULES.routes[1]))
        self.assertEqual(judged("/admin/x", "zoe", groups=("ops",)), Routed(RULES.routes[1]))
        self.assertEqual(judged("/admin/keys", "carol"), Routed(RULES.routes[2]))

    def refused(self, ruling: Ruling, status: int, reason: str) -> Turned:
        assert isinstance(ruling, Turned), ruling
        self.assertEqual((int(ruling.status), ruling.reason), (status, reason))
        return ruling

    def test_refused(self) -> None:
        """Whoever asks at night has to be told which rule it was."""
        self.refused(judged("/admin", "zoe"), 403, "route[1] /admin allows group:ops")
        self.refused(judged("/x", rules=Rules()), 403, "no route has this path")

    def test_the_longest_decides_alone(self) -> None:
        """Fallen back to a shorter route, `/admin/keys` would be open to all of ops, and everything to everyone."""
        self.refused(judged("/admin/keys", "alice"), 403, "route[2] /admin/keys allows carol")
        turned = self.refused(judged("/admin", method="DELETE"), 405, "route[1] /admin takes GET, POST")
        self.assertEqual(turned.methods, (b"GET", b"HEAD", b"POST"))

    def test_methods(self) -> None:
        """HEAD is GET without its body; no other method comes for free, and they are case-sensitive."""
        self.assertEqual(judged("/admin", method="HEAD"), Routed(RULES.routes[1]))
        self.refused(judged("/upload", "dave", "HEAD"), 405, "route[3] /upload takes PUT")
        self.refused(judged("/admin", method="get"), 405, "route[1] /admin takes GET, POST")
        self.assertEqual(judged("/", method="BREW"), Routed(RULES.routes[0]))

    def test_who_is_not_allowed_learns_nothing_of_methods(self) -> None:
        """405 before 403 tells a stranger what is there."""
        self.refused(judged("/admin", "zoe", "DELETE"), 403, "route[1] /admin allows group:ops")

    def test_names_are_compared_whole(self) -> None:
        """A client called like a group, or like a part of a name, is somebody else."""
        for client in ("ops", "group:ops", "ALICE", "alic", "*", ""):
            self.assertIsInstance(judged("/admin", client), Turned, client)
            self.assertIsInstance(judged("/admin/keys", client), Turned, client)

    def test_groups(self) -> None:
        """Those of the registry and those of the file are one list, each once."""
        self.assertEqual(RULES.groups_of("alice", ("staff", "ops")), ("staff", "ops"))
        self.assertEqual(RULES.groups_of("alice", ("staff",)), ("staff", "ops"))
        own = ("staff",)
        self.assertIs(RULES.groups_of("zoe", own), own)

    def test_an_empty_allow(self) -> None:
        """It can only come from a program, and must not mean everybody."""
        self.assertFalse(Allow.of(()).admits("alice", ("ops",)))
        self.assertEqual(str(Allow.of(())), "nobody")


class ExplainTests(SynchronousTestCase):
    def said(self, method: str, target: str, client: str = "alice") -> str:
        return answered(RULES, client, (), method, target).as_text()

    def test_words(self) -> None:
        """The operator asks this instead of trying requests on a live server."""
        self.assertEqual(
            self.said("GET", "/%61dmin/x?y"),
            "allowed: alice GET /admin/x goes to the resource of m:r1 (route[1] /admin allows group:ops)",
        )
        self.assertEqual(self.said("GET", "/admin", "zoe"), "refused with 403: zoe GET /admin: route[1] /admin allows group:ops")
        self.assertEqual(self.said("PUT", "/admin"), "refused with 405: alice PUT /admin: route[1] /admin takes GET, POST")
        self.assertEqual(
            self.said("GET", "/a/../b"), "refused with 400: alice GET /a/../b: a path may not have a . or .. segment"
        )
        self.assertEqual(
            self.said("GET", "/.mtlsd/hello"),
            "allowed: alice GET /.mtlsd/hello goes to mtlsd's own pages (/.mtlsd is for every authorized client)",
        )
        self.assertEqual(self.said("GET", "/x"), "allowed: alice GET /x goes to the resource of m:r0 (route[0] / allows *)")
        self.assertEqual(str(Wsgi("a:b")), "the WSGI application a:b")
        self.assertIn("there are no routes", answered(Rules(), "alice", (), "GET", "/hello").as_text())

    def test_json(self) -> None:
        """Scripts read these keys."""
        self.assertEqual(
            answered(RULES, "zoe", ("ops",), "GET", "/admin").as_dict(),
            {
                "allowed": True,
                "status": None,
                "reason": "route[1] /admin allows group:ops",
                "client": "zoe",
                "groups": ["ops"],
                "method": "GET",
                "path": "/admin",
                "route": {"number": 1, "path": "/admin"},
                "destination": "the resource of m:r1",
                "upgrade": False,
            },
        )
        refused = answered(RULES, "zoe", (), "GET", "/admin").as_dict()
        self.assertEqual((refused["allowed"], refused["status"], refused["destination"]), (False, 403, None))
        self.assertIsNone(answered(RULES, "zoe", (), "GET", "//").as_dict()["route"])

    def test_upgrades(self) -> None:
        """Whether a WebSocket would come through is asked before it is built."""
        upstream = Upstream((Target("127.0.0.1", 8000),), upgrade=True)
        rules = Rules((Route(0, b"", Allow.of(["alice"]), upstream),))
        said = answered(rules, "alice", (), "GET", "/")
        self.assertTrue(said.as_dict()["upgrade"])
        self.assertIn(" goes to http://127.0.0.1:8000, also to be upgraded (route[0]", said.as_text())
        for client, method in (("alice", "POST"), ("bob", "GET")):
            self.assertFalse(answered(rules, client, (), method, "/").upgrade)

    @given(st.text(max_size=12), st.text(max_size=4))
    def test_any_text(self, target: str, method: str) -> None:
        """The command is given whatever a shell lets through; the door would have refused it."""
        self.assertTrue(answered(RULES, "alice", (), method, target).as_text())


class ObjectionTests(SynchronousTestCase):
    """What an upgraded connection is cut for, when the rules change."""

    def objection(self, route: Route, client: str = "alice", path: str = "/ws/x") -> str | None:
        return Rules((route,)).objection(client, ("staff",), path.encode(), TARGET)

    def test_objections(self) -> None:
        """A connection that goes on where it could not begin is a rule that is not kept."""
        upstream = Upstream((Target("127.0.0.1", 1), TARGET), upgrade=True)
        good = Route(0, b"/ws", Allow.of(["group:staff"]), upstream)
        self.assertIsNone(self.objection(good))
        self.assertIsNone(self.objection(replace(good, methods=frozenset({b"GET"}))))
        for route, why in (
            (replace(good, allow=Allow.of(["bob"])), "route[0] /ws allows bob"),
            (replace(good, methods=frozenset({b"POST"})), "route[0] /ws takes POST"),
            (replace(good, path=b"/other"), "no route has this path"),
            (replace(good, destination=replace(upstream, upgrade=False)), "route[0] /ws has no upgrade = true"),
            (
                replace(good, destination=replace(upstream, targets=upstream.targets[:1])),
                "route[0] /ws leads to http://127.0.0.1:1",
            ),
            (replace(good, destination=Wsgi("a:b")), "route[0] /ws leads to the WSGI application a:b"),
        ):
            self.assertEqual(self.objection(route), why)
