"""Plays the three scenes of enrolment on terminals of 80 columns, and writes down what a person sees: docs/scenes.md.

.venv/bin/python docs/scenes.py > docs/scenes.md          (make scenes)

A real server, the real command, curl and openssl, in a fresh folder.  What is another on every run is made the same on all:
each fingerprint and the invite's code by digits that are made up, in the order in which they are seen; times by how far they are
from the beginning, counted from noon on one day.  All else is as it was printed, broken at 80 columns as a terminal does it.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fcntl import ioctl
from pathlib import Path

BIN = Path(sys.executable).parent
WIDTH = 80
#: Seconds for one command, and for what a change may take to be seen.
PATIENCE = 30.0
#: The port of the issue and of the README.  Where somebody has it, another one is used, and written as this one.
PORT = 9443
#: The noon at which every performance begins.
NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)

_LISTENING = re.compile(rb"listening on \S+:(\d+) for ")
_PROMPTED = re.compile(rb"\[y/N\]: \Z")
# Each version of curl and OpenSSL has words of its own.
_CURLS = re.compile(r"^curl: \(56\) .*alert unknown ca.*$", re.MULTILINE)
_CURL = "curl: (56) OpenSSL SSL_read: error:0A000418:SSL routines::tlsv1 alert unknown ca, errno 0"
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

PAGE = """# The three scenes, as they look

