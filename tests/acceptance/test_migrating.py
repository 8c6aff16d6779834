"""docs/migrating.md: the examples for nginx and Caddy, run beside ours and asked the same."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from mtlsd.identity import Certificate
from tests.acceptance.backends import Program
from tests.acceptance.harness import BIN, AcceptanceTestCase, Output, Server, environment, poll, reserve_port, run
from tests.markdown import Block, blocks, page, rows, section
from tests.pki import Pair, make_pair

PAGE = "docs/migrating.md"
#: Requests that all three answer the same: client, method, path, and the answer.
SAME = (
    ("alice", "GET", "/", "`/` at 8000"),
    ("bob", "GET", "/", "`/` at 8000"),
    ("bob", "GET", "/a/b?c=d", "`/a/b?c=d` at 8000"),
    ("alice", "POST", "/a%20b", "`/a%20b` at 8000"),
    ("alice", "DELETE", "/a", "`/a` at 8000"),
    ("alice", "GET", "/admin/users?all", "`/users?all` at 8001"),
    ("alice", "POST", "/admin/users", "`/users` at 8001"),
    ("bob", "GET", "/admin/users", "403"),
    ("bob", "POST", "/admin/", "403"),
    ("bob", "GET", "/files/a.txt", "`/srv/files/a.txt`"),
    ("alice", "GET", "/files/none", "404"),
)
#: What clients send, and what of it would be believed.
HEADERS = (
    "X-Client-Name",
    "X_Client_Name",
    "X-Client-Groups",
    "X-Remote-User",
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-Real-IP",
)


class Backend(BaseHTTPRequestHandler):
    """Answers with where it was asked for what, by whom, and with the headers as they came."""

    protocol_version = "HTTP/1.1"
    # It writes head and body one by one, and each body would wait 40 ms for an acknowledgement of its head.
    disable_nagle_algorithm = True
    server: Any

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        lines = [f"`{self.path}` at {self.server.known_as}", self.headers.get("X-Client-Name", "-")]
        body = "\n".join([*lines, *(f"{name}: {value}" for name, value in self.headers.items())]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_DELETE = answer

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


class MigratingTestCase(AcceptanceTestCase):
    """Has alice and bob, the applications, and a folder that the other servers' users may read."""

    def setUp(self) -> None:
        super().setUp()
        self.ours = {name: self.new_client(name) for name in ("alice", "bob")}
        self.put_server_pair()
        self.open = Path(tempfile.mkdtemp(prefix="mtlsd-"))
        self.addCleanup(shutil.rmtree, self.open)
        self.open.chmod(0o755)
        (self.open / "srv").mkdir()
        (self.open / "srv" / "a.txt").write_text("`/srv/files/a.txt`\n")
        self.ports = {"8000": self.backend("8000"), "8001": self.backend("8001")}
        (self.folder / "clients.pem").write_bytes(b"".join(pair.pem for pair in self.ours.values()))
        for name, pair in self.ours.items():
            (self.folder / f"{name}.pem").write_bytes(pair.pem)

    def backend(self, known_as: str) -> str:
        server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Backend)
        server.known_as, server.daemon_threads = known_as, True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        self.addCleanup(server.server_close)
        self.addCleanup(thread.join)
        self.addCleanup(server.shutdown)
        return str(server.server_port)

    def block(self, name: str) -> Block:
        (found,) = (block for block in blocks(page(PAGE)) if block.note == name)
        return found

    def put(self, name: str) -> str:
        """Write an example as it is, but for ports and folders that are another's here; return it."""
        text = re.sub(r"\b800[01]\b", lambda found: self.ports[found[0]], self.block(name).text)
        text = text.replace("/srv/files", str(self.open / "srv"))
        (self.folder / name).write_text(text)
        return text

    def start(self, program: str, *arguments: str) -> Output:
        found = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")
        assert found is not None, f"{program} is not here; to put it right: make peers"
        # Where Caddy keeps what it remembers.
        kept = {"XDG_DATA_HOME": str(self.open / "data"), "XDG_CONFIG_HOME": str(self.open / "config")}
        return Program(self, [found, *arguments], **kept).said

    def listens(self, url: str, said: Output) -> str:
        def answers() -> bool:
            return self.curl("-k", "-o", "/dev/null", "--cert", "aliceCrt.pem", "--key", "aliceKey.pem", url).returncode == 0

        try:
            poll(f"{url} answers", answers)
        except AssertionError as error:
            raise AssertionError(f"{error}\n" + "\n".join(said.lines)) from None
        return url

    def nginx(self) -> str:
        """Start the example for nginx, and return its address."""
        port = str(reserve_port(self))
        text = self.put("nginx.conf").replace("listen 443 ssl", f"listen 127.0.0.1:{port} ssl")
        # Where nginx may write, whoever runs it.
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"):
            text = text.replace("http {\n", f"http {{\n{kind}_temp_path {self.open}/{kind};\n", 1)
        (self.folder / "nginx.conf").write_text(text)
        globals_ = f"daemon off; pid {self.open}/pid; error_log stderr;"
        said = self.start("nginx", "-p", str(self.folder), "-c", "nginx.conf", "-e", "stderr", "-g", globals_)
        return self.listens(f"https://localhost:{port}", said)

    def caddy(self) -> str:
        """Start the example for Caddy, and return its address."""
        port = str(reserve_port(self))
        text = self.put("Caddyfile").replace("https://localhost:443 {", f"https://localhost:{port} {{\n\tbind 127.0.0.1")
        (self.folder / "Caddyfile").write_text(text)
        said = self.start("caddy", "run", "--config", "Caddyfile", "--adapter", "caddyfile")
        return self.listens(f"https://localhost:{port}", said)

    def mtlsd(self) -> str:
        """Start our example, and return its address."""
        self.put("mtlsd.toml")
        checked = run([BIN / "mtlsd", "check", "mtlsd.toml"], cwd=self.folder)
        self.assertEqual((checked.returncode, checked.stderr), (0, ""))
        self.server: Server = self.serve("--config", "mtlsd.toml")
        return self.server.url("")

    def ask(self, name: str, url: str, *more: str) -> tuple[str, str]:
        """Return the status, and what was answered."""
        pair = ("--cert", f"{name}Crt.pem", "--key", f"{name}Key.pem", "--cacert", "certs/serverCrt.pem")
        shown = self.curl(*pair, "--path-as-is", "-w", "\n%{http_code}", *more, url)
        body, _, status = shown.stdout.rpartition("\n")
        return status, body

    def answer(self, name: str, method: str, url: str) -> str:
        """Return where a request went, as the page says it, or the status that it was refused with."""
        # Over HTTP/2 Caddy may refuse a POST while curl still sends it, and curl then sometimes tells of no status at all.
        more = ("-d", "x", "--http1.1") if method == "POST" else ("-X", method)
        status, body = self.ask(name, url, *more)
        if status != "200":
            return status
        where, _, rest = body.partition("\n")
        if rest:
            self.assertEqual(rest.splitlines()[0], name, "the application was told of another client")
        return where

    def minted_by_alice(self) -> Pair:
        """Return a certificate for bob that alice has signed herself, for a key of hers."""
        minted = make_pair("bob", key="p384", issuer=self.ours["alice"])
        minted.write(self.folder, "minted")
        return minted


