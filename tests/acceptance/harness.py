"""A real ``twistd mtlsd`` with a folder of its own, and the tools to look at it from outside.

Every wait has a deadline, and what was started is stopped by its own process id.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from twisted.trial.unittest import SynchronousTestCase

from tests.pki import Pair, make_pair, new_key

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
#: The command, installed or not.
MTLSD = (sys.executable, "-c", "from mtlsd.cli import main; main()")
#: Seconds for what has to happen, on a machine that is busy with other things: with a dozen, a start alone took 20.  Less than
#: the server's own deadlines of 60, so that what these cut is not taken for what should have been.
DEADLINE = 45.0
#: Seconds within which a change of the folder is promised to bite.
PROMISE = 1.0

_LISTENING = re.compile(r"listening on \S+:(\d+) for ")

T = TypeVar("T")


def poll(what: str, condition: Callable[[], T], within: float = DEADLINE) -> T:
    """Return the first true value of *condition*; fail, saying *what* did not happen, after *within* seconds."""
    end = time.monotonic() + within
    pause = threading.Event()
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"did not happen within {within} s: {what}")
        pause.wait(0.01)


def environment(**more: str) -> dict[str, str]:
    """Return an environment in which the checkout works, installed or not."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "LC_ALL": "C.UTF-8", **more}


