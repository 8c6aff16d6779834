"""A fuzz run over the front door in memory.

python -m tests.fuzz [--seconds 60] [--seed N]

Real OpenSSL on both ends, the real transport, gate, channel and site; bytes, time, revocations and a socket that takes
and refuses as dice have it.  What must hold, whatever happens: nothing is logged as an error, nobody is served what
belongs to another or to no one, whoever asks what a server understands gets each answer whole and in order, as h11 reads
them, or its beginning where the connection is cut, and nothing is left over, in the poller neither.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
import time
from typing import Any

from OpenSSL import SSL
from twisted.logger import LogEvent, LogLevel, globalLogPublisher
from twisted.python.filepath import FilePath

from mtlsd.settings import Settings
from mtlsd.tls.wire import Phase
from mtlsd.web.site import Site
from tests.fuzz_site import BIG, any_request, make_tree, mark, read_answers
from tests.fuzz_wire import Visitor
from tests.memory_tls import FrontDoor, RawPeer
from tests.pki import make_pair

PAIRS = {name: make_pair(name) for name in ("alice", "bob", "mallory")}
SETTINGS = Settings(
    handshake_timeout=5,
    head_timeout=5,
    idle_timeout=20,
    body_timeout=5,
    write_timeout=5,
    close_timeout=3,
    max_head=2048,
    max_body=5000,
)
PARTS = (
    b"GET ", b"POST ", b"HEAD ", b"/mine", b"/later", b"/big", b"/echo", b"/file", b"/pull", b"/push", b"http://h/mine", b"*", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n",
    b"Host: a\r\n", b"Content-Length: 5\r\n", b"Content-Length: 9999\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n",
    b"Connection: Upgrade\r\nUpgrade: x\r\n", b"Expect: 100-continue\r\n", b"Content-Type: multipart/form-data; boundary=x\r\n",
    b"Content-Type: application/x-www-form-urlencoded\r\n", b"X: " + b"y" * 500 + b"\r\n", b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"\0", b"\xff",
    b"5\r\nhello\r\n", b"0\r\n\r\n", b"hello", b"--x\r\n", b"a=b&c=%zz", b"?q=1", b" ", b":", b"x" * 3000,
)  # fmt: skip


class House:
    """One front door, its visitors, and what each of them may ever see."""

    def __init__(self, dice: random.Random, folder: FilePath[str]) -> None:
        self.dice = dice
        self.front = FrontDoor(SETTINGS)
        root, self.later = make_tree(dice, folder)
        site: Any = Site(root, settings=SETTINGS, deadlines=self.front.deadlines, access_log=None, reactor=self.front.clock)
        self.front.door.site = site
        self.visitors: list[Visitor] = []
        self.raw: list[RawPeer] = []
        self.authorized: set[str] = set()
        self.authorize("alice", "bob")

    def authorize(self, *names: str) -> None:
        self.authorized = set(names)
        # Whoever is still at the door may be let in when it is authorized again.
        inside = [visitor for visitor in self.visitors if visitor.wire._phase is not Phase.HANDSHAKE]
        self.front.authorize(**{name: PAIRS[name] for name in names})
        for visitor in inside:
            if visitor.name not in self.authorized and visitor.out is None:
                # Whatever the wire holds by now was sent to one who was authorized then.
                visitor.pump()
                visitor.out = len(visitor.received)

    def step(self) -> None:
        self.dice.choice(
            (self.arrive, self.knock, self.honest_request, self.honest_request, self.honest_request, self.nonsense, self.wait,
             self.answer, self.block, self.leave, self.change, self.garbage)
        )()  # fmt: skip

    def arrive(self) -> None:
        name = self.dice.choice(tuple(PAIRS))
        visitor = Visitor(self.front, name, PAIRS[name], self.dice, version=self.dice.choice((None, SSL.TLS1_2_VERSION)))
        self.visitors.append(visitor)
        visitor.pump()

    def knock(self) -> None:
        peer = self.front.raw()
        self.raw.append(peer)
        peer.send(self.dice.choice(PARTS) + self.dice.randbytes(self.dice.randrange(80)))

    def someone(self, *, honest: bool = False) -> Visitor | None:
        visitors = [visitor for visitor in self.visitors if visitor.is_connected] if honest else self.visitors
        return self.dice.choice(visitors) if visitors else None

    def send(self, visitor: Visitor, data: bytes, *, at_once: bool = False) -> None:
        while data and visitor.handshaken and visitor.error is None:
            size = 16_384 if at_once else self.dice.choice((1, 7, 100, 16_384))
            try:
                visitor.tls.send(data[:size])
            except SSL.Error as error:
                visitor.error = error
            data = data[size:]
            if self.dice.random() < 0.3:
                visitor.pump()
        visitor.pump()

    def honest_request(self) -> None:
        visitor = self.someone(honest=True)
        if visitor is None:
            return
        request = any_request(self.dice)
        # What is asked again, in one piece, is not taken apart again.
        times = self.dice.choice((1, 1, 1, 2, 4))
        if visitor.asked is not None:
            visitor.asked += [request] * times
        for _ in range(times):
            self.send(visitor, request.data, at_once=times > 1)

    def nonsense(self) -> None:
        # Half of the visitors never talk any.
        visitor = self.someone()
        if visitor is not None and self.visitors.index(visitor) % 2:
            visitor.asked = None
            self.send(visitor, b"".join(self.dice.choice(PARTS) for _ in range(self.dice.randrange(1, 9))))

    def garbage(self) -> None:
        visitor = self.someone()
        if visitor is not None and self.visitors.index(visitor) % 2:
            visitor.asked = None
            visitor.send(self.dice.randbytes(self.dice.randrange(1, 60)))
            visitor.pump()

    def wait(self) -> None:
        self.front.advance(self.dice.choice((1, 3, 8, 25)))
        self.pump_all()

    def answer(self) -> None:
        if self.later.waiting:
            request = self.later.waiting.pop(self.dice.randrange(len(self.later.waiting)))
            own = mark(request)
            for _ in range(self.dice.randrange(4)):
                request.write(own)
            request.finish()
            self.pump_all()

    def block(self) -> None:
        visitor = self.someone()
        if visitor is not None:
            visitor.edge.stuck = not visitor.edge.stuck
            if visitor.edge.stuck:
                visitor.edge.room = 0
            visitor.pump()

    def leave(self) -> None:
        visitor = self.someone()
        if visitor is not None:
            visitor.has_left = True
            if self.dice.random() < 0.5 and visitor.handshaken:
                with contextlib.suppress(SSL.Error):
                    visitor.tls.shutdown()
                visitor.pump()
            visitor.lose()

    def change(self) -> None:
        self.authorize(*self.dice.choice((("alice", "bob"), ("alice", "bob"), ("alice",), ("bob",), ())))
        self.pump_all()

    def pump_all(self) -> None:
        for visitor in self.visitors:
            visitor.pump()

    def check(self) -> None:
        """Let everybody have what is there for them, look at what they have seen, and let them go."""
        # A client that has sent ahead is not read from, so nobody hears that it is gone, or what else it wants, before it is
        # answered.
        while True:
            for visitor in self.visitors:
                visitor.rest()
            if not self.later.waiting:
                break
            self.answer()
        for visitor in self.visitors:
            self.look_at(visitor)
        for visitor in self.visitors:
            visitor.lose()
        for peer in self.raw:
            peer.lose()
        if all(peer.is_lost for peer in (*self.visitors, *self.raw)) and len(self.front.deadlines):
            raise AssertionError("all are gone, and a deadline is left")
        self.front.advance(40)
        self.front.turns.turn()
        turns = self.front.turns
        left = {
            "live": len(self.front.door.live),
            "deadlines": len(self.front.deadlines),
            "farewells": len(self.front.farewells),
            "requests": len(self.later.waiting),
            "readers": len(turns.readers),
            "writers": len(turns.writers),
        }
        if any(left.values()):
            raise AssertionError(f"left over: {left}")
        verdicts = [event.connection for event in self.front.sink.events if str(event.event) in ("accepted", "rejected")]
        if len(verdicts) != len(set(verdicts)) or len(verdicts) != len(self.visitors) + len(self.raw):
            raise AssertionError("not one verdict for each connection")

    def look_at(self, visitor: Visitor) -> None:
        name, seen = visitor.name, visitor.received
        for other in PAIRS:
            if other != name and b"<" + other.encode() + b">" in seen:
                raise AssertionError(f"{name} was served what belongs to {other}")
        if name == "mallory" and seen:
            raise AssertionError("a stranger was served")
        if visitor.out is not None and len(seen) > visitor.out:
            raise AssertionError(f"{name} was served after the end: {seen[visitor.out :]!r}")
        if visitor.asked is not None:
            ended = isinstance(visitor.error, SSL.ZeroReturnError) and not visitor.has_left
            if visitor.wire.closed == "orderly" and seen and not ended and not visitor.has_left and visitor.out is None:
                raise AssertionError(f"{name} was not told of the end: {visitor.error!r}")
            whole = read_answers(seen, visitor.asked, name, ended=ended)
            if visitor.is_connected and whole < len(visitor.asked):
                raise AssertionError(f"{name} waits for ever for the answer to {visitor.asked[whole]}")


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=float, default=60)
    arguments.add_argument("--seed", type=int)
    options = arguments.parse_args()
    errors: list[LogEvent] = []

    def observe(event: LogEvent) -> None:
        if event["log_level"] >= LogLevel.error:
            errors.append(event)

    observer: Any = observe
    globalLogPublisher.addObserver(observer)
    folder = FilePath(tempfile.mkdtemp())
    folder.child("file").setContent(BIG)
    first = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    ends, rounds = time.monotonic() + options.seconds, 0
    while time.monotonic() < ends and (options.seed is None or not rounds):
        seed = first + rounds
        house = House(random.Random(seed), folder)
        try:
            for _ in range(60):
                house.step()
            house.check()
            if errors:
                raise AssertionError(f"logged as an error: {errors[0]}")
        except Exception:
            print(f"failed: python -m tests.fuzz --seed {seed}", file=sys.stderr)
            folder.remove()
            raise
        rounds += 1
    folder.remove()
    print(f"{rounds} houses from seed {first}: nothing found")
    return 0


if __name__ == "__main__":
    sys.exit(main())
