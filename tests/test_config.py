"""The configuration file: every mistake at once, each with its place, and nothing is guessed."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mtlsd.config import METHODS, Config, ConfigError, parse, read
from mtlsd.routing.namedheaders import NamedHeaders
from mtlsd.routing.rules import Allow, Made, Route, Static, Target, Upstream, Wsgi

FILE = Path("/etc/mtlsd/mtlsd.toml")

EXAMPLE = """
[server]
port = 9444

[groups]
ops = ["alice", "bob"]
nobody = []

[[route]]
path = "/"
allow = ["*"]
resource = "site:make"

[[route]]
path = "/admin/"
allow = ["group:ops", "carol"]
methods = ["GET", "POST"]
wsgi = "admin.wsgi:application"

[[route]]
path = "/%66iles"
allow = ["group:nobody"]
static = "files"
listing = true
"""


def mistakes(text: str) -> list[str]:
    """Return what is wrong with a configuration."""
    try:
        parse(text, FILE)
    except ConfigError as error:
        return list(error.mistakes)
    return []


def route(*lines: str, allow: str = 'allow = ["*"]', path: str = 'path = "/"', to: str = 'static = "/srv"') -> str:
    """Return a [[route]] with these lines more."""
    return "\n".join(["[[route]]", path, allow, to, *lines, ""])


class ConfigTests(SynchronousTestCase):
    def test_the_example(self) -> None:
        """Every kind of route, as values that nothing changes later."""
        config = parse(EXAMPLE, FILE)
        self.assertEqual(dict(config.server), {"port": 9444})
        self.assertEqual(dict(config.rules.groups), {"ops": frozenset({"alice", "bob"}), "nobody": frozenset()})
        self.assertEqual(
            config.rules.routes,
            (
                Route(0, b"", Allow(everyone=True), Made("site:make")),
                Route(
                    1,
                    b"/admin",
                    Allow(clients=frozenset({"carol"}), groups=frozenset({"ops"})),
                    Wsgi("admin.wsgi:application"),
                    frozenset({b"GET", b"POST"}),
                ),
                Route(2, b"/files", Allow(groups=frozenset({"nobody"})), Static(Path("/etc/mtlsd/files"), True)),
            ),
        )

    def test_nothing(self) -> None:
        """An empty file is no mistake."""
        self.assertEqual(parse("# nothing yet\n", FILE), Config())

    def test_nothing_is_coerced(self) -> None:
        """`allow = "ops"` would be clients called o, p and s; `allow = "*"` would be everybody (field note 44)."""
        self.assertEqual(mistakes(route(allow='allow = "ops"')), ["route[0].allow: a list is wanted"])
        self.assertEqual(mistakes(route(allow='allow = "*"')), ["route[0].allow: a list is wanted"])
        self.assertEqual(mistakes(route(allow="allow = [1]")), ["route[0].allow[0]: text is wanted"])
        self.assertEqual(mistakes(route(allow='allow = [["*"]]')), ["route[0].allow[0]: text is wanted"])
        self.assertEqual(mistakes(route('methods = "GET"')), ["route[0].methods: a list is wanted"])
        self.assertEqual(mistakes(route("listing = 1")), ["route[0].listing: true or false is wanted"])
        self.assertEqual(mistakes(route(path="path = 1")), ["route[0].path: text is wanted"])
        self.assertEqual(mistakes(route(to="static = true")), ["route[0].static: text is wanted"])
        self.assertEqual(mistakes('[groups]\nops = "alice"'), ["groups.ops: a list is wanted"])

    def test_all_at_once(self) -> None:
        """Told one after the other, ten mistakes are ten restarts."""
        text = """
