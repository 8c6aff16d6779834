"""Joins one after another, with the whole exchange, while an authorized client goes on asking: none lost, none doubled?

.venv/bin/python benchmarks/joins.py [--joins 10000] [--seconds 170]

The joiners are connections of this process, with a key and a certificate each; they do what `mtlsd join` does but for its files.
Ends with status 1 where one is lost or doubled, or the client was not served.  It stops early, and says so, after --seconds.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from scale import Pair, Server, make_folder
from scale import make_pair as make_client

from mtlsd.client import Connection as Client
from mtlsd.client import Pair as ClientPair
from mtlsd.client import Server as Known
from mtlsd.client import whoami
from mtlsd.enrol.exchange import LONGEST_ANSWER, request_with
from mtlsd.enrol.invite import INVITES, Invite, digest_of
from mtlsd.protocols import JOIN
from mtlsd.registry.founding import server_certificate

#: Joins between two lines of the table.
STEP = 1000


def invite_all(folder: Path, count: int) -> list[tuple[str, bytes]]:
    """Write *count* invites, as `mtlsd invite` does; it looks at the whole folder each time, which is not what is measured here."""
    now = datetime.now(UTC)
    (folder / INVITES).mkdir(mode=0o700)
    made = []
    for nth in range(count):
        secret = nth.to_bytes(16, "big")
        invite = Invite(digest_of(secret), f"joiner{nth}", ("team",), now, now + timedelta(hours=1), "benchmark")
        (folder / INVITES / invite.file).write_bytes(invite.text())
        made.append((invite.name, secret))
    return made


class Asking(threading.Thread):
    """An authorized client that asks all the time, on one connection, and notes how long each answer takes."""

    def __init__(self, server: Known, pair: Pair) -> None:
        super().__init__(daemon=True)
        self._connection = Client(server, ClientPair(pair.key, pair.pem), patience=3600)
        self.times: list[float] = []
        self.failed: list[object] = []
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.01):
            began = time.perf_counter()
            answer = self._connection.ask("/hello")
            self.times.append(time.perf_counter() - began)
            if answer.status != 200:
                self.failed.append(answer)


def join(known: Known, name: str, secret: bytes) -> Pair:
    """Join, and return the pair; it is made here, which counts as the client's work."""
    pair = make_client(name)
    with Client(known, ClientPair(pair.key, pair.pem), JOIN) as connection:
        connection.send(request_with(secret))
        answer = json.loads(connection.line(LONGEST_ANSWER))
    if answer.get("client") != name or answer.get("fingerprint") != pair.fingerprint:
        raise SystemExit(f"{name}: {answer}")
    return pair


def join_all(server: Server, known: Known, asking: Asking, invited: list[tuple[str, bytes]], seconds: float) -> dict[str, str]:
    """Join one after the other, print a line for each STEP, and return who has joined, with the fingerprints."""
    print(f"{'joins':>7}  {'ms each':>8}  {'server CPU ms':>13}  {'MiB':>6}  others wait (ms): median, 99 %, most")
    done: dict[str, str] = {}
    began = last = time.perf_counter()
    used, seen = server.cpu(), 0
    for nth, (name, secret) in enumerate(invited, 1):
        pair = join(known, name, secret)
        done[name] = pair.fingerprint
        if nth % (STEP // 2) == 0:
            who = whoami(known, ClientPair(pair.key, pair.pem))
            assert (who.client, who.groups) == (name, ("team",)), who
        if nth % STEP == 0 or nth == len(invited):
            now, cpu = time.perf_counter(), server.cpu()
            times, seen = sorted(asking.times[seen:]), len(asking.times)
            step = (nth - 1) % STEP + 1
            waits = (statistics.median(times), times[int(len(times) * 0.99)], times[-1])
            figures = f"{1000 * (now - last) / step:>8.1f}  {1000 * (cpu - used) / step:>13.1f}  {server.memory():>6.0f}"
            print(f"{nth:>7}  {figures}  {', '.join(f'{1000 * wait:.1f}' for wait in waits)}", flush=True)
            last, used = now, cpu
            if now - began > seconds and nth < len(invited):
                print(f"stopped after {seconds:.0f} s")
                break
    print(f"{len(done)} joins in {time.perf_counter() - began:.0f} s")
    return done


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--joins", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=170)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="mtlsd-joins-"))
    certs = folder / "certs"
    alice = make_folder(certs, 1)
    invited = invite_all(certs, arguments.joins)
    server = Server(certs, "--enrol", "on", "--audit-log", str(folder / "audit.jsonl"))
    known = Known("localhost", server.port, server_certificate(certs)[0].fingerprint)
    asking = Asking(known, alice)
    try:
        asking.start()
        done = join_all(server, known, asking, invited, arguments.seconds)
        asking.over.set()
        asking.join(30)
        files = {path.stem for path in (certs / "authorized").glob("joiner*.pem")}
        ledger = [json.loads(line) for line in (certs / "ledger.jsonl").read_text().splitlines()]
        joined = [(event["client"], event["fingerprint"]) for event in ledger if event["event"] == "joined"]
        left = len(list((certs / INVITES).glob("*.json")))
        whole = files == set(done) and sorted(joined) == sorted(done.items()) and left == len(invited) - len(done)
        print(f"lost {len(set(done) - files)}, doubled {len(joined) - len(set(joined))}, invites left {left}")
        print(f"the other client asked {len(asking.times)} times, and was refused {len(asking.failed)} times")
        if not whole or asking.failed:
            sys.exit(1)
    finally:
        asking.over.set()
        server.stop()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
