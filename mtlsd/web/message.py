"""A request as it comes in."""

from __future__ import annotations

from mtlsd.web.headers import PlainHeaders


class Message:
    """A request as it comes in.

    ``length`` is the Content-Length, ``None`` where the body is chunked.  ``pieces`` are those of the body that nobody
    has taken yet.  ``keep_alive`` tells whether the client wants to go on with the connection, ``upgrade`` whether it asks
    for another protocol, so that nothing behind this is a request.  ``trailers`` are those behind the body, once it is
    complete; they are no headers, and nobody has judged them.

    One ``is_known`` stands for every request of the same bytes (:mod:`mtlsd.web.heads`): nothing in it is ever changed.
    """

    __slots__ = (
        *("complete", "forwarded", "headers", "is_known", "keep_alive", "length", "method", "pieces", "target", "trailers"),
        *("upgrade", "version"),
    )

    def __init__(
        self,
        method: bytes,
        target: bytes,
        version: bytes,
        headers: PlainHeaders,
        length: int | None,
        keep_alive: bool,
        upgrade: bool = False,
    ) -> None:
        self.method = method
        self.target = target
        self.version = version
        self.headers = headers
        self.length = length
        self.keep_alive = keep_alive
        self.upgrade = upgrade
        self.pieces: list[bytes] = []
        self.trailers: PlainHeaders | None = None
        self.complete = self.is_known = False
        #: What the proxy has made of a known one's headers, and for which route's ``strip``.
        self.forwarded: tuple[object, bytes] | None = None

    def headers_of_its_own(self) -> PlainHeaders:
        """Return the headers, for somebody who does with them as he likes."""
        if not self.is_known:
            return self.headers
        headers = PlainHeaders()
        headers.plain.update({name: values.copy() for name, values in self.headers.plain.items()})
        return headers
