"""Trailers, for real: bytes at both ends, a server and a client that people have, and a server that leaves them unread."""

from __future__ import annotations

import shutil
import socket

from tests.acceptance.backends import Backend, Reader, Recorder, ScriptedServer, answer
from tests.acceptance.harness import AcceptanceTestCase, Server
from tests.acceptance.peers import TlsClient

CONFIG = """
[[route]]
path = "/"
allow = ["*"]
strip = ["X-Tenant"]
upstream = "http://127.0.0.1:{port}"
[[route]]
path = "/private"
allow = ["carol"]
upstream = "http://127.0.0.1:{port}"
"""
UPLOAD = b"POST /up HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n%b\r\n3\r\nabc\r\n0\r\n%b\r\n"
#: Answers with the trailers that it has got, as a trailer of its own.
NODE = """
const server = require("http").createServer((request, response) => {
    let body = "";
    request.on("data", (piece) => { body += piece; });
    request.on("end", () => {
        response.setHeader("Trailer", "X-Got, X-Takes, Set-Cookie");
        response.write(body);
        response.addTrailers({
            "X-Got": JSON.stringify(request.trailers), "X-Takes": request.headers.te || "none", "X-More": "1", "Set-Cookie": "a=b",
        });
        response.end();
    });
});
server.listen(0, "127.0.0.1", () => console.log(`listening on ${server.address().port}`));
"""