class ExamplesTests(MigratingTestCase):
    def assert_same_answers(self, theirs: str) -> None:
        ours = self.mtlsd()
        for name, method, path, expected in SAME:
            for door in (theirs, ours):
                self.assertEqual(self.answer(name, method, door + path), expected, (door, name, method, path))

    def assert_pool(self, theirs: str) -> None:
        """What the page says of certificates that an authorized client signs, and that nobody knows."""
        self.minted_by_alice()
        status, body = self.ask("minted", f"{theirs}/")
        self.assertEqual((status, body.splitlines()[1]), ("200", "bob"))
        self.assertEqual(self.ask("minted", f"{self.server.url('/')}"), ("000", ""))

    def test_nginx(self) -> None:
        """Whoever moves would find that the example for nginx and the one for mtlsd do not mean the same."""
        nginx = self.nginx()
        self.assert_same_answers(nginx)
        (self.folder / "large").write_bytes(bytes(2 << 20))
        for door in (nginx, self.server.url("")):
            self.assertEqual(self.ask("alice", f"{door}/a", "--data-binary", "@large")[0], "413", door)
        self.assert_pool(nginx)
        # Without a certificate: an answer from nginx, and none from us.
        self.assertEqual(self.curl("-k", "-o", "/dev/null", "-w", "%{http_code}", nginx).stdout, "400")
        self.assertEqual(self.curl("-k", "-o", "/dev/null", "-w", "%{http_code}", self.server.url("/")).stdout, "000")
        self.assertEqual(self.server.stop(), 0)
        self.assert_quiet(self.server)

    def test_caddy(self) -> None:
        """The same for who comes from Caddy."""
        caddy = self.caddy()
        self.assert_same_answers(caddy)
        self.assert_pool(caddy)
        self.assertEqual(self.curl("-k", "-o", "/dev/null", "-w", "%{http_code}", caddy).stdout, "000")
        self.assertEqual(self.server.stop(), 0)
        self.assert_quiet(self.server)

    def test_what_is_different_on_purpose(self) -> None:
        """The table is where people look for why a request is refused now: each of its cells has to be so."""
        doors = (self.nginx(), self.caddy(), self.mtlsd())
        table = [cells for cells in rows(section(page(PAGE), "## What is different on purpose")) if cells[0].count(" ") == 1]
        self.assertGreater(len(table), 10)
        for request, *shown in table:
            method, path = request.strip("`").split(" ")
            for door, cell in zip(doors, shown, strict=True):
                self.assertEqual(self.answer("alice", method, door + path), cell, (door, request))

    def test_what_becomes_of_headers(self) -> None:
        """Whoever relies on a header has to know who may write it."""
        doors = (self.nginx(), self.caddy(), self.mtlsd())
        table = {cells[0].strip("`"): cells[1:] for cells in rows(section(page(PAGE), "## What is different on purpose"))}
        for header in HEADERS:
            for door, cell in zip(doors, table[header], strict=True):
                _, body = self.ask("alice", f"{door}/", "-H", f"{header}: forged")
                found = [line.split(": ", 1)[1] for line in body.splitlines() if line.lower().startswith(f"{header.lower()}:")]
                became = {"taken out": [], "passed on": ["forged"]}
                if cell == "replaced":
                    self.assertTrue(found and "forged" not in "".join(found), (door, header, found))
                else:
                    self.assertEqual(found, became[cell], (door, header))


