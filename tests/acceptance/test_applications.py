"""docs/applications.md: each application that it shows, started as it shows, behind a real door."""

from __future__ import annotations

import os
import re
import shlex
import socket

from tests.acceptance.backends import Program
from tests.acceptance.harness import (
    BIN,
    AcceptanceTestCase,
    Server,
    poll,
    reserve_port,
    run,
    short_folder,
)
from tests.markdown import Block, blocks, page, section

PAGE = "docs/applications.md"
#: What somebody would send who would like to be alice, and one of her group.
SPOOFED = (
    *("X-Client-Name: alice", "x_client_name: alice", "X.Client.Name: alice", "Remote-User: alice", "X-Forwarded-User: alice"),
    *("X-Client-Groups: ops", "x_client_groups: ops", "X-Forwarded-For: 192.0.2.1", "X_Forwarded_Proto: http"),
    *("Connection: x-client-name, x-client-groups",),
)


#: Another address than the application's own.
FROM_AFAR = ("--interface", "127.0.0.2")
#: One more page for each, which answers with how the client came, and from where, as the application sees it.
SEEN = {
    "Django": """
urlpatterns += [path("seen", lambda request: HttpResponse(request.build_absolute_uri("/x")))]
""",
    "Flask": """
app.get("/seen")(lambda: f"{request.url_root}x {request.remote_addr}")
""",
    "FastAPI": """
from starlette.requests import Request
@app.get("/seen")
def seen(request: Request) -> str:
    return f"{request.base_url}x {request.client.host}"
""",
    "Express": """
app.get("/seen", (request, response) => response.send(`${request.protocol}://${request.host}/x ${request.ip}`));
""",
}