class TrailersTests(AcceptanceTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.alice = self.new_client("alice")

    def start(self, port: int) -> Server:
        self.write(self.folder / "mtlsd.toml", CONFIG.format(port=port).encode())
        return self.serve("--config", "mtlsd.toml")

    def connect(self, server: Server) -> TlsClient:
        client = TlsClient(server.port, self.alice)
        self.addCleanup(client.close)
        return client.handshake()

    def ends_well(self, server: Server, client: TlsClient) -> None:
        # The stop waits for clients that do not answer its goodbye.
        client.close()
        self.assertEqual(server.stop(), 0)
        self.assert_quiet(server)

    def until(self, client: TlsClient, mark: bytes) -> bytes:
        data = b""
        while not data.endswith(mark):
            data += client.receive()
        return data

    def test_bytes_of_requests(self) -> None:
        """A server would see what was not announced, or what only the door may say; or nothing of what it has asked for."""
        recorder = Recorder()
        self.addCleanup(recorder.server.stop)
        server = self.start(recorder.port)
        client = self.connect(server)
        forged = b"X_Client_Name: root\r\nx.tenant: root\r\nHost: evil\r\nCookie: a=b\r\nContent-Type: x/y\r\nX-Hop: 1\r\nX-Other: 1\r\n"
        named = (
            b"Trailer: X-T, X_Client_Name, x.tenant, Host, Cookie, Content-Type, X-Hop, Content-Digest\r\nConnection: X-Hop\r\n"
        )
        # In one piece, and byte by byte.
        data = UPLOAD % (named, b"x-t: 1\r\n" + forged + b"Content-Digest: sha-256=:x:\r\nX-T: \xe9 2\r\n")
        client.send(data)
        self.assertEqual(client.response().status, 200)
        for at in range(len(data)):
            client.send(data[at : at + 1])
        self.assertEqual(client.response().status, 200)
        # Without any, the connection to the server is kept.
        for _ in range(2):
            client.send(UPLOAD % (b"", b"X-T: 1\r\n"))
            self.assertEqual(client.response().status, 200)
        self.assertEqual([raw.count(b"POST /up HTTP/1.1\r\n") for raw in recorder.connections], [1, 1, 2])
        for raw in recorder.connections[:2]:
            head, _, body = bytes(raw).partition(b"\r\n\r\n")
            self.assertIn(b"\r\nTrailer: X-T, Content-Digest\r\nConnection: close\r\n", head)
            self.assertIn(body.partition(b"0\r\n")[0], (b"3\r\nabc\r\n", b"1\r\na\r\n1\r\nb\r\n1\r\nc\r\n"))
            self.assertEqual(body.partition(b"\r\n0\r\n")[2], b"X-T: 1\r\nX-T: \xe9 2\r\nContent-Digest: sha-256=:x:\r\n\r\n")
        self.assertNotIn(b"railer", recorder.connections[2])
        for request in recorder.requests:
            self.assertEqual((request.headers["x_client_name"], request.headers["host"]), (["alice"], ["h"]))
            self.assertFalse({"x_tenant", "cookie", "content_type", "x_hop", "x_other"} & request.headers.keys())
        self.ends_well(server, client)

    def test_bytes_of_answers(self) -> None:
        """A client would get trailers that it cannot take, or a cookie behind the body that no rule of its own has seen."""
        body = b"2\r\nhi\r\n0\r\nX-T: 1\r\nset_cookie: a=b\r\nX-Hop: 1\r\nX-Other: 1\r\nServer-Timing: db;dur=53\r\n\r\n"
        said = b"Trailer: x-t, set_cookie, X-Hop, Server-Timing\r\nConnection: X-Hop\r\nTransfer-Encoding: chunked\r\n"
        asked: list[str] = []

        def script(connection: socket.socket, number: int) -> None:
            reader = Reader(connection)
            while (request := reader.request()) is not None:
                asked.append(f"{request.headers.get('te')} {request.headers.get('connection')}")
                connection.sendall(b"HTTP/1.1 200 OK\r\n" + said + b"\r\n")
                size = 1 if request.line.startswith("GET /slow ") else len(body)
                for at in range(0, len(body), size):
                    connection.sendall(body[at : at + size])

        backend = ScriptedServer(script)
        self.addCleanup(backend.stop)
        server = self.start(backend.port)
        client = self.connect(server)
        for path in ("/x", "/slow"):
            client.send(f"GET {path} HTTP/1.1\r\nHost: h\r\nTE: trailers\r\n\r\n".encode())
            head, _, rest = self.until(client, b"dur=53\r\n\r\n").partition(b"\r\n\r\n")
            self.assertIn(b"Trailer: x-t, Server-Timing", head.split(b"\r\n"))
            self.assertTrue(rest.endswith(b"hi\r\n0\r\nX-T: 1\r\nServer-Timing: db;dur=53\r\n\r\n"), rest)
            client.send(f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
            head, _, rest = self.until(client, b"0\r\n\r\n").partition(b"\r\n\r\n")
            self.assertNotIn(b"railer", head)
        self.assertEqual(asked, ["['trailers'] ['TE']", "None None"] * 2)
        self.assertEqual(backend.count, 1)
        old = self.connect(server)
        old.send(b"GET /x HTTP/1.0\r\nHost: h\r\nTE: trailers\r\n\r\n")
        self.assertTrue(old.to_the_end().endswith(b"\r\n\r\nhi"))
        self.ends_well(server, client)

    def test_a_server_that_leaves_them_unread(self) -> None:
        """It would take them for a request, of a client that may not ask for that (CVE-2023-41419)."""
        lines: list[bytes] = []

        def script(connection: socket.socket, number: int) -> None:
            reader = Reader(connection)
            while head := reader.until(b"\r\n\r\n"):
                lines.append(head.partition(b"\r\n")[0])
                if b"\r\nTransfer-Encoding: chunked\r\n" in head:
                    reader.until(b"\r\n0\r\n")
                connection.sendall(answer(b"hi"))
                if b"\r\nConnection: close\r\n" in head:
                    return

        backend = ScriptedServer(script)
        self.addCleanup(backend.stop)
        server = self.start(backend.port)
        client = self.connect(server)
        for trailer in (b"GET: /private HTTP/1.1\r\nX: y\r\n", b"X: GET /private HTTP/1.1\r\nX: y\r\n"):
            client.send(UPLOAD % (b"Trailer: GET, X\r\n", trailer))
            self.assertEqual(client.response().body, b"hi")
            self.assertEqual(client.ask("/after").body, b"hi")
        self.assertEqual(lines, [b"POST /up HTTP/1.1", b"GET /after HTTP/1.1"] * 2)
        self.ends_well(server, client)

    def test_node_and_curl(self) -> None:
        """A server and a client that people have would not understand what goes out."""
        node = shutil.which("node")
        if node is None:
            raise AssertionError("node is missing; to put it right: apt-get install nodejs")
        program = Backend(self, "node", [node, "-e", NODE], r"listening on (\d+)")
        server = self.start(program.port)
        client = self.connect(server)
        client.send(UPLOAD % (b"TE: trailers\r\nTrailer: X-T, X-Client-Name\r\n", b"X-T: 1\r\nX-Client-Name: root\r\n"))
        data = self.until(client, b"X-Takes: trailers\r\n\r\n")
        self.assertIn(b"\r\nTrailer: X-Got, X-Takes\r\n", data)
        self.assertTrue(data.endswith(b'3\r\nabc\r\n0\r\nX-Got: {"x-t":"1"}\r\nX-Takes: trailers\r\n\r\n'), data)
        shown = self.curl_as("alice", server, "-H", "TE: trailers", "-d", "abc", server.url("/x"))
        head, _, rest = shown.stdout.partition("\n\n")
        self.assertIn("Trailer: X-Got, X-Takes", head)
        self.assertEqual(rest, "abcX-Got: {}\nX-Takes: trailers\n")
        shown = self.curl_as("alice", server, "-d", "abc", server.url("/x"))
        self.assertEqual(("railer" in shown.stdout, shown.stdout.partition("\n\n")[2]), (False, "abc"))
        self.ends_well(server, client)
