"""Runs every command that README.md shows, in its order, in a fresh copy, and compares what is shown."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import shutil
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator
from fcntl import ioctl
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.acceptance.harness import DEADLINE, ROOT, Output, poll, reserve_port
from tests.markdown import Block, page
from tests.markdown import blocks as blocks_of

#: Seconds for `make serve` to install itself from nothing.
INSTALLING = 300.0
#: Seconds for one command; RSA-4096 may take a while.
COMMAND = 60.0
#: Commands that are not typed into the second terminal; what stands for them is in the tests named after them.
ELSEWHERE = ("apt-get install ", "make serve", "make test", "make check")
#: The comment above a block that is a file of the reader's.
FILE = re.compile(r"\w+\.(?:py|toml)")
#: What the README shows as a refusal: the command, and its exit status.
REFUSALS = {"curl -ik --cert badCrt.pem": 56, "curl -k --cert carolCrt.pem": 56, "mtlsd explain badCrt.pem": 1}


def blocks() -> list[Block]:
    """Return every fenced block of the page, in order."""
    return blocks_of(page("README.md"))


def commands() -> Iterator[tuple[str, list[str] | None]]:
    """Return each command, and what is shown of its output (``None``: nothing)."""
    found = blocks()
    for block, after in zip(found, [*found[1:], None], strict=True):
        if block.language == "sh":
            shown = after.lines if after is not None and after.language == "text" and not after.note else None
            # The output of a block is that of its last command; a text block further down is no output.
            if shown is not None and not follows_directly(block, after):
                shown = None
            for line in block.lines[:-1]:
                yield line, None
            yield block.lines[-1], shown


def follows_directly(block: Block, after: Block | None) -> bool:
    text = page("README.md")
    return after is not None and "\n".join(block.lines) + "\n```\n\n```text\n" + "\n".join(after.lines) in text


def pattern(lines: list[str]) -> re.Pattern[str]:
    """Return what matches the *lines* shown: ``…`` is anything in a line, and alone in a line any lines.

    Digits that are another's on every run (fingerprints, dates, ports, ids) are any digits.
    """
    parts = [r"(?:.*\n)*?" if line == "…" else ".+".join(map(re.escape, line.split("…"))) + r"[ ]*\n" for line in lines]
    text = "".join(parts)
    for digits, anything in (
        (r"[0-9a-f]{64}", "[0-9a-f]{64}"),
        (r"[0-9a-f]{16}\b", "[0-9a-f]{16}"),
        (r"\d{4}\\-\d\d\\-\d\d(?:T\d\d:\d\d:\d\d(?:\\\.\d{3})?)?", r"\d{4}-\d\d-\d\d[T0-9:.]*"),
        (r"(?<=\\ )\d\d:\d\d(?=\\ )", r"\d\d:\d\d"),
        (r"127\\\.0\\\.0\\\.1:\d+", r"\S+:\d+"),
        # In a table: localhost may be ::1, and the columns are as wide as what is in them.
        (r"127\\\.0\\\.0\\\.1(?=\\ )", r"\S+"),
        (r"(?:\\ ){2,}", "[ ]{2,}"),
        (r"\[[0-9a-f]{8}\\-\d+", r"[[0-9a-f]{8}-\d+"),
    ):
        text = re.sub(digits, lambda _, anything=anything: anything, text)  # type: ignore[misc]
    return re.compile(text)


def plain_environment() -> dict[str, str]:
    """Return the environment of a person at a fresh login: nothing of this suite, its venv, or its coverage."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("COVERAGE", "COV_", "PYTHON", "MAKE", "MFLAGS"))
    }
    kept.pop("VIRTUAL_ENV", None)
    paths = [path for path in kept["PATH"].split(os.pathsep) if not (Path(path).parent / "pyvenv.cfg").exists()]
    return {**kept, "PATH": os.pathsep.join(paths), "TERM": "xterm", "LC_ALL": "C.UTF-8"}


