"""How long others wait while handshakes are made: the answers of a keep-alive client, and the lag of mtlsd's own loop.

.venv/bin/python benchmarks/pauses.py [--servers mtlsd,nginx] [--seconds 10] [--rounds 3] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import Failed, Load, Process, build_load
from peers import PEERS, Place, Tools, make_files, make_pairs, surroundings

_FIRST_PORT = 19200
#: Requests a second of the client whose answers are timed, on so many connections.
_RATE, _CONNECTIONS = 200, 4


@dataclass(frozen=True)
class Arrivals:
    """The handshakes that arrive meanwhile: the kind of key, and how many a second."""

    title: str
    kind: str
    rate: int


ARRIVALS = (
    Arrivals("no handshakes", "ec", 0),
    Arrivals("200 EC P-256 a second", "ec", 200),
    Arrivals("50 RSA-4096 a second", "rsa", 50),
)


def watch(server: Process, load: Path, pairs: Any, arrivals: Arrivals, seconds: float, lag: Path) -> dict[str, Any]:
    """Return p50, p99 and the longest of the answers in ms, and of the loop's lag where the server notes it."""
    client = pairs[arrivals.kind, "client"]
    began = time.monotonic()
    with Load(load, server.port, "keep", client, "-n", _CONNECTIONS, "-r", _RATE, "-t", seconds) as calm:
        made = 0
        if arrivals.rate:
            # Its own work must not pass for the server's delay: it gets the core where the other has no use for it.
            with Load(load, server.port, "full", client, "-n", 64, "-r", arrivals.rate, "-t", seconds + 1, nice=10) as crowd:
                crowd.go()
                time.sleep(0.5)
                began = time.monotonic()
                calm.go()
                result = calm.result()
                ended = time.monotonic()
                made = crowd.result()["ops"]
        else:
            began = time.monotonic()
            calm.go()
            result, ended = calm.result(), time.monotonic()
    if result["errors"]:
        raise Failed(f"{server.name}, {arrivals.title}: {result['first_error']}")
    figures = {name: round(result[f"{name}_us"] / 1000, 2) for name in ("p50", "p99", "max")}
    figures["handshakes"] = round(made / (seconds + 1))
    if lag.exists():
        # What it has noted up to now is written once a second.
        time.sleep(1.5)
        noted = [json.loads(line) for line in lag.read_text().splitlines()]
        late = sorted(x * 1000 for one in noted if one["from"] >= began and one["to"] <= ended for x in one["late"])
        if late:
            figures["lag_p50"], figures["lag_p99"] = round(late[len(late) // 2], 2), round(late[len(late) * 99 // 100], 2)
            figures["lag_max"] = round(late[-1], 2)
    return figures


def measure(arguments: argparse.Namespace, tools: Tools) -> dict[str, Any]:
    """Measure each server, one at a time, at each of ``ARRIVALS``; medians of the rounds."""
    pairs, files, load = make_pairs(tools.built), make_files(tools.built / "files"), build_load(tools.built)
    versions = {name: PEERS[name].version(tools) for name in arguments.servers}
    runs: dict[str, dict[str, list[dict[str, Any]]]] = {}
    port = _FIRST_PORT
    for number in range(arguments.rounds):
        for name, arrivals in ((name, arrivals) for arrivals in ARRIVALS for name in arguments.servers if versions[name]):
            print(f"\rround {number + 1}, {arrivals.title}, {name:10}", end="", file=sys.stderr, flush=True)
            port += 1
            folder = tools.built / f"{name}-{port}"
            folder.mkdir()
            place = Place(folder, port, pairs[arrivals.kind, "server"], pairs[arrivals.kind, "client"], files, None, tools)
            start = PEERS[name].start(place)
            lag = folder / "lag.jsonl"
            server = Process(name, start.command, {**start.environment, "BENCH_LAG": str(lag)}, port, folder)
            try:
                server.wait_until_up()
                figures = watch(server, load, pairs, arrivals, arguments.seconds, lag)
                runs.setdefault(arrivals.title, {}).setdefault(name, []).append(figures)
            except Failed as error:
                print(f"\n{error}", file=sys.stderr)
            finally:
                server.stop()
    print("\r" + " " * 60 + "\r", end="", file=sys.stderr)
    return {"servers": versions, "surroundings": surroundings(tools), "runs": runs}


def table(result: dict[str, Any]) -> list[str]:
    """Return the lines of a table in Markdown."""
    lines = [
        "| handshakes that arrive | server | made a second | answer p50 ms | p99 | longest | loop lag p50 ms | p99 | longest |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for title, by_server in result["runs"].items():
        for name, runs in by_server.items():
            keys = ("handshakes", "p50", "p99", "max", "lag_p50", "lag_p99", "lag_max")
            found = {key: [run[key] for run in runs if key in run] for key in keys}
            cells = [f"{statistics.median(values):g}" if values else "" for values in found.values()]
            lines.append(f"| {title} | {name} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Measure, print, and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", type=lambda text: text.split(","), default=["mtlsd", "nginx"])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", type=Path, default=Path(__file__).resolve().parent.parent / ".venv" / "peers")
    parser.add_argument("--out", type=Path, help="file for all that was measured, in JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder)
        built.chmod(0o755)
        result = measure(arguments, Tools(arguments.peers, built))
        print(*table(result), sep="\n")
        if arguments.out:
            arguments.out.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