class ApplicationTestCase(AcceptanceTestCase):
    """Has alice, who is one of ops, and bob, who is not; and puts what the page shows where it says."""

    def setUp(self) -> None:
        super().setUp()
        self.alice = self.new_client("alice")
        self.bob = self.new_client("bob")
        self.run_folder = short_folder(self)
        self.ports: dict[str, str] = {}

    def here(self, text: str) -> str:
        """Return *text* with the ports and the folder of this test instead of the page's, which may be taken."""

        def port(found: re.Match[str]) -> str:
            return self.ports.setdefault(found[0], str(reserve_port(self)))

        return re.sub(r"\b80\d\d\b", port, text).replace("/run/site", str(self.run_folder))

    def blocks(self, heading: str) -> list[Block]:
        return blocks(section(page(PAGE), f"## {heading}"))

    def put(self, heading: str) -> list[str]:
        """Write the section's files and its configuration; return its commands."""
        (groups,) = (block for block in self.blocks("Who is in which group") if block.language == "toml")
        (*_, route) = (block for block in self.blocks(heading) if block.language == "toml")
        self.configure(groups, route)
        for block in self.blocks(heading):
            name = block.note.removeprefix("at the end of ")
            if block.language in ("python", "js"):
                path = self.folder / name
                before = path.read_text() if name != block.note else ""
                path.write_text(before + self.here(block.text))
                if name in ("mysite/urls.py", "app.py", "app.mjs"):
                    path.write_text(path.read_text() + SEEN[heading])
        return [self.here(line) for block in self.blocks(heading) if block.language == "sh" for line in block.lines]

    def configure(self, *of: Block) -> None:
        self.write(self.folder / "mtlsd.toml", "".join(self.here(block.text) for block in of).encode())
        checked = run([BIN / "mtlsd", "check", "mtlsd.toml"], cwd=self.folder)
        self.assertEqual((checked.returncode, checked.stderr), (0, ""))

    def application(self, line: str) -> None:
        """Start an application with the command *line*, and wait until it listens."""
        program, *arguments = shlex.split(line)
        # Of this suite's own environment, whatever the PATH is.
        here = str(BIN / program) if (BIN / program).exists() else program
        application = Program(self, [here, *arguments], PYTHONUNBUFFERED="1")

        def listens() -> bool:
            self.assertIsNone(application.process.poll(), "\n".join(application.said.lines))
            path = self.run_folder / "app.sock"
            tcp = [("127.0.0.1", int(port)) for port in self.ports.values()]
            kind, where = (socket.AF_INET, tcp[0]) if tcp else (socket.AF_UNIX, str(path))
            with socket.socket(kind) as probe:
                return probe.connect_ex(where) == 0

        poll(f"{line} listens", listens)

    def door(self) -> Server:
        return self.serve("--config", "mtlsd.toml")

    def ask(self, name: str, server: Server, path: str, *more: str) -> tuple[int, str]:
        """Return the status and the body of the answer."""
        pair = ("--cert", f"{name}Crt.pem", "--key", f"{name}Key.pem", "--cacert", "certs/serverCrt.pem")
        shown = self.curl(*pair, "-w", "\n%{http_code}", *more, server.url(path))
        self.assertEqual(shown.returncode, 0, shown.stderr)
        body, _, status = shown.stdout.rpartition("\n")
        return int(status), body

    def directly(self, path: str, *more: str) -> tuple[int, str]:
        """Ask the application around the door."""
        where = ["--unix-socket", str(self.run_folder / "app.sock")] if not self.ports else []
        (port,) = self.ports.values() or ["80"]
        shown = self.curl(*where, "-w", "\n%{http_code}", *more, f"http://localhost:{port}{path}")
        self.assertEqual(shown.returncode, 0, shown.stderr)
        body, _, status = shown.stdout.rpartition("\n")
        return int(status), body

    def assert_fails_closed(self, status: int) -> None:
        """Whoever comes without the door's word is nobody, and no error inside."""
        self.assertEqual(self.directly("/")[0], status)

    def assert_right(self, server: Server) -> None:
        """The application greets who is there, lets in the group, and believes nobody about himself."""
        self.assertEqual(self.ask("alice", server, "/"), (200, "Hello: alice\n"))
        self.assertEqual(self.ask("bob", server, "/"), (200, "Hello: bob\n"))
        self.assertEqual(self.ask("alice", server, "/ops"), (200, "alice may\n"))
        self.assertEqual(self.ask("bob", server, "/ops")[0], 403)
        for headers in (SPOOFED, *((header,) for header in SPOOFED)):
            more = [option for header in headers for option in ("-H", header)]
            self.assertEqual(self.ask("bob", server, "/", *more), (200, "Hello: bob\n"), headers)
            self.assertEqual(self.ask("bob", server, "/ops", *more)[0], 403, headers)
        # A right that is given and taken away, on the next request.
        config = self.folder / "mtlsd.toml"
        before = config.read_text()
        self.write(config, before.replace('["alice"]', '["bob"]').encode())
        poll("bob is one of ops", lambda: self.ask("bob", server, "/ops") == (200, "bob may\n"))
        self.assertEqual(self.ask("alice", server, "/ops")[0], 403)