def copy_of_the_checkout(target: Path) -> None:
    """Copy what git would clone, and what is not committed yet."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


class Terminal:
    """A shell in a terminal of 100 columns: what it prints is what a person would see."""

    def __init__(self, folder: Path) -> None:
        ours, theirs = pty.openpty()
        ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        self._said = b""
        self._news = threading.Condition()
        self._terminal = ours
        self._shell = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            env=plain_environment(),
            stdin=subprocess.PIPE,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()

    def run(self, line: str) -> tuple[int, str]:
        """Run a line to its end, and return its exit status and what was printed."""
        with self._news:
            self._said = b""
        assert self._shell.stdin is not None
        self._shell.stdin.write(f"{{ {line}\n}} </dev/null; printf '\\001%d\\002' $?\n".encode())
        self._shell.stdin.flush()
        end = time.monotonic() + COMMAND
        with self._news:
            while not (found := re.search(rb"\A(.*)\x01(\d+)\x02\Z", self._said, re.DOTALL)):
                left = end - time.monotonic()
                assert left > 0, f"{line}: did not end within {COMMAND} s: {self._said!r}"
                self._news.wait(left)
        # A terminal adds carriage returns, and on one curl sets the names of headers in bold.
        return int(found[2]), re.sub("\r+(?=\n)|\x1b\\[[01]?m", "", found[1].decode("utf-8", "replace"))

    def close(self) -> None:
        """End the shell."""
        self._shell.communicate(timeout=DEADLINE)
        self._thread.join(DEADLINE)
        os.close(self._terminal)

    def _collect(self) -> None:
        while True:
            try:
                data = os.read(self._terminal, 65536)
            except OSError:
                # How Linux says that nobody has the other end open any more.
                return
            with self._news:
                self._said += data
                self._news.notify_all()


class ReadmeTests(SynchronousTestCase):
    def test_every_command_does_what_is_shown(self) -> None:
        """The first minute of a stranger: a line that does not work is the last one that is tried."""
        folder = Path(self.mktemp()).resolve()
        folder.mkdir()
        copy_of_the_checkout(folder)
        server = subprocess.Popen(
            ["make", "serve", "PORT=0"],
            cwd=folder,
            env=plain_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self.addCleanup(self.interrupt, server)
        log = Output(server.stdout)
        # The README's ports may be taken here.
        ports = {
            "9443": log.wait_for(r"listening on \S+:(\d+) for ", within=INSTALLING)[1],
            **{port: str(reserve_port(self)) for port in ("9444", "9445", "8000", "8001")},
        }
        terminal = Terminal(folder)
        self.addCleanup(terminal.close)
        daemons = ("mtlsd.pid", "routes.pid", "app.pid")
        for name in daemons:
            self.addCleanup(self.end_daemon, folder / name)

        def here(text: str) -> str:
            return re.sub(r"\b(?:944[345]|800[01])\b", lambda found: ports[found[0]], text)

        for block in blocks():
            if FILE.fullmatch(block.note):
                (folder / block.note).write_text(here(block.text))

        self.assertGreater(self.type_everything(terminal, here), 12)

        # The server's side of the story.
        said = "\n".join(log.lines) + "\n"
        for block in blocks():
            if block.note == "the server's log":
                for line in block.lines:
                    self.assertRegex(said, pattern([line]))
        for name in daemons:
            poll("the daemon ends", lambda name=name: not (folder / name).exists())  # type: ignore[misc]
        self.assertIn("Server Shut Down", (folder / "mtlsd.log").read_text())
        events = [json.loads(line) for line in (folder / "audit.jsonl").read_text().splitlines()]
        self.assertEqual([(event["event"], event["client"]) for event in events], [("accepted", "alice")])
        self.interrupt(server)
        self.assertNotIn("Traceback", "\n".join(log.lines))

    def type_everything(self, terminal: Terminal, here: Callable[[str], str]) -> int:
        """Type each command, with what *here* makes of it, and return how many there were."""
        count, knocked = 0, ""
        for line, shown in commands():
            if line.startswith(ELSEWHERE):
                continue
            count += 1
            # The page's fingerprint stands for the one that was listed here.
            typed = re.sub(r"\b[0-9a-f]{16}\b", knocked, line) if line.startswith("mtlsd approve ") else line
            said = self.do(terminal, here(typed), shown and [here(line) for line in shown])
            if line == "mtlsd pending":
                (knocked,) = re.findall(r"^[0-9a-f]{16}\b", said, re.MULTILINE)
        return count

    def do(self, terminal: Terminal, line: str, shown: list[str] | None) -> str:
        """Type *line*, compare, and return what it printed.

        What waits for the server (a change that it has to see, a knock that it has to keep) is tried again for as long as
        that may take.
        """
        expected = next((status for start, status in REFUSALS.items() if line.startswith(start)), 0)
        end = time.monotonic() + DEADLINE
        while True:
            status, said = terminal.run(line)
            good = status == expected and (shown is None or pattern(shown).fullmatch(said.rstrip() + "\n") is not None)
            if good or not line.startswith(("curl", "mtlsd pending", "mtlsd explain")) or time.monotonic() > end:
                break
        self.assertTrue(good, f"{line}\nexit status {status}, {expected} expected; it printed\n{said}\nthe README shows\n{shown}")
        return said

    def interrupt(self, server: subprocess.Popen[str]) -> None:
        """Stop `make serve` as Ctrl-C does."""
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGINT)
            server.wait(DEADLINE)
        if server.stdout is not None and not server.stdout.closed:
            server.stdout.close()

    def end_daemon(self, pidfile: Path) -> None:
        if pidfile.exists():
            os.kill(int(pidfile.read_text()), signal.SIGTERM)
            poll("the daemon ends", lambda: not pidfile.exists())


class ElsewhereTests(SynchronousTestCase):
    """What the README shows and the test above does not type."""

    def lines(self, start: str) -> list[str]:
        return [line for line, _ in commands() if line.startswith(start)]

    def test_the_first_line(self) -> None:
        """What the README has you install would not be all that `make` asks for."""
        first, *_ = commands()
        self.assertEqual(first, ("apt-get install git make python3-venv curl openssl", None))
        self.assertIn(f"apt := {first[0]}\n", (ROOT / "Makefile").read_text())

    def test_what_is_missing_is_named(self) -> None:
        """On a bare machine, `make serve` has to say what to install and not end in a riddle."""
        folder = Path(self.mktemp()).resolve()
        (folder / "bin").mkdir(parents=True)
        for tool in ("make", "sh", "sed", "git", "rm", "openssl"):
            os.symlink(shutil.which(tool) or "", folder / "bin" / tool)
        for name in ("Makefile", "setup.cfg", "pyproject.toml"):
            shutil.copy(ROOT / name, folder)
        found = subprocess.run(
            ["make", "serve"], cwd=folder, env={"PATH": str(folder / "bin")}, capture_output=True, text=True, timeout=COMMAND
        )
        self.assertEqual(found.returncode, 2)
        self.assertIn(
            "missing: curl python3-venv; to put it right: apt-get install git make python3-venv curl openssl\n", found.stderr
        )

    def test_make_serve_is_on_the_port_that_is_shown(self) -> None:
        """The test above takes another port, for this one may be taken; a person types what is shown."""
        self.assertEqual(self.lines("make serve"), ["make serve"])
        self.assertIn("\nPORT ?= 9443\n", (ROOT / "Makefile").read_text())
        self.assertIn("https://localhost:9443/hello", (ROOT / "README.md").read_text())

    def test_make_test_and_make_check_are_what_ci_runs(self) -> None:
        """A suite that nobody runs rots, and this one cannot run itself."""
        ci = (ROOT / ".ci" / "run").read_text().splitlines()
        for command in self.lines("make test") + self.lines("make check"):
            self.assertTrue(
                any(shlex.split(line, comments=True)[:2] == command.split() for line in ci if line.startswith("make")), command
            )
        self.assertEqual((len(self.lines("make test")), len(self.lines("make check"))), (1, 1))
        self.assertIn("set -euo pipefail", ci)

    def test_the_recipe_is_in_it_as_it_is(self) -> None:
        """The recipe is what people find elsewhere, and expect to work here."""
        shown = [" ".join(line.split()) for line, _ in commands()]
        for line in (
            "openssl req -nodes -x509 -newkey rsa:4096 -keyout clientKey.pem -out clientCrt.pem -days 365 -subj /CN=alice",
            "openssl req -nodes -x509 -newkey rsa:4096 -keyout badKey.pem -out badCrt.pem -days 365 -subj /CN=bad",
            "cp clientCrt.pem certs/authorized/alice.pem",
            "curl -ik --cert clientCrt.pem --key clientKey.pem https://localhost:9443/hello",
            "curl -ik --cert badCrt.pem --key badKey.pem https://localhost:9443/hello",
            "curl -i --cacert certs/serverCrt.pem --cert clientCrt.pem --key clientKey.pem https://localhost:9443/hello",
        ):
            self.assertIn(line, shown)

    def test_the_code_that_is_shown_compiles(self) -> None:
        """The first resource is copied from here."""
        (block,) = [block for block in blocks() if block.language == "python" and not block.note]
        names: dict[str, object] = {}
        exec(compile("\n".join(block.lines), "README.md", "exec"), names)
        self.assertTrue(callable(names["identity"]))

    def test_every_block_is_known(self) -> None:
        """A block in a language that no test looks at would be a promise that nobody keeps."""
        self.assertEqual({block.language for block in blocks()}, {"sh", "text", "json", "python", "toml"})