What two people see who let each other in with mtlsd. `docs/scenes.py` has played this, with a real server and on real terminals of 80 columns, and
written it down; `make scenes` does so again, and a test looks whether it is still true. Only what is another on every run (fingerprints, the
invite's code, times) is replaced, always by the same.

The server runs already, with `--enrol on --renew on`, as `make serve` starts it. `server$` is whoever looks after it, in the folder that `certs/`
is in; `client$` is on another machine. [enrolment.md](enrolment.md) explains it all.

## Knock and approve

alice has made a pair with openssl, for 20 days. Nobody knows her, so she is refused. Her certificate was kept, and needs a yes. (`-k`, for
curl does not know this server's certificate, which is its own; with `--cacert`, or with a certificate that curl knows, it is not needed.)

{knock}

## Invite and join

bob has nothing yet. He gets one line, by a way that only he reads; it works once. No file is carried, and he knows the server before he says anything to it.

{join}

## Renew

By the client itself, as cron or a systemd timer has it done: a new pair, which the present one lets in. alice's certificate ends soon. bob's old one is
good for another hour, and not listed among those that end: he has gone on to the next.

{renew}
"""


@dataclass(frozen=True)
class Line:
    """Who types what, what is typed at its question, how it ends, and what has to be seen.

    A person takes a breath between two commands, in which the server sees a change, or keeps a knock: a line that ``shows``
    something is typed until it does.
    """

    who: str
    typed: str
    answer: str = ""
    status: int = 0
    shows: str = ""


SCENES = {
    "knock": (
        Line("client", "curl -k --cert clientCrt.pem --key clientKey.pem https://localhost:9443/hello", status=56),
        Line("server", "mtlsd pending", shows="CN=alice"),
        Line("server", "mtlsd approve {alice} --name alice", answer="y"),
        Line("client", "curl -k --cert clientCrt.pem --key clientKey.pem https://localhost:9443/hello", shows="Hello: alice"),
    ),
    "join": (
        Line("server", "mtlsd invite bob --group ops"),
        Line("client", "mtlsd join {line}"),
        Line("client", "curl --config ~/.config/mtlsd/localhost/curl https://localhost:9443/hello", shows="Hello: bob"),
    ),
    "renew": (
        Line("client", "mtlsd renew"),
        Line("server", "mtlsd clients --expiring 30d"),
        Line("server", "mtlsd clients", shows="replaced"),
        Line("server", "mtlsd history", shows="retired"),
    ),
}


class Terminal:
    """A terminal of a person who has a home of their own, and nothing of ours in it."""

    def __init__(self, home: Path) -> None:
        home.mkdir()
        self.home = home
        self._environment = {
            "HOME": str(home),
            "PATH": os.pathsep.join([str(BIN), os.environ.get("PATH", os.defpath)]),
            "TERM": "xterm",
            "LC_ALL": "C.UTF-8",
            # How the suite measures what its processes reach.
            **{name: value for name, value in os.environ.items() if name.startswith(("COVERAGE", "COV_", "PYTHON"))},
        }

    def type(self, line: str, answer: str = "") -> tuple[int, str]:
        """Give a shell a line, and return its exit status and what was on the screen; *answer* is typed at its question."""
        ours, theirs = pty.openpty()
        ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, WIDTH, 0, 0))
        process = subprocess.Popen(
            ["/bin/sh", "-c", line],
            cwd=self.home,
            env=self._environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        watchdog = threading.Timer(PATIENCE, process.kill)
        watchdog.start()
        said = b""
        try:
            while data := _read(ours):
                said += data
                if answer and _PROMPTED.search(said):
                    os.write(ours, f"{answer}\n".encode())
                    answer = ""
            status = process.wait()
        finally:
            watchdog.cancel()
            os.close(ours)
        return status, _ESCAPES.sub("", said.decode("utf-8", "replace").replace("\r", ""))


@dataclass
class Stage:
    """What every performance has the same: digits, dates, the port and the homes."""

    port: int
    homes: dict[Path, str]
    began: datetime
    actor: str
    _prints: list[str] = field(default_factory=list)

    def same(self, text: str) -> str:
        """Return *text* with what is another on every run made the same on all."""
        for home, name in self.homes.items():
            text = text.replace(str(home), name)
        text = re.sub(rf"\blocalhost:{self.port}\b", f"localhost:{PORT}", text)
        text = _CURLS.sub(_CURL, text)
        # A column that is as wide as who gives the commands here.
        wide = max(len(self.actor), len("ACTOR"))
        for cell, shown in ((self.actor, "ann"), ("mtlsd", "mtlsd"), ("ACTOR", "ACTOR")):
            text = re.sub(rf"(?<=  ){re.escape(cell)}(?: {{{wide - len(cell)}}}(?=  )|$)", f"{shown:5}", text, flags=re.MULTILINE)
        text = re.sub(
            r"(?<=/)[a-z2-7]{80}\b", lambda _: base64.b32encode(_digits("invite") + _digits("code")).decode()[:80].lower(), text
        )
        text = re.sub(r"\b(?:[0-9a-f]{64}|[0-9a-f]{16})\b", lambda found: self._print(found[0]), text)
        return re.sub(r"\b\d{4}-\d\d-\d\d(?:([ T])(\d\d:\d\d)(:\d\d(?:\.\d{3})?)?)?", self._time, text)

    def _print(self, digits: str) -> str:
        known = next((nth for nth, one in enumerate(self._prints) if one.startswith(digits) or digits.startswith(one)), None)
        if known is None:
            known = len(self._prints)
            self._prints.append(digits)
        elif len(digits) > len(self._prints[known]):
            self._prints[known] = digits
        return _digits(f"fingerprint {known}").hex()[: len(digits)]

    def _time(self, found: re.Match[str]) -> str:
        day = datetime.fromisoformat(found[0][:10]).replace(tzinfo=UTC)
        if found[1] is None:
            return f"{NOON + (day - self.began.replace(hour=0, minute=0, second=0, microsecond=0)):%Y-%m-%d}"
        shown = datetime.fromisoformat(f"{found[0][:10]} {found[2]}").replace(tzinfo=UTC)
        # A performance takes seconds; whatever is half an hour from its beginning was meant to be.
        away = round((shown - self.began) / timedelta(minutes=30)) * timedelta(minutes=30)
        return (NOON + away).strftime(f"%Y-%m-%d{found[1]}%H:%M") + re.sub(r"\d", "0", found[3] or "")


def perform() -> dict[str, str]:
    """Play the scenes, and return each as it was seen."""
    folder = Path(tempfile.mkdtemp(prefix="mtlsd-scenes-"))
    try:
        server, client = Terminal(folder / "server"), Terminal(folder / "client")
        _prepare(server, client)
        with _served(server.home) as port:
            stage = Stage(port, {client.home: "/home/bob", server.home: "/srv/mtlsd"}, datetime.now(UTC), _actor())
            seen: dict[str, str] = {}
            found: dict[str, str] = {}
            for name, lines in SCENES.items():
                parts = [_played(line, {"server": server, "client": client}, stage, found) for line in lines]
                seen[name] = "```text\n" + "\n".join(parts) + "```"
            return seen
    finally:
        shutil.rmtree(folder)


def _played(line: Line, people: dict[str, Terminal], stage: Stage, found: dict[str, str]) -> str:
    typed = line.typed.format_map(found)
    given = typed.replace(f"localhost:{PORT}", f"localhost:{stage.port}")
    if stage.port != PORT and typed.startswith("mtlsd invite "):
        given += f" --at localhost:{stage.port}"
    end = time.monotonic() + PATIENCE
    status, said = people[line.who].type(given, line.answer)
    while line.shows not in said and time.monotonic() < end:
        status, said = people[line.who].type(given, line.answer)
    if status != line.status or line.shows not in said:
        raise SystemExit(f"{line.who}$ {given}\nexit status {status}, {line.status} expected\n{said}")
    if listed := re.search(r"^([0-9a-f]{16})  .*CN=alice", said, re.MULTILINE):
        found["alice"] = listed[1]
    if invited := re.search(r"^mtlsd join (\S+)$", said, re.MULTILINE):
        found["line"] = invited[1]
    text = stage.same(f"{line.who}$ {typed}\n{said}")
    return "".join(f"{part.rstrip()}\n" for one in text.splitlines() for part in _broken(one.rstrip()))


def _broken(line: str) -> Iterator[str]:
    """Break a line where the terminal's edge is."""
    yield line[:WIDTH]
    for at in range(WIDTH, len(line), WIDTH):
        yield line[at : at + WIDTH]


def _prepare(server: Terminal, client: Terminal) -> None:
    """Make what is there before the curtain rises: the server's pair, for localhost only, and alice's."""
    (server.home / "certs").mkdir()
    make = "openssl req -nodes -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256"
    for who, line in (
        (
            server,
            f"{make} -keyout certs/serverKey.pem -out certs/serverCrt.pem -days 825 -subj /CN=localhost -addext subjectAltName=DNS:localhost",
        ),
        (server, "mtlsd init"),
        (client, f"{make} -keyout clientKey.pem -out clientCrt.pem -days 20 -subj /CN=alice"),
    ):
        status, said = who.type(line)
        if status:
            raise SystemExit(said)


@contextmanager
def _served(home: Path) -> Iterator[int]:
    """Run a server, and give its port."""
    for port in (PORT, 0):
        command = "twistd -n --pidfile= mtlsd --interface 127.0.0.1 --enrol on --renew on --port"
        process = subprocess.Popen(
            [f"{BIN}/{command.split(maxsplit=1)[0]}", *command.split()[1:], str(port)],
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        watchdog = threading.Timer(PATIENCE, process.kill)
        watchdog.start()
        try:
            assert process.stdout is not None
            said = b""
            for line in process.stdout:
                said += line
                if listening := _LISTENING.search(line):
                    break
            else:
                listening = None
            watchdog.cancel()
            if listening is not None:
                # Somebody has to read it, or it would stop one day.
                threading.Thread(target=process.stdout.read, daemon=True).start()
                yield int(listening[1])
                return
        finally:
            watchdog.cancel()
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE)
        if port == 0:
            raise SystemExit(said.decode("utf-8", "replace"))


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65_536)
    except OSError as error:
        if error.errno == errno.EIO:
            # How Linux says that nobody has the other end open any more.
            return b""
        raise


def _digits(of: str) -> bytes:
    return hashlib.sha256(of.encode()).digest()


def _actor() -> str:
    from mtlsd.cli.shared import login_user

    return login_user()


def written(play: Callable[[], dict[str, str]] = perform) -> str:
    """Return the page."""
    day = datetime.now(UTC).date()
    seen = play()
    if datetime.now(UTC).date() != day:
        # Over midnight, what is good for a year ends on another day than the rest.
        seen = play()
    return PAGE.format_map(seen)


if __name__ == "__main__":
    sys.stdout.write(written())
