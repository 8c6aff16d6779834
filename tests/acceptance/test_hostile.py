"""Requests of an attacker who has a certificate: what reaches the servers behind the door, counted there."""

from __future__ import annotations

import ssl

import h11
import httptools
import httpx

from tests.acceptance.backends import Backend, Reader, Recorder, nginx, settled, uvicorn, waitress
from tests.acceptance.harness import AcceptanceTestCase, Server
from tests.acceptance.hostile import (
    CHUNKS,
    HALVES,
    HOPS,
    HOSTS,
    LINES,
    PATHS_AMBIGUOUS,
    PATHS_KEPT,
    PATHS_NONE,
    PATHS_REFUSED,
    PATHS_RESPELLED,
    TRAILERS,
    TWO_LENGTHS,
    Case,
)
from tests.acceptance.peers import Cut, TlsClient
from tests.test_claims import TRUSTED

ROUTES = """
[[route]]
path = "/{name}"
allow = ["*"]
upstream = "http://127.0.0.1:{port}"
[[route]]
path = "/{name}/admin"
allow = ["alice"]
upstream = "http://127.0.0.1:{port}"
"""


class HostileTestCase(AcceptanceTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.new_client("alice")
        self.bob = self.new_client("bob")
        self.recorder = Recorder()
        self.addCleanup(self.recorder.server.stop)
        self.backends: list[Recorder | Backend] = [self.recorder, waitress(self), uvicorn(self), nginx(self)]
        routes = '[[route]]\npath = "/smuggled"\nallow = ["alice"]\nupstream = "http://127.0.0.1:1"\n'
        routes += "".join(ROUTES.format(name=backend.name, port=backend.port) for backend in self.backends)
        self.write(self.folder / "mtlsd.toml", routes.encode())
        self.server: Server = self.serve("--config", "mtlsd.toml")

    def converse(self, case: Case, at: str) -> list[int]:
        """Send what *case* has, and what an honest client sends next.  Returns the statuses of the answers."""
        statuses = []
        with TlsClient(self.server.port, self.bob) as client:
            client.handshake().send(case.data.replace(b"@@", at.encode()))
            try:
                for _ in case.statuses:
                    while (status := client.response().status) < 200:
                        continue
                    statuses.append(status)
                if case.ends:
                    statuses.append(client.response().status)
                else:
                    probe = client.ask(f"{at}/probe")
                    statuses += [probe.status] if b"/probe" in probe.body else [0]
            except Cut:
                statuses.append(-1)
            except TimeoutError:
                statuses.append(-2)
        return statuses

    def judge(self, cases: tuple[Case, ...], *backends: Recorder | Backend) -> None:
        """Have each case tried on each backend, and compare what the door says, and what gets there, in all and in order."""
        for backend in backends:
            at, expected, wrong = f"/{backend.name}", [], []
            for case in cases:
                found = self.converse(case, at)
                if found != [*case.statuses, -1 if case.ends else 200]:
                    wrong.append((case.name, found))
                expected += [line.replace("@@", at) for line in case.passed]
                if not case.ends:
                    expected.append(f"GET {at}/probe HTTP/1.1")
            self.assertEqual(wrong, [], backend.name)
            lines = [seen.line for seen in settled(backend, len(expected))]
            self.assertEqual(lines, expected, backend.name)
        self.assertEqual(self.server.stop(), 0)
        self.assert_quiet(self.server)


class SmugglingTests(HostileTestCase):
    def test_every_form(self) -> None:
        """Whoever gets a second request past the door asks in the name of whoever comes next."""
        cases = (*TWO_LENGTHS, *CHUNKS, *TRAILERS, *LINES, *HOSTS, *HOPS)
        self.assertEqual(len({case.name for case in cases}), len(cases))
        self.judge(cases, *self.backends)
        # Every byte that a backend has had of the door, read by two others.
        for raw in self.recorder.connections:
            by_us = Reader(None, raw)
            requests = list(iter(by_us.request, None))
            self.assertEqual(by_us.at, len(raw))
            read = [(request.line, request.body) for request in requests]
            self.assertEqual(by_h11(bytes(raw)), read)
            self.assertEqual(by_llhttp(bytes(raw)), read)

    def test_halves(self) -> None:
        """What is broken off has no end for the server either, and nothing behind it: whoever believes in one has a request more."""
        at = f"/{self.recorder.name}"
        found = {case.name: self.converse(case, at) for case in HALVES}
        self.assertEqual(found, {case.name: [431, -1] for case in HALVES})
        with TlsClient(self.server.port, self.bob) as client:
            client.handshake()
            self.assertEqual(client.ask(f"{at}/probe").status, 200)
        self.assertEqual([request.line for request in settled(self.recorder, 1)], [f"GET {at}/probe HTTP/1.1"])
        for raw in self.recorder.connections:
            self.assertTrue(raw.count(b" HTTP/1.1\r\n") == 1 and b"\r\n0\r\n" not in raw, bytes(raw[:200]))
        self.assertEqual(self.server.stop(), 0)
        self.assert_quiet(self.server)

    def test_paths(self) -> None:
        """The path that was judged is the path that is received, byte for byte; what has two readings has none."""
        cases = []
        kept, respelled, refused = PATHS_KEPT.split(), PATHS_RESPELLED.split(), PATHS_REFUSED.split()
        for path, passed in (*zip(kept, kept, strict=True), *zip(respelled[::2], respelled[1::2], strict=True)):
            forms = (f"@@{path}", f"http://x@@{path}")
            cases += [self.asked(target, (200,), f"GET @@{passed} HTTP/1.1") for target in forms]
        cases += [self.asked(f"@@{path}", (400,)) for path in PATHS_AMBIGUOUS.split()]
        cases += [self.asked(f"{at}{path}", (403,)) for path in refused for at in ("@@", "http://x@@")]
        cases += [self.asked(f"@@{path}", (431 if len(path) > 32_768 else 400,), ends=True) for path in PATHS_NONE]
        self.judge(tuple(cases), *self.backends)

    def asked(self, target: str, statuses: tuple[int, ...], *passed: str, ends: bool = False) -> Case:
        return Case(target, f"GET {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode("latin-1"), statuses, passed, ends)


class SpoofingTests(HostileTestCase):
    #: Marks that some server takes for the dash in a header's name.
    DASHES = "-_.!~"

    def test_every_spelling(self) -> None:
        """A header that passes for the door's own word makes anybody anybody."""
        names = [name.replace("-", dash) for name in TRUSTED for dash in self.DASHES]
        lines = [f"{spelled}: forged\r\n" for name in names for spelled in (name, name.lower(), name.upper())]
        bunches = ["".join(lines[at : at + 60]) for at in range(0, len(lines), 60)]
        named = ", ".join(TRUSTED)
        requests = [f"GET @@/x HTTP/1.1\r\nHost: h\r\n{bunch}\r\n" for bunch in bunches]
        requests += [f"GET @@/x HTTP/1.1\r\nHost: h\r\nConnection: {named}\r\n{bunch}\r\n" for bunch in bunches[:2]]
        chunked = "POST @@/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n"
        for bunch in bunches:
            announced = ", ".join(line.partition(":")[0] for line in bunch.splitlines())
            requests.append(f"{chunked}Trailer: x-t, {announced}\r\n\r\n3\r\nabc\r\n0\r\n{bunch}X-T: behind\r\n\r\n")
        cases = tuple(
            Case(f"forged {number}", data.encode(), (200,), (data.partition("\r\n")[0],), ends=False)
            for number, data in enumerate(requests)
        )
        self.judge(cases, *self.backends)
        for backend in self.backends:
            for request in backend.seen():
                self.assertEqual([pair for pair in request.headers.items() if "forged" in str(pair)], [], request.line)
                self.assertEqual(request.headers["x_client_name"], ["bob"], backend.name)
                self.assertEqual(request.headers["x_forwarded_for"], ["127.0.0.1"], backend.name)
        self.assertNotIn(b"forged", b"".join(self.recorder.connections))
        # What else is announced comes, so that it is not for want of trailers.
        behind = [request.trailers for request in self.recorder.seen() if request.line.startswith("POST ")]
        self.assertEqual(behind, [{"x-t": ["behind"]}] * len(bunches))

    def test_curl_and_httpx(self) -> None:
        """Clients that people have: their headers arrive but for those that speak of who they are, and answers are their own."""
        at = f"/{self.recorder.name}"
        pair = ("--cert", "bobCrt.pem", "--key", "bobKey.pem", "-k")
        shown = self.curl(
            *pair, "-H", "X_Client_Name: root", "-H", "X-Mine: 1", "-H", "Connection: x-client-name", self.server.url(f"{at}/a")
        )
        self.assertEqual(shown.stdout, f"GET {at}/a HTTP/1.1")
        context = ssl.create_default_context(cafile=self.certs / "serverCrt.pem")
        context.load_cert_chain(self.folder / "bobCrt.pem", self.folder / "bobKey.pem")
        with httpx.Client(
            verify=context, base_url=self.server.url(at), headers={"X-Mine": "1", "X-Forwarded-User": "root"}
        ) as client:
            for number in range(20):
                got = client.get(f"/b{number}", headers={"Remote-User": "root"})
                self.assertEqual(got.text, f"GET {at}/b{number} HTTP/1.1")
            self.assertEqual(client.post("/c", content=iter([b"abc", b"def"])).status_code, 200)
            self.assertEqual(client.head("/d").headers["content-length"], str(len(f"HEAD {at}/d HTTP/1.1")))
            self.assertEqual(client.get("/admin").status_code, 403)
        for request in self.recorder.requests:
            self.assertEqual((request.headers["x_client_name"], request.headers["x_mine"]), (["bob"], ["1"]))
            self.assertFalse({"remote_user", "x_forwarded_user"} & request.headers.keys())
        self.assertEqual(self.recorder.requests[-2].body, b"abcdef")
        self.assertEqual(len(self.recorder.requests), 23)
        self.assertEqual(len(self.recorder.connections), 1)
        self.assertEqual(self.server.stop(), 0)
        self.assert_quiet(self.server)


def by_h11(data: bytes) -> list[tuple[str, bytes]]:
    """Return the requests that h11 finds: their first lines, and their bodies."""
    found: list[tuple[str, bytes]] = []
    reader = h11.Connection(h11.SERVER)
    reader.receive_data(data)
    while (event := reader.next_event()) is not h11.NEED_DATA:
        if isinstance(event, h11.Request):
            line = b"%b %b HTTP/%b" % (event.method, event.target, event.http_version)
            found.append((line.decode("latin-1"), b""))
        elif isinstance(event, h11.Data):
            found[-1] = (found[-1][0], found[-1][1] + bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            reader.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
            reader.send(h11.EndOfMessage())
            if reader.our_state is h11.MUST_CLOSE:
                # It was asked to be the last one.
                return found if not reader.trailing_data[0] else [*found, ("more", b"")]
            reader.start_next_cycle()
    return found


def by_llhttp(data: bytes) -> list[tuple[str, bytes]]:
    """Return the same of llhttp."""
    found: list[tuple[str, bytes]] = []

    class Callbacks:
        target = b""

        def on_url(self, url: bytes) -> None:
            self.target += url

        def on_headers_complete(self) -> None:
            line = b"%b %b HTTP/%b" % (parser.get_method(), self.target, parser.get_http_version().encode())
            found.append((line.decode("latin-1"), b""))
            self.target = b""

        def on_body(self, body: bytes) -> None:
            found[-1] = (found[-1][0], found[-1][1] + body)

    parser = httptools.HttpRequestParser(Callbacks())
    parser.feed_data(data)
    return found
