"""A fuzz run over the front door in memory.

python -m tests.fuzz [--seconds 60] [--seed N]

Real OpenSSL on both ends, the real transport, gate, channel and site; bytes, time, revocations and a poller that takes
and refuses as dice have it.  What must hold, whatever happens: nothing is logged as an error, nobody is served what
belongs to another or to no one, every answer to whole requests can be read by h11, and nothing is left over.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import time
from typing import Any

import h11
from OpenSSL import SSL
from twisted.logger import LogEvent, LogLevel, globalLogPublisher
from twisted.web import server
from twisted.web.resource import Resource
from twisted.web.static import Data

from mtlsd.settings import Settings
from mtlsd.web import identity
from mtlsd.web.site import Branch, Site
from tests.memory_tls import Client, FrontDoor, RawPeer
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
    b"GET ", b"POST ", b"HEAD ", b"/mine", b"/later", b"/big", b"/echo", b"http://h/mine", b"*", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n",
    b"Host: a\r\n", b"Content-Length: 5\r\n", b"Content-Length: 9999\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n",
    b"Connection: Upgrade\r\nUpgrade: x\r\n", b"Expect: 100-continue\r\n", b"Content-Type: multipart/form-data; boundary=x\r\n",
    b"Content-Type: application/x-www-form-urlencoded\r\n", b"X: " + b"y" * 500 + b"\r\n", b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"\0", b"\xff",
    b"5\r\nhello\r\n", b"0\r\n\r\n", b"hello", b"--x\r\n", b"a=b&c=%zz", b"?q=1", b" ", b":", b"x" * 3000,
)  # fmt: skip


class Mine(Branch):
    """What belongs to one client alone."""

    def render_GET(self, request: Any) -> bytes:
        return b"<" + identity(request).client.encode() + b">" * 3


class Echo(Branch):
    def render_POST(self, request: Any) -> bytes:
        request.args.items()
        return b"<" + identity(request).client.encode() + b">" + bytes(request.content.read())


class Later(Branch):
    """Answers when the dice say so."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Any] = []

    def render_GET(self, request: Any) -> int:
        self.waiting.append(request)
        request.notifyFinish().addErrback(lambda _: self.waiting.remove(request) if request in self.waiting else None)
        return server.NOT_DONE_YET