class ApplicationsTests(ApplicationTestCase):
    def test_django(self) -> None:
        """Users of Django would log in with a name that anybody may write, or not at all."""
        made = run([BIN / "django-admin", "startproject", "mysite", "."], cwd=self.folder)
        self.assertEqual(made.returncode, 0, made.stderr)
        migrate, start = self.put("Django")
        self.assertEqual(migrate, "python manage.py migrate")
        migrated = run([BIN / "python", *migrate.split()[1:]], cwd=self.folder)
        self.assertEqual(migrated.returncode, 0, migrated.stderr)
        self.application(start)
        server = self.door()
        # A session is no way around the certificate.
        self.assertEqual(self.ask("alice", server, "/", "-c", "cookies"), (200, "Hello: alice\n"))
        self.assertIn("sessionid", (self.folder / "cookies").read_text())
        self.assertEqual(self.ask("bob", server, "/", "-b", "cookies"), (200, "Hello: bob\n"))
        self.assert_right(server)
        self.assertEqual(self.ask("alice", server, "/seen")[1], server.url("/x"))
        self.assert_fails_closed(302)
        # As large as RSA's and ML-DSA-65's, and as ML-DSA-87's.
        for size, status in ((7300, 302), (9900, 431)):
            self.assertEqual(self.directly("/", "-H", f"Client-Cert: {'A' * size}")[0], status)
        self.assertEqual(server.stop(), 0)
        self.assert_quiet(server)

    def test_flask(self) -> None:
        """Behind the door under waitress: the command, the route and the application belong together."""
        (start,) = self.put("Flask")
        self.application(start)
        server = self.door()
        self.assertEqual(self.ask("alice", server, "/certificate"), (200, "CN=alice\n"))
        self.assert_right(server)
        self.assertEqual(self.ask("alice", server, "/seen", *FROM_AFAR)[1], f"{server.url('/x')} 127.0.0.2")
        self.assert_fails_closed(400)
        self.assertEqual(server.stop(), 0)
        self.assert_quiet(server)

    def test_flask_in_the_doors_own_process(self) -> None:
        """The same application, unchanged, where it shares a process with the door."""
        self.put("Flask")
        (groups,) = (block for block in self.blocks("Who is in which group") if block.language == "toml")
        (route,) = (block for block in self.blocks("Flask") if block.note == "in the door's own process")
        self.configure(groups, route)
        server = self.door()
        self.assertEqual(self.ask("alice", server, "/certificate"), (200, "CN=alice\n"))
        self.assert_right(server)
        self.assertEqual(self.ask("alice", server, "/seen", *FROM_AFAR)[1], f"{server.url('/x')} 127.0.0.2")
        self.assertEqual(server.stop(), 0)
        self.assert_quiet(server)

    def test_fastapi(self) -> None:
        """The dependency is who the door says, for an ASGI application on a unix socket."""
        (start,) = self.put("FastAPI")
        self.application(start)
        server = self.door()
        self.assert_right(server)
        self.assertEqual(self.ask("alice", server, "/seen", *FROM_AFAR)[1], f"{server.url('/x')} 127.0.0.2")
        self.assert_fails_closed(422)
        self.assertEqual(server.stop(), 0)
        self.assert_quiet(server)

    def test_express(self) -> None:
        """An application that is not Python's is told the same."""
        modules = BIN.parent / "node" / "node_modules"
        self.assertTrue(modules.is_dir(), "Express is not here; to put it right: make test")
        os.symlink(modules, self.folder / "node_modules")
        (start,) = self.put("Express")
        self.application(start)
        server = self.door()
        self.assertEqual(self.ask("alice", server, "/certificate"), (200, "CN=alice\n"))
        self.assert_right(server)
        self.assertEqual(self.ask("alice", server, "/seen", *FROM_AFAR)[1], f"{server.url('/x')} 127.0.0.2")
        self.assert_fails_closed(400)
        self.assertEqual(server.stop(), 0)
        self.assert_quiet(server)

    def test_around_the_door(self) -> None:
        """Why an application must listen where only the door gets to: whoever gets around it is whoever he says."""
        (start,) = self.put("Flask")
        self.application(start)
        command, shown = self.blocks("Only through the door")[:2]
        (line,) = command.lines
        asked = run(shlex.split(self.here(line)), cwd=self.folder)
        self.assertEqual((asked.returncode, asked.stdout), (0, shown.text), asked.stderr)

    def test_the_door_is_asked_for_on_loopback_and_sockets_only(self) -> None:
        """A page that had people listen on every address would undo all that it says."""
        for heading in ("Django", "Flask", "FastAPI", "Express"):
            text = section(page(PAGE), f"## {heading}")
            self.assertRegex(text, r"127\.0\.0\.1|/run/site/app\.sock")
            self.assertNotIn("0.0.0.0", text)
