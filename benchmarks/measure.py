"""What is measured, and with what: processes on a core of their own, the kernel's figures of them, and the load client."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

HERE = Path(__file__).resolve().parent
SERVER_CORE, CLIENT_CORE = 0, 1
#: Seconds for a server to come up, and for one to go away before it is killed.
START_LIMIT, STOP_LIMIT = 30.0, 10.0
#: Seconds for the load client to prepare, and past its own time to finish: more than it takes for itself.
LOAD_LIMIT = 90.0

_TICKS = os.sysconf("SC_CLK_TCK")
_BLOCK = bytes(1 << 20)


class Failed(Exception):
    """A server or the load client did not do what it should; the text says what."""


def _parents() -> dict[int, int]:
    found = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                found[int(entry.name)] = int(_stat(int(entry.name))[1])
    return found


def _stat(process: int) -> list[str]:
    """Return the fields after the name, which may hold blanks and brackets."""
    return Path(f"/proc/{process}/stat").read_text("latin-1").rsplit(")", 1)[1].split()


def family(process: int) -> list[int]:
    """Return *process* and all that descend from it."""
    parents = _parents()
    found = [process]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def _since(process: int) -> str:
    """Return when a process was started, in ticks; empty when it is gone."""
    try:
        return _stat(process)[19]
    except OSError:
        return ""


def cpu_seconds(process: int) -> float:
    """Return the CPU time, user and system, that a process and its descendants have used, those that have ended too."""
    ticks = 0
    for one in family(process):
        with contextlib.suppress(OSError):
            ticks += sum(map(int, _stat(one)[11:15]))
    return ticks / _TICKS


def memory_kib(process: int) -> int:
    """Return the proportional set size of a process and its descendants: what is shared is counted once."""
    total = 0
    for one in family(process):
        with contextlib.suppress(OSError):
            found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{one}/smaps_rollup").read_text(), re.MULTILINE)
            total += int(found[1]) if found else 0
    return total


def hash_loop() -> float:
    """Return the seconds that a fixed piece of work takes now on the server's core."""
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {SERVER_CORE})
    try:
        took = []
        for _ in range(3):
            began = time.perf_counter()
            for _ in range(10):
                hashlib.sha256(_BLOCK).digest()
            took.append(time.perf_counter() - began)
        return min(took)
    finally:
        os.sched_setaffinity(0, mine)


class Pace:
    """The machine's, by the fixed loop: a run beside which it was slow is not one to keep."""

    def __init__(self) -> None:
        self._best = min(hash_loop() for _ in range(10))

    def slowness(self) -> float:
        """Return how many times slower the loop is now than at its best so far."""
        took = hash_loop()
        self._best = min(self._best, took)
        return took / self._best


class Process:
    """A server on its core, with what it says in a file."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        port: int,
        folder: Path,
        core: int = SERVER_CORE,
    ) -> None:
        self.name, self.port = name, port
        self._said = folder / f"{name}-{port}.out"
        with self._said.open("wb") as out:
            self._process = subprocess.Popen(
                ["taskset", "--cpu-list", str(core), *command],
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=folder,
            )
        self.id = self._process.pid

    def wait_until_up(self) -> None:
        end = time.monotonic() + START_LIMIT
        while time.monotonic() < end:
            if self._process.poll() is not None:
                break
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            time.sleep(0.02)
        raise Failed(f"{self.name} did not start: {self.last_words()}")

    def last_words(self) -> str:
        return self._said.read_text(errors="replace")[-800:].strip()

    def stop(self) -> None:
        """End it and its descendants, each by its own id."""
        everyone = {(one, _since(one)) for one in family(self.id)}
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_LIMIT)
        for one, since in everyone:
            # An id that has become free may be anybody's by now; the time of its start tells.
            if since and _since(one) == since:
                with contextlib.suppress(OSError):
                    os.kill(one, signal.SIGKILL)
        self._process.wait(STOP_LIMIT)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, in PEM."""

    cert: Path
    key: Path


class Load:
    """One run of the load client: prepared when this is made, and ended when its block ends."""

    def __init__(self, program: Path, port: int, mode: str, client: Pair, *more: object, nice: int = 0) -> None:
        command = [program, "-p", port, "-m", mode, "-c", client.cert, "-k", client.key, *more]
        self._process = subprocess.Popen(
            ["nice", "-n", str(nice), "taskset", "--cpu-list", str(CLIENT_CORE), *map(str, command)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stderr is not None
        # It says something within its own time, and ends by itself: no read of these waits for ever.
        if self._process.stderr.readline().strip() != "ready":
            said = self._process.communicate(timeout=LOAD_LIMIT)
            raise Failed(f"the load client, {mode}: {''.join(said).strip()[-300:]}")

    def go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def result(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Failed("the load client said nothing")
        result: dict[str, Any] = json.loads(line)
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(LOAD_LIMIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._process.stderr.close()


def steady(pace: Pace, measure: Callable[[], dict[str, Any]], retries: int) -> dict[str, Any]:
    """Return what *measure* returns, from a run beside which the machine was not slow; the calmest one, if none was."""
    best: dict[str, Any] | None = None
    for _ in range(retries + 1):
        before = pace.slowness()
        run = measure()
        run["slowness"] = round(max(before, pace.slowness()), 3)
        if best is None or run["slowness"] < best["slowness"]:
            best = run
        if best["slowness"] < 1.15:
            break
    assert best is not None
    return best


def build_load(folder: Path) -> Path:
    """Compile the load client into *folder*."""
    program = folder / "load"
    subprocess.run(
        ["gcc", "-O2", "-Wall", "-Wextra", "-o", program, HERE / "load.c", "-lssl", "-lcrypto"], check=True, timeout=120
    )
    return program
