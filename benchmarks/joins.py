"""Joins one after another, then many at once, with the whole exchange, while an authorized client goes on asking: none lost, none doubled?

.venv/bin/python benchmarks/joins.py [--joins 10000] [--crowd 50] [--crowd-joins 2000] [--clients 1] [--seconds 1200]

The joiners are connections of this process, with a key and a certificate each; they do what `mtlsd join` does but for its files.
First they come one after the other; then a crowd, of so many at once; then for as many invites two at the same moment, of whom one
has to be refused.  The authorized client is a process of its own.  Where it waits long, one has to know whether the machine stood still: how
late its own sleep of 10 ms ended is noted too.

Ends with status 1 where a join is lost or doubled, or the client was not served.  It stops early, and says so, after --seconds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import queue
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

from scale import Pair, Server, make_folder
from scale import make_pair as make_client

from mtlsd.client import Connection as Client
from mtlsd.client import Pair as ClientPair
from mtlsd.client import Server as Known
from mtlsd.client import whoami
from mtlsd.enrol.exchange import LONGEST_ANSWER, REFUSED, request_with
from mtlsd.enrol.invite import INVITES, Invite, digest_of
from mtlsd.protocols import JOIN
from mtlsd.registry.nextpair import certificate_at, files_in_force
from mtlsd.registry.pem import certificates_in

#: Joins between two lines of the table.
STEP = 1000
#: Invites that two ask for at once; each of them is one failure, and an address may have ten a minute.
RACES = 8
#: Seconds between two questions of the authorized client.
PAUSE = 0.01
#: Seconds for which it asks before the first join.
ALONE = 5.0


def invite_all(folder: Path, count: int) -> list[tuple[str, bytes]]:
    """Write *count* invites, as `mtlsd invite` does, which would take a process for each."""
    now = datetime.now(UTC)
    (folder / INVITES).mkdir(mode=0o700)
    made = []
    for nth in range(count):
        secret = nth.to_bytes(16, "big")
        invite = Invite(digest_of(secret), f"joiner{nth}", ("team",), now, now + timedelta(hours=3), "benchmark")
        (folder / INVITES / invite.file).write_bytes(invite.text())
        made.append((invite.name, secret))
    return made


def ask_on(server: Known, pair: ClientPair, orders: Pipe) -> None:
    """Ask all the time, on one connection; told False, send back the seconds of each answer (-1: none) and how late each sleep ended; told True, end."""
    connection = Client(server, pair, patience=36_000)
    took, late = [], []
    while True:
        began = time.perf_counter()
        if orders.poll(PAUSE):
            if orders.recv():
                return
            orders.send((took, late))
            took, late = [], []
            continue
        late.append(time.perf_counter() - began - PAUSE)
        began = time.perf_counter()
        took.append(time.perf_counter() - began if connection.ask("/hello").status == 200 else -1.0)


class Asking:
    """An authorized client that asks all the time."""

    def __init__(self, server: Known, pair: Pair) -> None:
        self._orders, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.Process(target=ask_on, args=(server, ClientPair(pair.key, pair.pem), theirs), daemon=True)
        self._process.start()
        theirs.close()
        self.asked = self.failed = 0

    def figures(self) -> str:
        """Return how long it has waited since the last time; raises :exc:`EOFError` where it has ended for want of an answer."""
        self._orders.send(False)
        took, late = self._orders.recv()
        self.asked += len(took)
        self.failed += sum(seconds < 0 for seconds in took)
        took.sort()
        waits = (statistics.median(took), took[int(len(took) * 0.99)], took[-1], max(late))
        return ", ".join(f"{1000 * wait:.1f}" for wait in waits)

    def stop(self) -> None:
        self._orders.send(True)
        self._process.join(30)


def ask_to_join(known: Known, name: str, secret: bytes) -> tuple[Pair, dict[str, object]]:
    """Ask to join, and return the pair and the answer; the pair is made here, which counts as the client's work."""
    pair = make_client(name)
    with Client(known, ClientPair(pair.key, pair.pem), JOIN) as connection:
        connection.send(request_with(secret))
        return pair, json.loads(connection.line(LONGEST_ANSWER))


def join(known: Known, name: str, secret: bytes) -> Pair:
    """Join, and return the pair."""
    pair, answer = ask_to_join(known, name, secret)
    if answer.get("client") != name or answer.get("fingerprint") != pair.fingerprint:
        raise SystemExit(f"{name}: {answer}")
    return pair


class Table:
    """A line for each step: what a join took, and what another client noticed of it."""

    def __init__(self, server: Server, asking: Asking) -> None:
        self._server, self._asking = server, asking
        print(
            f"{'joins':>7}  {'ms each':>8}  {'server CPU ms':>13}  {'MiB':>6}  another waits (ms): median, 99 %, longest; its own sleep"
        )
        time.sleep(ALONE)
        print(f"{'before':>7}  {'':>8}  {'':>13}  {server.memory():>6.0f}  {asking.figures()}", flush=True)
        self.began = self._last = time.perf_counter()
        self._used = server.cpu()

    def line(self, nth: int, step: int, what: str = "") -> None:
        now, cpu = time.perf_counter(), self._server.cpu()
        figures = (
            f"{1000 * (now - self._last) / step:>8.1f}  {1000 * (cpu - self._used) / step:>13.1f}  {self._server.memory():>6.0f}"
        )
        print(f"{nth:>7}  {figures}  {self._asking.figures()}  {what}".rstrip(), flush=True)
        self._last, self._used = now, cpu