colour = "blue"
[server]
prot = 1
port = "9443"
[groups]
"bad group" = []
ops = ["alice", "al ice", "alice"]
[[route]]
path = "/a"
allow = ["group:op"]
static = "/srv"
[[route]]
path = "/a/"
alow = ["*"]
methods = ["get"]
upstrem = "x"
"""
        self.assertEqual(
            mistakes(text),
            [
                "colour: unknown",
                "server.prot: unknown",
                "server.port: a whole number is wanted",
                "groups.bad group: a group's name is letters, digits, dots, dashes and underscores",
                "groups.ops[1]: not the name of a client: al ice",
                "groups.ops[2]: it is there twice",
                "route[0].allow[0]: unknown group op: it has no line under [groups]",
                "route[1].path: it is the path of route[0] too",
                "route[1].alow: unknown",
                "route[1].upstrem: unknown",
                'route[1].allow: missing; ["*"] is every authorized client',
                "route[1].methods[0]: methods have capital letters: GET",
                "route[1]: exactly one of upstream, static, wsgi, resource is wanted",
            ],
        )

    def test_tables(self) -> None:
        """One bracket too few is an easy slip, and `[route]` alone would be no route at all."""
        self.assertEqual(mistakes("[route]\npath = '/'"), ["route: [[route]] is wanted, with two brackets"])
        self.assertEqual(mistakes("route = [1]"), ["route[0]: a table is wanted"])
        self.assertEqual(mistakes("server = 1\ngroups = 1"), ["server: a table is wanted", "groups: a table is wanted"])

    def test_methods(self) -> None:
        """A slip in the name of a method would close a route without a word: the door answers 501 before any rule is asked."""
        text = "methods = [{}]"
        every = ", ".join(f'"{name.decode()}"' for name in sorted(METHODS))
        (found,) = parse(route(text.format(every), to='wsgi = "m:a"'), FILE).rules.routes
        self.assertEqual(found.methods, METHODS)
        for wrong, what in (
            ("PSOT", "unknown method PSOT: every request with it is answered 501"),
            ("", "unknown method : every request with it is answered 501"),
            ("GE\\nT", "unknown method GE\\nT: every request with it is answered 501"),
            ("m-search", "methods have capital letters: M-SEARCH"),
        ):
            self.assertEqual(mistakes(route(text.format(f'"{wrong}"'), to='wsgi = "m:a"')), [f"route[0].methods[0]: {what}"])

    def test_not_utf_8(self) -> None:
        """An editor set to Latin-1 writes a byte that nobody would find by its number in the file."""
        file = Path(self.mktemp())
        file.write_bytes(b"[server]\n# M\xfcller\nport = 1\n")
        with self.assertRaises(ConfigError) as caught:
            read(file)
        self.assertEqual(caught.exception.mistakes, ("not UTF-8 (at line 2, column 4)",))

    def test_paths_that_no_request_has(self) -> None:
        """A route that is never taken is a rule that is not in force, and nobody notices."""
        for path, why in (
            ("", "begins with a slash"),
            ("admin", "begins with a slash"),
            ("/a//b", "empty segment"),
            ("/a/../b", "segment"),
            ("/caf\u00e9", "not printable ASCII"),
            ("/a%2Fb", "escaped slash"),
            ("/a?b", "a query is no part of it"),
            ("/.mtlsd", "mtlsd's own"),
            ("/.mtlsd/hello/", "mtlsd's own"),
            ("/%2emtlsd/x", "mtlsd's own"),
        ):
            (mistake,) = mistakes(route(path=f'path = "{path}"'))
            self.assertTrue(mistake.startswith("route[0].path: no request") and why in mistake, mistake)
        self.assertEqual(mistakes(route(path='path = "/.mtlsdx"')), [])

    def test_one_path_in_two_spellings(self) -> None:
        """Which of the two decides would be a matter of chance."""
        text = route(path='path = "/a"') + route(path='path = "/%61/"')
        self.assertEqual(mistakes(text), ["route[1].path: it is the path of route[0] too"])
        text = route(path='path = "/@a"') + route(path='path = "/%40a"')
        self.assertEqual(mistakes(text), ["route[1].path: it is the path of route[0] too"])

    def test_routes_that_nobody_reaches(self) -> None:
        """An empty list is rarely what is meant, and looks like no limit."""
        self.assertEqual(mistakes(route(allow="allow = []")), ["route[0].allow: it names nobody, so no request gets here"])
        self.assertEqual(mistakes(route("methods = []")), ["route[0].methods: it names no method, so no request gets here"])
        said = ["route[0].methods: files are there for GET and HEAD, so no request gets here"]
        self.assertEqual(mistakes(route('methods = ["POST", "PUT"]')), said)
        for good in ('["GET"]', '["POST", "HEAD"]'):
            self.assertEqual(mistakes(route(f"methods = {good}")), [], good)
        self.assertEqual(mistakes(route('methods = ["POST"]', to='wsgi = "a:b"')), [])

    def test_what_is_seen_of_a_file_that_is_wrong(self) -> None:
        """One mistake would hide the next: a folder that is gone, a name that is misspelt."""
        text = route('methods = "GET"', path='path = "//"', to='static = "gone"') + route(allow='allow = ["alcie"]', to="")
        seen = self.assertRaises(ConfigError, parse, text, FILE).seen
        assert seen is not None
        self.assertEqual(seen.rules.routes[0].destination, Static(FILE.parent / "gone"))
        self.assertEqual(seen.unknown(["alice"]), ["route[1].allow: unknown client alcie"])
        self.assertIsNone(self.assertRaises(ConfigError, parse, "[", FILE).seen)

    def test_one_destination(self) -> None:
        """Of two, one would be passed over in silence."""
        self.assertEqual(mistakes(route('wsgi = "a:b"')), ["route[0]: exactly one of upstream, static, wsgi, resource is wanted"])
        self.assertEqual(mistakes(route(to='wsgi = "a"')), ['route[0].wsgi: "module:name" is wanted'])
        self.assertEqual(mistakes(route(to='resource = "a b:c"')), ['route[0].resource: "module:name" is wanted'])
        self.assertEqual(mistakes(route(to='static = ""')), ["route[0].static: a path is wanted"])
        self.assertEqual(
            mistakes(route("listing = true", to='wsgi = "a:b"')), ["route[0].listing: only a route with static has one"]
        )

    def test_upstreams(self) -> None:
        """One server or several, over TCP or a unix socket; relative paths count from the file."""
        to = 'upstream = ["http://127.0.0.1:8000", "http://[::1]:8001/", "http+unix:app.sock", "http://localhost:1"]'
        (found,) = parse(route("strip_prefix = true", "connect_timeout = 1", "idle_timeout = 0.5", to=to), FILE).rules.routes
        targets = (Target("127.0.0.1", 8000), Target("::1", 8001), Target(path="/etc/mtlsd/app.sock"), Target("localhost", 1))
        self.assertEqual(found.destination, Upstream(targets, True, 1.0, 60.0, 0.5))
        self.assertEqual(
            str(found.destination),
            "http://127.0.0.1:8000 or http://[::1]:8001 or http+unix:/etc/mtlsd/app.sock or http://localhost:1",
        )
        (found,) = parse(route(to='upstream = "http+unix:/run/app.sock"'), FILE).rules.routes
        self.assertEqual(found.destination, Upstream((Target(path="/run/app.sock"),)))

    def test_strip(self) -> None:
        """A header that only the application's own people may set could be set by any client."""
        for to in ('upstream = "http://127.0.0.1:8000"', 'wsgi = "m:a"', 'resource = "m:r"'):
            (found,) = parse(route('strip = ["X-Tenant", "X-Corp-*"]', to=to), FILE).rules.routes
            self.assertEqual(found.strip, NamedHeaders.of(["x_tenant", "x.corp.*"]))
        self.assertEqual(
            mistakes(route('strip = ["X"]')), ["route[0].strip: files are told nothing, so only another route has one"]
        )
        to = 'wsgi = "m:a"'
        wanted = "the name of a header is wanted, with a star at its end for all that begin so"
        self.assertEqual(mistakes(route('strip = "X-Tenant"', to=to)), ["route[0].strip: a list is wanted"])
        for wrong in ("", "*", "X Y", "X-*-Y", "X:", "é", "X\\n", "X" * 101):
            self.assertEqual(mistakes(route(f'strip = ["{wrong}"]', to=to)), [f"route[0].strip[0]: {wanted}"], wrong)
        for wrong, needed in (
            ("host", "host"),
            ("H*", "host"),
            ("content_length", "content-length"),
            ("Tr*", "transfer-encoding"),
        ):
            self.assertEqual(
                mistakes(route(f'strip = ["X", "{wrong}"]', to=to)), [f"route[0].strip[1]: no request goes on without {needed}"]
            )

    def test_upgrade(self) -> None:
        """Off unless it is said, and said as true: what is upgraded, no rule looks into any more."""
        to = 'upstream = "http://127.0.0.1:8000"'
        for lines, expected in (((), False), (("upgrade = false",), False), (("upgrade = true",), True)):
            (found,) = parse(route(*lines, to=to), FILE).rules.routes
            assert isinstance(found.destination, Upstream)
            self.assertIs(found.destination.upgrade, expected)
        for value in ('"true"', "1", "[]"):
            self.assertEqual(mistakes(route(f"upgrade = {value}", to=to)), ["route[0].upgrade: true or false is wanted"])
        self.assertEqual(mistakes(route("upgrade = true", 'methods = ["GET", "POST"]', to=to)), [])
        self.assertEqual(
            mistakes(route("upgrade = true", 'methods = ["POST"]', to=to)),
            ["route[0].upgrade: it is asked for with GET, which is not in methods"],
        )
        self.assertEqual(
            mistakes(route("upgrade = false", to='static = "x"')), ["route[0].upgrade: only a route with upstream has one"]
        )

    def test_remote_upstreams(self) -> None:
        """Who the client is would go over the network in clear, and anybody there could say it too."""
        for host in ("192.0.2.1", "app.example", "[2001:db8::1]", "0.0.0.0"):
            (mistake,) = mistakes(route(to=f'upstream = "http://{host}:80"'))
            self.assertIn("is not this machine", mistake)
            self.assertEqual(mistakes(route("allow_remote = true", to=f'upstream = "http://{host}:80"')), [])

    def test_wrong_upstreams(self) -> None:
        """Each would be found out by the first request, at night."""
        wanted = '"http://HOST:PORT" or "http+unix:PATH" is wanted'
        for text in (
            "https://127.0.0.1:1",
            "http://127.0.0.1",
            "http://127.0.0.1:0",
            "http://127.0.0.1:65536",
            "http://h:1/path",
            "x",
            "",
        ):
            self.assertEqual(mistakes(route(to=f'upstream = "{text}"')), [f"route[0].upstream: {wanted}"], text)
            self.assertEqual(mistakes(route(to=f'upstream = ["{text}"]')), [f"route[0].upstream[0]: {wanted}"], text)
        label = "a" * 63
        self.assertEqual(mistakes(route("allow_remote = true", to=f'upstream = "http://{label}.{label}.example.org:80"')), [])
        for text, said in (
            ("http://a..b:1", wanted),
            ("http://-a.b:1", wanted),
            (f"http://{label}a.example.org:1", wanted),
            (f"http://{'.'.join([label] * 4)}:1", wanted),
            ("http+unix:", "the path of a socket is wanted"),
            ("http://127.0.0.256:1", "not an address: 127.0.0.256"),
            ("http://[::g]:1", wanted),
            ("http://[1:2]:1", "not an address: 1:2"),
        ):
            self.assertEqual(mistakes(route("allow_remote = true", to=f'upstream = "{text}"')), [f"route[0].upstream: {said}"])
        self.assertEqual(mistakes(route(to="upstream = []")), ["route[0].upstream: it names no server"])
        self.assertEqual(mistakes(route(to="upstream = 1")), ["route[0].upstream: a list is wanted"])
        two = 'upstream = ["http://localhost:1", "http://localhost:1"]'
        self.assertEqual(mistakes(route(to=two)), ["route[0].upstream[1]: it is there twice"])

    def test_one_server_in_two_spellings(self) -> None:
        """It would get two turns, and a request that it has failed would be tried there again."""
        for first, second in (
            ("http://127.0.0.1:8000", "http://127.0.0.1:8000/"),
            ("http://127.0.0.1:8000", "http://127.0.0.1:08000"),
            ("http://[::1]:80", "http://[0:0::1]:80/"),
            ("http://LOCALHOST:80", "http://localhost:80"),
            ("http+unix:/run/app.sock", "http+unix:/run//./app.sock"),
            ("http+unix:/etc/mtlsd/app.sock", "http+unix:app.sock"),
        ):
            to = f'upstream = ["http://127.0.0.1:1", "{first}", "{second}"]'
            said = f"route[0].upstream[2]: it is there twice: {first} is the same server"
            self.assertEqual(mistakes(route("allow_remote = true", to=to)), [said])
        self.assertEqual(mistakes(route(to='upstream = ["http://127.0.0.1:1", "http://127.0.0.1:2", "http://[::1]:1"]')), [])

    def test_a_socket_whose_path_is_too_long(self) -> None:
        """No socket can be there (unix(7)): every request would wait for its deadline, and fail."""
        longest = "/" + "s" * 106
        for text, size in ((f"{longest}s", 108), ("/" + "\u00e9" * 54, 109), ("../" + "s" * 94, 108), ("s" * 97, 108)):
            said = f"the path of a socket has 107 bytes at most, and this {size}"
            self.assertEqual(mistakes(route(to=f'upstream = "http+unix:{text}"')), [f"route[0].upstream: {said}"], text)
        for text in (longest, "s" * 96, "../" + "s" * 93):
            self.assertEqual(mistakes(route(to=f'upstream = "http+unix:{text}"')), [], text)

    def test_methods_that_go_no_further(self) -> None:
        """A rule that lets nobody through looks as if it did."""
        to = 'upstream = "http://localhost:1"'
        for method in ("CONNECT", "TRACE"):
            said = f"route[0].methods: {method} is not passed on to any server: every request with it is 405"
            self.assertEqual(mistakes(route(f'methods = ["GET", "{method}"]', to=to)), [said])
            self.assertEqual(mistakes(route(f'methods = ["GET", "{method}"]', to='resource = "a:b"')), [])

    def test_one_header_in_two_spellings(self) -> None:
        """One of them was meant to be another."""
        to = 'upstream = "http://localhost:1"'
        for one, two in (("x", "X"), ("X-Tenant", "x_tenant"), ("X-*", "x_*")):
            said = f"route[0].strip[1]: it is there twice: {one} is the same header"
            self.assertEqual(mistakes(route(f'strip = ["{one}", "{two}"]', to=to)), [said])
        self.assertEqual(mistakes(route('strip = ["x", "x"]', to=to)), ["route[0].strip[1]: it is there twice"])
        self.assertEqual(mistakes(route('strip = ["x", "x*"]', to=to)), [])

    def test_keys_of_another_kind(self) -> None:
        """A key that has no effect looks as if it had."""
        self.assertEqual(mistakes(route("strip_prefix = true")), ["route[0].strip_prefix: only a route with upstream has one"])
        self.assertEqual(mistakes(route("idle_timeout = 1")), ["route[0].idle_timeout: only a route with upstream has one"])
        to = 'upstream = "http://localhost:1"'
        self.assertEqual(mistakes(route("strip_prefix = 1", to=to)), ["route[0].strip_prefix: true or false is wanted"])
        number, least, most = "a number of seconds", "at least 0.1", "at most 1000000"
        for value, bound in (("0", least), ("true", number), ("nan", least), ("inf", most), ("1e7", most), ('"1"', number)):
            said = [f"route[0].response_timeout: {bound} is wanted"]
            self.assertEqual(mistakes(route(f"response_timeout = {value}", to=to)), said)

    def test_a_syntax_error_has_its_line(self) -> None:
        """Without it one reads the whole file."""
        for text in (
            '[server]\nport = 1\n[[route]\npath = "/"\n',
            "[server]\nport = 1\nport = 2",
            '[server]\nport = 1\ninterface = "x',
        ):
            (mistake,) = mistakes(text)
            self.assertIn("line 3", mistake, text)

    def test_what_cannot_be_read(self) -> None:
        """One line that names the file."""
        folder = Path(self.mktemp())
        folder.mkdir()
        path = folder / "mtlsd.toml"
        self.assertEqual(str(self.assertRaises(ConfigError, read, path)), f"{path}: No such file or directory")
        path.write_bytes(b"\xff")
        self.assertIn("not UTF-8 (at line 1, column 1)", str(self.assertRaises(ConfigError, read, path)))
        path.write_bytes(b"#" * ((1 << 20) + 1))
        self.assertIn("larger than 1 MiB", str(self.assertRaises(ConfigError, read, path)))
        path.write_text(EXAMPLE)
        self.assertEqual(read(path).rules.routes[2].destination, Static(folder / "files", True))

    def test_a_key_cannot_write_to_the_terminal(self) -> None:
        """A file may be somebody else's: its keys end up in a log."""
        (mistake,) = mistakes('"a\\u001b[2J\\n" = 1')
        self.assertEqual(mistake, "a\\x1b[2J\\n: unknown")
        (mistake,) = mistakes('[server]\n"\\u001b" = 1')
        self.assertEqual(mistake, "server.\\x1b: unknown")

    def test_unknown_clients(self) -> None:
        """A misspelt name locks somebody out; but it may also be one that is enrolled tomorrow."""
        config = parse(EXAMPLE, FILE)
        self.assertEqual(config.unknown({"alice"}), ["groups.ops: unknown client bob", "route[1].allow: unknown client carol"])
        self.assertEqual(config.unknown({"alice", "bob", "carol"}), [])

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just("*"),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["path", "allow", "methods", "static", "wsgi", "listing", "x"]), inner, max_size=4
                )
            ),
            max_leaves=12,
        ),
        st.sampled_from(["route", "groups", "server"]),
    )
    def test_any_document(self, value: object, key: str) -> None:
        """Whatever TOML can hold is a configuration or a list of mistakes, never a traceback."""
        for mistake in mistakes(f"{key} = {_toml(value)}"):
            self.assertNotIn("\n", mistake)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(max(-(2**62), min(2**62, value)))
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(character):08x}" for character in value if not 0xD800 <= ord(character) < 0xE000) + '"'
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + "}"
    return '""'
