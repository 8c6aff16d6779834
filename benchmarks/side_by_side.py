"""What an operation costs the server: mtlsd beside others, in one run.

.venv/bin/python benchmarks/side_by_side.py [--servers mtlsd,nginx,...] [--rows ec-keep,ec-full,...] [--logs off,on] [--rounds 5] [--out FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import CLIENT_CORE, Failed, Load, Pace, Pair, Process, build_load, cpu_seconds, memory_kib, steady
from peers import PEERS, Place, Tools, make_files, make_pairs, plain_backend, surroundings

_FIRST_PORT = 19100
#: Idle connections whose memory is looked at, and seconds that a server has to put its house in order before it is looked at.
_IDLE, _SETTLE = 2000, 2.0


@dataclass(frozen=True)
class Row:
    """A workload: the kind of key, and what the load client is told."""

    title: str
    kind: str
    mode: str
    more: tuple[object, ...] = ()


ROWS = {
    # First, while the memory of the servers is in the order in which they started.
    "ec-idle": Row("memory for an idle connection", "ec", "idle", ("-n", _IDLE)),
    "ec-keep": Row("keep-alive GET /hello", "ec", "keep", ("-n", 16)),
    "ec-full": Row("full handshake, GET, close", "ec", "full", ("-n", 16)),
    "rsa-full": Row("the same, RSA-4096", "rsa", "full", ("-n", 16)),
    "ec-resume": Row("resumed handshake, GET, close", "ec", "resume", ("-n", 16)),
    "ec-1m": Row("1 MiB from a file", "ec", "body", ("-n", 4, "-u", "/files/1m")),
    "ec-100m": Row("100 MiB from a file", "ec", "body", ("-n", 1, "-u", "/files/100m")),
}


class Fleet:
    """The servers of one kind of key, all up together, so that a slow spell of the machine hits neighbours alike."""

    def __init__(
        self,
        names: list[str],
        kind: str,
        log: str,
        pairs: dict[tuple[str, str], Pair],
        files: Path,
        tools: Tools,
        *,
        proxied: bool,
    ) -> None:
        self._client = pairs[kind, "client"]
        self.servers: dict[str, Process] = {}
        self._backend: Process | None = None
        backend = None
        if proxied:
            backend, folder = next(_PORTS), tools.built / f"backend-{kind}-{log}"
            folder.mkdir()
            start = plain_backend(tools, folder, backend, files)
            # On the client's core, and not counted.
            self._backend = Process("backend", start.command, start.environment, backend, folder, CLIENT_CORE)
        for name, port in zip(names, _PORTS, strict=False):
            folder = tools.built / f"{name}-{kind}-{log}"
            folder.mkdir()
            access_log = folder / "access.log" if log == "on" else None
            place = Place(folder, port, pairs[kind, "server"], self._client, files, access_log, tools, backend)
            start = PEERS[name].start(place)
            self.servers[name] = Process(name, start.command, start.environment, port, folder)

    def wait_until_up(self) -> None:
        for server in filter(None, [self._backend, *self.servers.values()]):
            server.wait_until_up()

    def stop(self) -> None:
        for server in filter(None, [*self.servers.values(), self._backend]):
            server.stop()

    def run(self, name: str, row: Row, load: Path, seconds: float) -> dict[str, Any]:
        """Return one run of the load client: ``value`` is microseconds of CPU for an operation, or KiB for a connection."""
        server = self.servers[name]
        if row.mode == "idle":
            return self._idle(server, row, load)
        with Load(load, server.port, row.mode, self._client, "-t", seconds, *row.more) as client:
            before, began = cpu_seconds(server.id), time.monotonic()
            client.go()
            result = client.result()
            used, took = cpu_seconds(server.id) - before, time.monotonic() - began
        if result["errors"] or not result["ops"]:
            raise Failed(f"{name}, {row.title}: {result['errors']} errors, {result['first_error']}")
        if row.mode == "resume" and result["resumed"] < result["ops"]:
            raise Failed(f"{name} resumed {result['resumed']} of {result['ops']}")
        return {"value": used / result["ops"] * 1e6, "busy": round(used / took, 2), **result}

    def _idle(self, server: Process, row: Row, load: Path) -> dict[str, Any]:
        # What a first crowd leaves allocated is not what a connection needs.
        with Load(load, server.port, "idle", self._client, "-n", 50):
            pass
        time.sleep(_SETTLE)
        before = memory_kib(server.id)
        with Load(load, server.port, "idle", self._client, *row.more):
            time.sleep(_SETTLE)
            after = memory_kib(server.id)
        return {"value": (after - before) / _IDLE, "slowness": 1.0}


_PORTS = itertools.count(_FIRST_PORT)


def measure(arguments: argparse.Namespace, tools: Tools) -> dict[str, Any]:
    """Measure what is asked for; what fails is said and left out."""
    versions = {name: PEERS[name].version(tools) for name in arguments.servers}
    for name in [name for name, version in versions.items() if version is None]:
        print(f"{name} is not installed here, and is left out", file=sys.stderr)
    names = [name for name, version in versions.items() if version is not None]
    pairs, files = make_pairs(tools.built), make_files(tools.built / "files")
    load, pace = build_load(tools.built), Pace()
    runs: dict[str, dict[str, dict[str, list[Any]]]] = {}
    for log, kind in itertools.product(arguments.logs, ("ec", "rsa")):
        rows = [row for row in arguments.rows if ROWS[row].kind == kind]
        if not rows:
            continue
        fleet = Fleet(names, kind, log, pairs, files, tools, proxied=arguments.proxied)
        try:
            fleet.wait_until_up()
            for row, number, name in itertools.product(rows, range(arguments.rounds), names):
                kept = runs.setdefault(log, {}).setdefault(row, {}).setdefault(name, [])
                if ROWS[row].mode == "idle" and number:
                    continue
                print(f"\rlogs {log}, {row}, round {number + 1}, {name:10}", end="", file=sys.stderr, flush=True)
                try:
                    once = functools.partial(fleet.run, name, ROWS[row], load, arguments.seconds)
                    # Memory that was once allocated is there a second time, and a slow machine needs no more of it.
                    kept.append(once() if ROWS[row].mode == "idle" else steady(pace, once, arguments.retries))
                except Failed as error:
                    print(f"\n{error}\n{fleet.servers[name].last_words()[-300:]}", file=sys.stderr)
        finally:
            fleet.stop()
    print("\r" + " " * 60 + "\r", end="", file=sys.stderr)
    made = {"servers": {name: versions[name] for name in names}, "surroundings": surroundings(tools)}
    return {**made, "date": time.strftime("%Y-%m-%d", time.gmtime()), "rounds": arguments.rounds, "runs": runs}


def table(result: dict[str, Any], log: str) -> list[str]:
    """Return the lines of a table in Markdown: medians, and how many times nginx's each is."""
    names = list(result["servers"])
    lines = [f"| access logs {log} | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for row, by_server in result["runs"][log].items():
        unit = "KiB" if ROWS[row].mode == "idle" else "µs"
        medians = {name: statistics.median(run["value"] for run in runs) for name, runs in by_server.items() if runs}
        cells = []
        for name in names:
            if name not in medians:
                cells.append("-")
                continue
            ratio = f" ({medians[name] / medians['nginx']:.2f} x)" if medians.get("nginx") and name != "nginx" else ""
            cells.append(f"{medians[name]:,.0f}{ratio}" if medians[name] >= 100 else f"{medians[name]:.1f}{ratio}")
        lines.append(f"| {ROWS[row].title}, {unit} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Measure, print, and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", type=lambda text: text.split(","), default=list(PEERS))
    parser.add_argument("--rows", type=lambda text: text.split(","), default=list(ROWS))
    parser.add_argument("--logs", type=lambda text: text.split(","), default=["off", "on"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--retries", type=int, default=2, help="of a run beside which the machine was slow")
    parser.add_argument("--proxied", action="store_true", help="with requests passed on to a plain nginx: mtlsd and nginx only")
    parser.add_argument("--peers", type=Path, default=Path(__file__).resolve().parent.parent / ".venv" / "peers")
    parser.add_argument("--out", type=Path, help="file for all that was measured, in JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder)
        # A server that gives up root reads the files still.
        built.chmod(0o755)
        with contextlib.suppress(KeyboardInterrupt):
            result = measure(arguments, Tools(arguments.peers, built))
            print(f"{result['date']}: " + ", ".join(f"{name} {version}" for name, version in result["servers"].items()))
            print(*(f"{name}: {version}" for name, version in result["surroundings"].items()), sep="\n")
            for log in result["runs"]:
                print("", *table(result, log), sep="\n")
            if arguments.out:
                arguments.out.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