def shell(line: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command line as a person types it, in *cwd*."""
    return subprocess.run(
        line, shell=True, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )


def command(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run ``mtlsd`` with *arguments*."""
    return run([*MTLSD, *arguments], cwd=cwd)


def run(arguments: Sequence[str | Path], cwd: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    return subprocess.run(
        [str(argument) for argument in arguments],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        errors="replace",
        timeout=60,
        input=stdin,
    )


def reserve_port(test: SynchronousTestCase) -> int:
    """Return a TCP port of loopback on which nobody listens, and which is *test*'s own until its end.

    It stays bound here, so the kernel gives it to nobody else: not to another listener, and not to a client as its own end,
    which could even come to talk to itself.  A server that sets SO_REUSEADDR, as all of them do, can listen on it.
    """
    held = socket.socket()
    test.addCleanup(held.close)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    port: int = held.getsockname()[1]
    return port


def short_folder(test: SynchronousTestCase) -> Path:
    """Return a folder for *test*'s unix sockets: their paths have 107 bytes at most, and trial's folders are long."""
    folder = Path(tempfile.mkdtemp(prefix="mtlsd-"))
    test.addCleanup(shutil.rmtree, folder)
    return folder


class Output:
    """What a process says, line by line, collected by a thread."""

    def __init__(self, stream: Any) -> None:
        self.lines: list[str] = []
        self._stream = stream
        self._news = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()

    def wait_for(self, pattern: str | re.Pattern[str], after: int = 0, within: float = DEADLINE) -> re.Match[str]:
        """Return the first match in a line from number *after* on."""
        end = time.monotonic() + within
        with self._news:
            while True:
                for line in self.lines[after:]:
                    found = re.search(pattern, line)
                    if found:
                        return found
                left = end - time.monotonic()
                if self._ended or left <= 0:
                    raise AssertionError(f"never said: {pattern!r}\n" + "\n".join(self.lines[-40:]))
                self._news.wait(left)

    def finish(self) -> None:
        """Wait until the process has closed its end."""
        self._thread.join(DEADLINE)
        self._stream.close()

    def _collect(self) -> None:
        for line in self._stream:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()


class Server:
    """A ``twistd -n mtlsd`` that listens."""

    def __init__(self, process: subprocess.Popen[str], audit: Path) -> None:
        self.process = process
        self.audit = audit
        self.log = Output(process.stdout)
        self.errors = Output(process.stderr)
        try:
            self.port = int(self.log.wait_for(_LISTENING)[1])
        except AssertionError as error:
            raise AssertionError(f"{error}\n" + "\n".join(self.errors.lines)) from None
        # What servers before this one wrote: each listens on another port, so the kernel hands out client ports anew.
        self._earlier = len(self.events("accepted", "rejected"))

    def url(self, path: str = "/hello") -> str:
        return f"https://localhost:{self.port}{path}"

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self) -> int:
        """Stop it as an operator does, and return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self, within: float = DEADLINE) -> int:
        """Wait for its end, and return its exit status."""
        status = self.process.wait(within)
        self.log.finish()
        self.errors.finish()
        return status

    def clean_up(self) -> None:
        """End it, whatever state it is in."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(DEADLINE)
                raise
            finally:
                self.log.finish()
                self.errors.finish()

    def descriptors(self) -> int:
        """Return how many file descriptors it has open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def sockets(self) -> int:
        """Return how many sockets it has open: unlike files, these do not come and go with a look at the folder."""
        folder, count = Path(f"/proc/{self.process.pid}/fd"), 0
        for entry in list(folder.iterdir()):
            try:
                count += os.readlink(entry).startswith("socket:")
            except FileNotFoundError:
                continue
        return count

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        """Return the events in the audit log so far (of *kinds* only, if given)."""
        return read_events(self.audit, *kinds)

    def wait_for_events(self, count: int, *kinds: str, within: float = DEADLINE) -> list[dict[str, Any]]:
        """Return the events once there are *count* of them."""

        def enough() -> list[dict[str, Any]]:
            found = self.events(*kinds)
            return found if len(found) >= count else []

        return poll(f"{count} events of {kinds or 'any kind'}; there are {self.events(*kinds)[-5:]}", enough, within)

    def verdict_on(self, own_port: int) -> dict[str, Any]:
        """Return the verdict on the connection that came from *own_port*.

        It may be written a moment after the client knows: what the client is told goes out first.
        """

        def found() -> dict[str, Any] | None:
            verdicts = self.events("accepted", "rejected")[self._earlier :]
            return next((event for event in reversed(verdicts) if event["peer"]["port"] == own_port), None)

        verdict = poll(f"a verdict on the connection from port {own_port}", found)
        assert verdict is not None
        return verdict


def port_in(log: Path) -> int:
    """Wait until a server's log file says which port it listens on, and return that."""
    found = poll(f"{log} says that it listens", lambda: _LISTENING.search(log.read_text()) if log.exists() else None)
    assert found is not None
    return int(found[1])


def read_events(path: Path, *kinds: str) -> list[dict[str, Any]]:
    """Return the events in an audit log; a line that is still being written is none yet."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    events = [json.loads(line) for line in lines]
    return [event for event in events if not kinds or event["event"] in kinds]


class AcceptanceTestCase(SynchronousTestCase):
    """Each test has a folder of its own, in which it starts what it needs."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).resolve()
        self.certs = self.folder / "certs"
        self.audit = self.folder / "audit.jsonl"
        (self.certs / "authorized").mkdir(parents=True)
        (self.certs / "revoked").mkdir()

    def put_server_pair(self, pair: Pair | None = None) -> Pair:
        """Put the server's pair in its place, the certificate last."""
        pair = pair or make_pair("localhost", key=new_key(), ca=False, hosts=["localhost"])
        self.write(self.certs / "serverKey.pem", pair.key_pem, 0o600)
        self.write(self.certs / "serverCrt.pem", pair.pem)
        return pair

    def write(self, path: Path, data: bytes, mode: int = 0o644) -> Path:
        """Write a file by way of a rename: nobody sees half of it."""
        fresh = self.folder / f".{path.name}.new"
        fresh.touch(mode=mode)
        fresh.write_bytes(data)
        fresh.chmod(mode)
        return fresh.replace(path)

    def authorize(self, name: str, *pairs: Pair) -> Path:
        """Authorize certificates under *name*, as ``mv`` does."""
        return self.write(self.certs / "authorized" / f"{name}.pem", b"".join(pair.pem for pair in pairs))

    def new_client(self, name: str = "alice", **options: Any) -> Pair:
        """Make a client's pair, authorize it, and leave its files in the test's folder."""
        pair = make_pair(name, **options)
        pair.write(self.folder, name)
        self.authorize(name, pair)
        return pair

    def arguments(self, *options: str | Path, twistd: Sequence[str] = ("-n", "--pidfile=")) -> list[str]:
        """Return the command line of a server on a free port of the loopback interface."""
        given = [str(option) for option in options]
        line = [str(BIN / "twistd"), *twistd, "mtlsd"]
        for option, default in (
            ("--port", "0"),
            ("--interface", "127.0.0.1"),
            ("--certs", str(self.certs)),
            ("--audit-log", str(self.audit)),
        ):
            if option not in given:
                line += [option, default]
        return line + given

    def serve(
        self,
        *options: str | Path,
        arguments: Sequence[str] | None = None,
        environ: Mapping[str, str] | None = None,
        descriptors: int | None = None,
    ) -> Server:
        """Start a server and wait until it listens.  It is stopped when the test is over.

        *arguments* are instead of :meth:`arguments`; *descriptors* is the hard limit of its file descriptors.
        """
        if not (self.certs / "serverKey.pem").exists():
            self.put_server_pair()
        line = list(arguments or self.arguments(*options))
        if descriptors is not None:
            line = ["sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh", *line]
        process = subprocess.Popen(
            line,
            cwd=self.folder,
            env=environment(**(environ or {})),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self.addCleanup(end, process)
        server = Server(process, self.audit)
        self.addCleanup(server.clean_up)
        return server

    def curl(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return run(["curl", "-sS", "--max-time", f"{DEADLINE:.0f}", *arguments], cwd=self.folder)

    def curl_as(self, name: str, server: Server, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run ``curl -ik`` for ``/hello`` with the pair that :meth:`tests.pki.Pair.write` has left in the folder."""
        return self.curl("-ik", "--cert", f"{name}Crt.pem", "--key", f"{name}Key.pem", *(arguments or (server.url(),)))

    def openssl(self, *arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return run(["openssl", *arguments], cwd=self.folder, stdin=stdin)

    def assert_verdicts(self, server: Server, *expected: str) -> list[dict[str, Any]]:
        """Stop *server*, and compare: one verdict a connection, with these reasons, and nothing else.

        The stop makes it exact: what would have come late has come by then.
        """
        server.wait_for_events(len(expected), "accepted", "rejected")
        self.assertEqual(server.stop(), 0)
        verdicts = server.events("accepted", "rejected")
        self.assertEqual(sorted(event["reason"] for event in verdicts), sorted(expected))
        self.assertEqual(len({event["connection"] for event in verdicts}), len(verdicts))
        for event in verdicts:
            self.assertEqual(event["event"] == "accepted", event["reason"] == "authorized", event)
        self.assert_quiet(server)
        return verdicts

    def assert_quiet(self, server: Server) -> None:
        """Nothing went wrong inside: no traceback in the log, nothing on standard error."""
        self.assertNotIn("Traceback", "\n".join(server.log.lines))
        self.assertEqual(server.errors.lines, [])


def end(process: subprocess.Popen[Any]) -> None:
    """Kill a process of ours if it still runs, which it does only where a test has failed."""
    if process.poll() is None:
        process.kill()
    process.wait(DEADLINE)
    for stream in (process.stdout, process.stderr):
        if stream is not None and not stream.closed:
            stream.close()
