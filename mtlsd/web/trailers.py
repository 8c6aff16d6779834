"""What comes behind a body, read: apart from the headers, for whoever asks for it, or refused.  Pure."""

from __future__ import annotations

from mtlsd.web.headers import HeaderNames, PlainHeaders, received

#: Behind a body these come too late (RFC 9110 6.5.1), and not for everybody: llhttp takes a ``Connection: close`` there at
#: its word, so that what follows is a request to one reader and none to another.
_TOO_LATE = frozenset({b"connection", b"proxy-connection", b"upgrade", b"transfer-encoding", b"content-length"})


class BadTrailers(Exception):
    """They can be read in two ways."""


class LargeTrailers(BadTrailers):
    """There are too many of them, or too much."""


def trailers(pairs: list[tuple[bytes, bytes]], names: HeaderNames, *, most: int, largest: int) -> PlainHeaders:
    """Return the trailers of (name, value) *pairs*: no more than *most* of them, and *largest* bytes.

    Raises :exc:`BadTrailers`.  As the head's, so: a parser has found no CR, LF or NUL in them.
    """
    if len(pairs) > most or sum(len(name) + len(value) + 4 for name, value in pairs) > largest:
        raise LargeTrailers
    if any(name.lower() in _TOO_LATE for name, _ in pairs):
        raise BadTrailers
    return received(pairs, names)
