"""What the fuzz run asks for, and what it has to get."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import h11
from twisted.internet.interfaces import IPullProducer, IPushProducer
from twisted.python.filepath import FilePath
from twisted.web import server
from twisted.web.resource import Resource
from twisted.web.static import Data, File
from zope.interface import implementer

from mtlsd.web import identity
from mtlsd.web.site import Branch

_DICE = random.Random(7)
#: More than a file is read of at a time, and than OpenSSL is given.
BIG = _DICE.randbytes(300_000)
PIECES = [_DICE.randbytes(size) for size in (1, 16_384, 3, 70_000, 16_385, 270_000, 2, 1)]
FIXED = {b"/big": BIG, b"/file": BIG, b"/pull": b"".join(PIECES), b"/push": b"".join(PIECES)}
#: Answers whose length is said beforehand.
MEASURED = (b"/mine", b"/echo", b"/big", b"/file")


def mark(request: Any) -> bytes:
    """Return what belongs to a request's client, having seen that its headers are its own."""
    headers = request.requestHeaders
    for name, values in headers.getAllRawHeaders():
        if name.lower() == b"x-seen-by" or any(b"<" in value for value in values):
            raise AssertionError(f"a request has the headers of another: {name!r}: {values!r}")
    found = b"<" + identity(request).client.encode() + b">"
    headers.setRawHeaders(b"X-Seen-By", [found])
    for name in (b"Host", b"Accept", b"Connection"):
        headers.addRawHeader(name, found)
    return found


class Mine(Branch):
    """What belongs to one client alone."""

    def render_GET(self, request: Any) -> bytes:
        return mark(request) * 3


class Echo(Branch):
    def render_POST(self, request: Any) -> bytes:
        request.args.items()
        return mark(request) + bytes(request.content.read())


class Later(Branch):
    """Answers when the dice say so."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Any] = []

    def render_GET(self, request: Any) -> int:
        self.waiting.append(request)
        request.notifyFinish().addErrback(lambda _: self.waiting.remove(request) if request in self.waiting else None)
        return server.NOT_DONE_YET


@implementer(IPullProducer)
class Pulling:
    """Gives a piece each time that it is asked; it ends with the last one, or when it is asked again."""

    def __init__(self, request: Any, at_once: bool) -> None:
        self.request, self.at_once = request, at_once
        self.pieces = list(PIECES)

    def resumeProducing(self) -> None:
        if self.pieces:
            self.request.write(self.pieces.pop(0))
            if self.pieces or not self.at_once:
                return
        self.request.unregisterProducer()
        self.request.finish()

    def stopProducing(self) -> None:
        self.pieces.clear()


@implementer(IPushProducer)
class Pushing:
    """Writes until it is told to pause."""

    def __init__(self, request: Any) -> None:
        self.request = request
        self.pieces = list(PIECES)
        self.is_paused = self.is_writing = False

    def resumeProducing(self) -> None:
        self.is_paused = False
        if self.is_writing:
            return
        self.is_writing = True
        while self.pieces and not self.is_paused:
            self.request.write(self.pieces.pop(0))
        self.is_writing = False
        if not self.is_paused and self.request is not None:
            request, self.request = self.request, None
            request.unregisterProducer()
            request.finish()

    def pauseProducing(self) -> None:
        self.is_paused = True

    def stopProducing(self) -> None:
        self.pieces.clear()
        self.request = None


class Pulled(Branch):
    def __init__(self, dice: random.Random) -> None:
        super().__init__()
        self.dice = dice

    def render_GET(self, request: Any) -> int:
        mark(request)
        request.registerProducer(Pulling(request, self.dice.random() < 0.5), False)
        return server.NOT_DONE_YET


class Pushed(Branch):
    def render_GET(self, request: Any) -> int:
        mark(request)
        producer = Pushing(request)
        request.registerProducer(producer, True)
        producer.resumeProducing()
        return server.NOT_DONE_YET


def make_tree(dice: random.Random, folder: FilePath[str]) -> tuple[Resource, Later]:
    """Return the resources of a house; *folder* has the file."""
    root, later = Resource(), Later()
    for name, resource in (
        (b"mine", Mine()),
        (b"echo", Echo()),
        (b"later", later),
        (b"big", Data(BIG, "text/plain")),
        (b"file", File(folder.child("file").path)),
        (b"pull", Pulled(dice)),
        (b"push", Pushed()),
    ):
        root.putChild(name, resource)
    return root, later


@dataclass(frozen=True)
class Asked:
    """A request, and what its answer has to be."""

    method: bytes
    path: bytes
    version: bytes = b"1.1"
    #: What the client says of the connection: ``close``, ``keep-alive`` or nothing.
    option: bytes = b""
    body: bytes = b""
    chunked: bool = False

    @property
    def data(self) -> bytes:
        """The bytes of it."""
        head = b"%b %b HTTP/%b\r\nHost: a\r\n" % (self.method, self.path, self.version)
        if self.option:
            head += b"Connection: %b\r\n" % self.option
        if self.method != b"POST":
            return head + b"\r\n"
        if self.chunked:
            return head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(self.body), self.body)
        return head + b"Content-Length: %d\r\n\r\n%b" % (len(self.body), self.body)

    @property
    def is_last(self) -> bool:
        """Whether nothing is answered after it."""
        if self.version == b"1.1":
            return self.option == b"close"
        # Only a length tells such a client where an answer ends.
        return self.option != b"keep-alive" or self.path not in MEASURED

    def whole(self, body: bytes, name: str) -> bool:
        """Tell whether *body* is the whole of the answer's, for the client *name*."""
        own = b"<" + name.encode() + b">"
        if self.method == b"HEAD":
            return not body
        if self.path == b"/later":
            return not body.replace(own, b"")
        return body == (FIXED.get(self.path) or (own * 3 if self.path == b"/mine" else own + self.body))

    def begins(self, body: bytes, name: str) -> bool:
        """Tell whether the answer's body may begin with *body*."""
        own = b"<" + name.encode() + b">"
        if self.method == b"HEAD":
            return not body
        if self.path == b"/later":
            return (own * 4).startswith(body)
        return (FIXED.get(self.path) or (own * 3 if self.path == b"/mine" else own + self.body)).startswith(body)