class MovingTests(MigratingTestCase):
    def import_clients(self) -> subprocess.CompletedProcess[str]:
        """Run the page's commands in a folder that has no clients yet."""
        shutil.rmtree(self.certs / "authorized")
        return self.script("import.sh")

    def script(self, name: str) -> subprocess.CompletedProcess[str]:
        """Run a script of the page."""
        (self.folder / name).write_text(self.block(name).text)
        path = f"{BIN}:{os.environ['PATH']}"
        return subprocess.run(
            ["sh", name], cwd=self.folder, env=environment(PATH=path), capture_output=True, text=True, timeout=60
        )

    def authorized(self) -> dict[str, str]:
        """Return the fingerprints of who is authorized, by name."""
        found = {}
        for path in (self.certs / "authorized").glob("*.pem"):
            (crt,) = re.findall(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", path.read_text(), re.DOTALL)
            (self.folder / "one.pem").write_text(crt)
            der = subprocess.run(
                ["openssl", "x509", "-outform", "DER", "-in", "one.pem"], cwd=self.folder, capture_output=True, check=True
            )
            found[path.stem] = Certificate.from_der(der.stdout).fingerprint
        return found

    def test_a_bundle(self) -> None:
        """Everybody in the bundle is taken over, also behind one that cannot be."""
        more = {"Carol Smith": make_pair("Carol Smith"), "weak": make_pair("weak", key="rsa1024"), "dave": make_pair("dave")}
        bundle = [*self.ours.values(), *more.values()]
        # As `openssl x509 -text` leaves them, with words in between.
        (self.folder / "clients.pem").write_bytes(b"Bag Attributes\n" + b"subject=CN = x\n\n".join(pair.pem for pair in bundle))
        done = self.import_clients()
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
        self.assertIn("mtlsd: clients.pem: certificate 4 (weak): refused: ", done.stderr)
        self.assertTrue(done.stdout.endswith("\n4 authorized, 0 there already, 1 refused\n"), done.stdout)
        expected = {**self.ours, "Carol_Smith": more["Carol Smith"], "dave": more["dave"]}
        self.assertEqual(self.authorized(), {name: pair.fingerprint for name, pair in expected.items()})

    def test_a_ca(self) -> None:
        """Whoever imports what nginx calls its clients would believe that they are in, where it is only who has issued them."""
        ca = make_pair("Some CA", key="p384")
        (self.folder / "clients.pem").write_bytes(ca.pem + make_pair("alice", issuer=ca, ca=False).pem)
        done = self.import_clients()
        self.assertEqual(done.returncode, 0)
        self.assertIn(f"warning: clients.pem: certificate 1: {ca.fingerprint[:16]} is a CA", done.stderr)

    def test_back(self) -> None:
        """Whoever is revoked here would still come in by the old door, and whoever is new would stay outside there."""
        self.new_client("carol")
        self.assertEqual(run([BIN / "mtlsd", "revoke", "carol"], cwd=self.folder).returncode, 0)
        (self.folder / "clients.pem").unlink()
        done = self.script("export.sh")
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "2 certificates in clients.pem\n", ""))
        nginx = self.nginx()
        for name, expected in (("alice", "`/` at 8000"), ("bob", "`/` at 8000"), ("carol", "400")):
            self.assertEqual(self.answer(name, "GET", f"{nginx}/"), expected)

    def test_those_that_nginx_has_seen(self) -> None:
        """With a CA in the bundle, nobody's own certificate is in it."""
        ca = make_pair("Some CA", key="p384")
        issued = {name: make_pair(name, issuer=ca, ca=False) for name in ("alice", "bob")}
        for name, pair in issued.items():
            pair.write(self.folder, name)
        (self.folder / "clients.pem").write_bytes(ca.pem)
        nginx = self.nginx()
        for name in ("alice", "bob", "alice"):
            self.assertEqual(self.answer(name, "GET", f"{nginx}/"), "`/` at 8000")
        self.curl("-k", nginx)
        log = self.folder / "certificates.log"
        poll("nginx has written it down", lambda: log.read_text().count("\n") >= 4)
        (self.folder / "collect.sh").write_text(self.block("collect.sh").text)
        done = run(["sh", "collect.sh"], cwd=self.folder)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        done = self.import_clients()
        self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)
        self.assertEqual(self.authorized(), {name: pair.fingerprint for name, pair in issued.items()})
        # And they are let in.
        ours = self.mtlsd()
        for name in issued:
            self.assertEqual(self.answer(name, "GET", f"{ours}/"), "`/` at 8000")
        self.assertEqual(self.server.stop(), 0)
