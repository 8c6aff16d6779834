"""A client of the fuzz run, whose connection takes what it can, when it can, as a socket does."""

from __future__ import annotations

import random
from typing import Any

from OpenSSL import SSL

from tests.fuzz_site import Asked
from tests.memory_tls import Client, FrontDoor, Wire
from tests.pki import Pair

#: Bytes for which a socket may have room; ``None``: for all there are.
ROOMS = (None, None, None, 0, 0, 1, 500, 16_384, 20_000, 262_143, 300_000)


class Edge:
    """The room that is left in the kernel for what a connection sends.

    Where there is too little, OpenSSL has sent a part, refuses, and wants the same bytes again at the next call.  Now and
    then it takes a part and says so.
    """

    def __init__(self, wire: Wire, dice: random.Random) -> None:
        self.wire, self.dice = wire, dice
        self.room: int | None = None
        #: Whether the peer takes nothing, so that there never is more room.
        self.stuck = False
        self._refused = b""
        self._sent = 0
        bios: Any = wire.bios
        self._real = {name: getattr(bios, name) for name in ("send_bytes", "recv_record", "shutdown", "do_handshake")}
        bios.send = bios.send_bytes = self._send
        bios.recv_record = self._receive
        bios.shutdown = lambda: self._call("shutdown", 1)
        bios.do_handshake = lambda: self._call("do_handshake", 0.2)

    def taken(self) -> None:
        """The peer has taken what was sent: there is room again, if not for all."""
        if not self.stuck:
            self.room = self.dice.choice(ROOMS)

    def open(self) -> None:
        """From here on there is room for everything."""
        self.room, self.stuck = None, False
        self.dice = random.Random(0)

    def _send(self, data: Any) -> int:
        data = bytes(data)
        if not data.startswith(self._refused):
            raise AssertionError("OpenSSL wants the bytes again that it has refused")
        rest = len(data) - self._sent
        if self.room is None or self.room >= rest:
            part = len(data)
            if not self._refused and self.room is not None:
                part = self.dice.choice((part, part, self.dice.randrange(1, part + 1)))
            self._pass_on(data[self._sent : part])
            self._refused, self._sent = b"", 0
            return part
        self._pass_on(data[self._sent : self._sent + self.room])
        self._refused = data
        raise SSL.WantWriteError

    def _pass_on(self, data: bytes) -> None:
        if data:
            self._real["send_bytes"](data)
            self._sent += len(data)
            if self.room is not None:
                self.room -= len(data)

    def _receive(self) -> Any:
        wire = self.wire
        wire.is_readable = wire.is_held = False
        try:
            return self._call("recv_record", 0.2)
        except SSL.WantWriteError:
            if self.dice.random() < 0.5:
                wire.is_readable = True
            else:
                wire.is_held = True
            raise

    def _call(self, name: str, how_often: float) -> Any:
        if self.room == 0 and self.dice.random() < how_often:
            raise SSL.WantWriteError
        return self._real[name]()


class Visitor(Client):
    """A client, and what it may see."""

    def __init__(self, front: FrontDoor, name: str, pair: Pair, dice: random.Random, **options: Any) -> None:
        super().__init__(front, pair, **options)
        self.name = name
        self.edge = Edge(self.wire, random.Random(dice.random()))
        #: What it has asked for, in order; ``None``: not only what a server understands.
        self.asked: list[Asked] | None = []
        #: Whether it has said that it goes, or has gone.
        self.has_left = False
        #: How many bytes it had seen when it was no longer authorized.
        self.out: int | None = None

    @property
    def is_connected(self) -> bool:
        return self.handshaken and self.error is None and not self.is_lost and not self.has_left

    def pump(self, mangle: Any = None) -> None:
        """Carry bytes both ways for a while; what has come is read, for the poller does not wait with that."""
        for nth in range(500):
            has_moved = self.carry()
            if not self.wire.is_behind and (not has_moved or nth > 30):
                break
        # Whatever is on its way by now has come.
        on_its_way = self.wire.taken()
        if on_its_way:
            self.tls.bio_write(on_its_way)
        self.read()

    def settle(self) -> None:
        super().settle()
        self.edge.taken()

    def rest(self) -> None:
        """Carry bytes both ways until nothing moves, and nobody asks the poller for more."""
        self.edge.open()
        for _ in range(200):
            if not self.carry() and not self.wire.is_behind and self.wire not in self.front.turns.writers:
                return
        raise AssertionError("the two ends never came to rest")