def any_request(dice: random.Random) -> Asked:
    """Return a request that a server has to understand."""
    if dice.random() < 0.3:
        body = dice.randbytes(dice.randrange(1, 300))
        return Asked(b"POST", b"/echo", option=dice.choice((b"", b"", b"close")), body=body, chunked=dice.random() < 0.5)
    path = dice.choice((b"/mine", b"/mine", b"/later", b"/big", b"/file", b"/pull", b"/push"))
    method = dice.choice((b"GET", b"GET", b"GET", b"HEAD"))
    version, option = dice.choice(
        (
            (b"1.1", b""),
            (b"1.1", b""),
            (b"1.1", b""),
            (b"1.1", b"close"),
            (b"1.0", b""),
            (b"1.0", b"keep-alive"),
            (b"1.0", b"close"),
        )
    )
    return Asked(method, path, version, option)


def read_answers(seen: bytes, asked: list[Asked], name: str, *, ended: bool) -> int:
    """Return how many of the answers to *asked* are whole; raise where *seen* is anything but their beginning.

    *ended*: the server has said that nothing more comes, so that nothing may be missing of the last.
    """
    for nth, request in enumerate(asked):
        if not seen:
            return nth
        body, rest = _read_answer(seen, request, ended=ended)
        if rest is None:
            if not request.begins(body, name):
                raise AssertionError(f"{name}: {request} has another answer's body, somewhere before byte {len(body)}")
            return nth
        if not request.whole(body, name):
            raise AssertionError(f"{name}: the answer to {request} is not the one, {len(body)} bytes: {body[:60]!r}")
        seen = rest
        if request.is_last:
            if seen:
                raise AssertionError(f"{name}: something was said after the last answer: {seen[:60]!r}")
            return nth + 1
    if seen:
        raise AssertionError(f"{name}: something was said that nobody has asked for: {seen[:60]!r}")
    return len(asked)


def _read_answer(seen: bytes, request: Asked, *, ended: bool) -> tuple[bytes, bytes | None]:
    """Return the body of the first answer, and what is behind it; ``None`` where it is not whole."""
    reader = h11.Connection(h11.CLIENT)
    reader.send(h11.Request(method=request.method, target="/", headers=[("Host", "a")]))
    reader.send(h11.EndOfMessage())
    reader.receive_data(seen)
    body = b""
    while not isinstance(event := reader.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Response) and event.status_code != 200:
            raise AssertionError(f"{request} was answered {event.status_code}")
        if isinstance(event, h11.Data):
            body += bytes(event.data)
        elif event is h11.NEED_DATA:
            if not ended:
                return body, None
            # Raises where a length or a last chunk says that there is more.
            reader.receive_data(b"")
    return body, bytes(reader.trailing_data[0])