def join_all(table: Table, known: Known, invited: list[tuple[str, bytes]], seconds: float) -> dict[str, str]:
    """Join one after the other, print a line for each STEP, and return who has joined, with the fingerprints."""
    done: dict[str, str] = {}
    for nth, (name, secret) in enumerate(invited, 1):
        pair = join(known, name, secret)
        done[name] = pair.fingerprint
        if nth % (STEP // 2) == 0:
            who = whoami(known, ClientPair(pair.key, pair.pem))
            assert (who.client, who.groups) == (name, ("team",)), who
        if nth % STEP == 0 or nth == len(invited):
            table.line(nth, (nth - 1) % STEP + 1)
            if time.perf_counter() - table.began > seconds and nth < len(invited):
                print(f"stopped after {seconds:.0f} s")
                break
    print(f"{len(done):,} joins, one after another, in {time.perf_counter() - table.began:.0f} s")
    return done


def crowd_joins(known: Known, invited: list[tuple[str, bytes]], size: int) -> tuple[dict[str, str], list[str]]:
    """Have *size* clients join at once, each the next when it is through; return who has joined, and what went wrong."""
    todo: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
    for one in invited:
        todo.put(one)
    done: dict[str, str] = {}
    wrong: list[str] = []

    def work() -> None:
        try:
            while True:
                name, secret = todo.get_nowait()
                done[name] = join(known, name, secret).fingerprint
        except queue.Empty:
            pass
        except BaseException as error:
            wrong.append(repr(error))

    run_together([work] * size)
    return done, wrong


def races(known: Known, invited: list[tuple[str, bytes]]) -> tuple[dict[str, str], list[str]]:
    """Have each invite asked for by two at once; return who has joined, and what went wrong."""
    answers: list[tuple[str, Pair, dict[str, object]]] = []
    wrong: list[str] = []

    def ask(name: str, secret: bytes) -> None:
        try:
            answers.append((name, *ask_to_join(known, name, secret)))
        except BaseException as error:
            wrong.append(repr(error))

    done: dict[str, str] = {}
    for name, secret in invited:
        run_together([lambda: ask(name, secret)] * 2)  # noqa: B023 (over before the next)
    for name, pair, answer in answers:
        if answer.get("fingerprint") == pair.fingerprint:
            if name in done:
                wrong.append(f"{name} has joined twice")
            done[name] = pair.fingerprint
        elif answer != {"error": REFUSED}:
            wrong.append(f"{name}: {answer}")
    return done, wrong


def run_together(works: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--joins", type=int, default=10_000)
    parser.add_argument("--crowd", type=int, default=50)
    parser.add_argument("--crowd-joins", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=1, help="clients that there are before the first join")
    parser.add_argument("--seconds", type=float, default=1200)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="mtlsd-joins-"))
    certs = folder / "certs"
    alice = make_folder(certs, arguments.clients)
    invited = invite_all(certs, arguments.joins + arguments.crowd_joins + RACES)
    row, crowd, raced = (
        invited[: arguments.joins],
        invited[arguments.joins : -RACES],
        invited[-RACES:],
    )
    server = Server(certs, "--enrol", "on", "--audit-log", str(folder / "audit.jsonl"))
    known = Known(
        "localhost", server.port, frozenset({certificate_at(files_in_force(certs, datetime.now(UTC))[1])[0].fingerprint})
    )
    asking = Asking(known, alice)
    try:
        table = Table(server, asking)
        done = join_all(table, known, row, arguments.seconds)
        wrong: list[str] = []
        for what, take in (
            (f"{arguments.crowd} at once", lambda: crowd_joins(known, crowd, arguments.crowd)),
            ("two for each invite", lambda: races(known, raced)),
        ):
            more, errors = take()
            if more:
                table.line(len(done) + len(more), len(more), what)
            done |= more
            wrong += errors
        asking.stop()
        whole = is_whole(certs, done, len(invited))
        print(f"the other client asked {asking.asked:,} times, and was not served {asking.failed} times")
        for error in wrong[:10]:
            print(error)
        if not whole or wrong or asking.failed:
            sys.exit(1)
    finally:
        server.stop()
        shutil.rmtree(folder)


def is_whole(certs: Path, done: dict[str, str], invited: int) -> bool:
    """Compare who was told that it has joined with the files, the ledger and the invites that are left."""
    files = {}
    for path in (certs / "authorized").glob("joiner*.pem"):
        found = certificates_in(path.read_bytes()).leaves
        files[path.stem] = found[0].fingerprint if len(found) == 1 else f"{len(found)} certificates"
    ledger = [json.loads(line) for line in (certs / "ledger.jsonl").read_text().splitlines()]
    joined = [(event["client"], event["fingerprint"]) for event in ledger if event["event"] == "joined"]
    left = {json.loads(path.read_bytes())["name"] for path in (certs / INVITES).glob("*.json")}
    litter = list(certs.rglob(".mtlsd-*"))
    print(
        f"{len(done):,} were told that they had joined; lost {len(set(done.items()) - set(files.items()))}, "
        f"there without having been told {len(set(files.items()) - set(done.items()))}, in the ledger {len(joined):,}, "
        f"of them twice {len(joined) - len(set(joined))}; invites left {len(left)}, of them used {len(left & done.keys())}"
    )
    return files == done and sorted(joined) == sorted(done.items()) and len(left) == invited - len(done) and not litter


if __name__ == "__main__":
    main()