class House:
    """One front door, its visitors, and what each of them may ever see."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.front = FrontDoor(SETTINGS)
        self.later = Later()
        root = Resource()
        for name, resource in (
            (b"mine", Mine()),
            (b"echo", Echo()),
            (b"later", self.later),
            (b"big", Data(b"b" * 200_000, "text/plain")),
        ):
            root.putChild(name, resource)
        site: Any = Site(root, settings=SETTINGS, deadlines=self.front.deadlines, access_log=None, reactor=self.front.clock)
        self.front.door.site = site
        self.visitors: list[tuple[str, Client]] = []
        self.raw: list[RawPeer] = []
        self.honest: dict[Client, list[bytes]] = {}
        self.seen: dict[Client, bytes] = {}
        self.out: dict[Client, int] = {}
        self.authorized: set[str] = set()
        self.authorize("alice", "bob")

    def authorize(self, *names: str) -> None:
        self.authorized = set(names)
        self.front.authorize(**{name: PAIRS[name] for name in names})
        for name, client in self.visitors:
            if name not in self.authorized and client not in self.out:
                # Whatever the wire holds by now was sent to one who was authorized then.
                self.pump(client)
                self.out[client] = len(self.seen.get(client, b""))

    def step(self) -> None:
        self.dice.choice(
            (self.arrive, self.knock, self.honest_request, self.honest_request, self.nonsense, self.nonsense, self.wait, self.answer, self.block,
             self.leave, self.change, self.garbage)
        )()  # fmt: skip

    def arrive(self) -> None:
        name = self.dice.choice(tuple(PAIRS))
        version = self.dice.choice((None, SSL.TLS1_2_VERSION))
        client = Client(self.front, PAIRS[name], version=version)
        self.visitors.append((name, client))
        self.pump(client)

    def knock(self) -> None:
        peer = self.front.raw()
        self.raw.append(peer)
        peer.send(self.dice.choice(PARTS) + self.dice.randbytes(self.dice.randrange(80)))

    def someone(self) -> tuple[str, Client] | None:
        return self.dice.choice(self.visitors) if self.visitors else None

    def send(self, client: Client, data: bytes) -> None:
        while data and client.handshaken and client.error is None:
            size = self.dice.choice((1, 7, 100, 16_384))
            try:
                client.tls.send(data[:size])
            except SSL.Error as error:
                client.error = error
            data = data[size:]
            if self.dice.random() < 0.3:
                self.pump(client)
        self.pump(client)

    def honest_request(self) -> None:
        who = self.someone()
        if who is None or self.honest.setdefault(who[1], []) is None:
            return
        body = self.dice.randbytes(self.dice.randrange(300))
        data, method = self.dice.choice(
            (
                (b"GET /mine HTTP/1.1\r\nHost: a\r\n\r\n", b"GET"),
                (b"HEAD /mine HTTP/1.1\r\nHost: a\r\n\r\n", b"HEAD"),
                (b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n", b"GET"),
                (b"GET /later HTTP/1.1\r\nHost: a\r\n\r\n", b"GET"),
                (b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body), b"POST"),
                (b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body) or 1, body or b"x"), b"POST"),
            )
        )  # fmt: skip
        if who[1] in self.honest:
            self.honest[who[1]].append(method)
        self.send(who[1], data)

    def nonsense(self) -> None:
        who = self.someone()
        if who is not None:
            self.honest[who[1]] = None  # type: ignore[assignment]
            self.send(who[1], b"".join(self.dice.choice(PARTS) for _ in range(self.dice.randrange(1, 9))))

    def garbage(self) -> None:
        who = self.someone()
        if who is not None:
            self.honest[who[1]] = None  # type: ignore[assignment]
            who[1].send(self.dice.randbytes(self.dice.randrange(1, 60)))
            self.pump(who[1])

    def wait(self) -> None:
        self.front.advance(self.dice.choice((1, 3, 8, 25)))
        self.pump_all()

    def answer(self) -> None:
        if self.later.waiting:
            request = self.later.waiting.pop(self.dice.randrange(len(self.later.waiting)))
            for _ in range(self.dice.randrange(4)):
                request.write(b"<" + identity(request).client.encode() + b">")
            request.finish()
            self.pump_all()

    def block(self) -> None:
        who = self.someone()
        if who is None:
            return
        bios: Any = who[1].wire.bios
        if "send_bytes" in bios.__dict__:
            for name in ("send_bytes", "send"):
                del bios.__dict__[name]
        else:

            def full(data: bytes) -> int:
                raise SSL.WantWriteError

            bios.send_bytes = bios.send = full
        self.pump(who[1])

    def leave(self) -> None:
        who = self.someone()
        if who is not None:
            if self.dice.random() < 0.5 and who[1].handshaken:
                with contextlib.suppress(SSL.Error):
                    who[1].tls.shutdown()
                self.pump(who[1])
            who[1].lose()

    def change(self) -> None:
        self.authorize(*self.dice.choice((("alice", "bob"), ("alice",), ("bob",), ())))
        self.pump_all()

    def pump(self, client: Client) -> None:
        client.pump()
        self.seen[client] = client.received

    def pump_all(self) -> None:
        for _, client in self.visitors:
            self.pump(client)

    def check(self) -> None:
        """Let everybody go, and look at what they have seen."""
        self.pump_all()
        for name, client in self.visitors:
            seen = self.seen[client]
            for other in PAIRS:
                if other != name and b"<" + other.encode() + b">" in seen:
                    raise AssertionError(f"{name} was served what belongs to {other}")
            if name == "mallory" and seen:
                raise AssertionError("a stranger was served")
            if client in self.out and len(seen) > self.out[client]:
                raise AssertionError(f"{name} was served after the end: {seen[self.out[client] :]!r}")
            if self.honest.get(client):
                readable(seen, self.honest[client])
        # A client that has sent ahead is not read from, so nobody hears that it is gone before it is answered.
        while self.later.waiting:
            self.answer()
        for _, client in self.visitors:
            client.lose()
        for peer in self.raw:
            peer.lose()
        self.front.advance(40)
        self.front.turns.turn()
        left = len(self.front.door.live), len(self.front.deadlines), len(self.front.farewells), len(self.later.waiting)
        if left != (0, 0, 0, 0):
            raise AssertionError(f"left over (live, deadlines, farewells, requests): {left}")
        verdicts = [event.connection for event in self.front.sink.events if str(event.event) in ("accepted", "rejected")]
        if len(verdicts) != len(set(verdicts)) or len(verdicts) != len(self.visitors) + len(self.raw):
            raise AssertionError("not one verdict for each connection")


def readable(seen: bytes, methods: list[bytes]) -> None:
    """Raise where h11 cannot read the answers to requests of these *methods*; the last may be cut short."""
    for method in methods:
        if not seen:
            return
        reader = h11.Connection(h11.CLIENT)
        reader.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
        reader.send(h11.EndOfMessage())
        reader.receive_data(seen)
        while True:
            event = reader.next_event()
            if event is h11.NEED_DATA:
                return
            if isinstance(event, h11.EndOfMessage):
                break
        seen = bytes(reader.trailing_data[0])


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
    first = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    ends, rounds = time.monotonic() + options.seconds, 0
    while time.monotonic() < ends and (options.seed is None or not rounds):
        seed = first + rounds
        house = House(random.Random(seed))
        try:
            for _ in range(60):
                house.step()
            house.check()
            if errors:
                raise AssertionError(f"logged as an error: {errors[0]}")
        except Exception:
            print(f"failed: python -m tests.fuzz --seed {seed}", file=sys.stderr)
            raise
        rounds += 1
    print(f"{rounds} houses from seed {first}: nothing found")
    return 0


if __name__ == "__main__":
    sys.exit(main())
