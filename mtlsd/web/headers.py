"""Headers as twisted.web has them, without looking twice for what has been made sure of once.

A fifth of what twisted.web spends on a small request goes into the spelling of header names, and into looking for line
ends in values that cannot have any.
"""

from __future__ import annotations

from collections.abc import Iterable

from twisted.web.http_headers import Headers

#: Spellings of names that are kept; a client that makes up more only costs itself time.
_MOST_NAMES = 1000


class HeaderNames(dict[bytes, bytes]):
    """The names as twisted.web writes them (``Content-Type``), by every spelling that has come so far."""

    def __missing__(self, name: bytes) -> bytes:
        """Return how twisted.web writes *name*.  Raises ValueError where it is no name."""
        headers = Headers()
        headers.addRawHeader(name, b"")
        known = next(iter(headers.getAllRawHeaders()))[0]
        if len(self) < _MOST_NAMES:
            self[name] = known
        return known


class PlainHeaders(Headers):
    """Headers that can be filled with names and values that are known to be sound."""

    __slots__ = ()

    #: The values by name, written as twisted.web writes it: no CR or LF may get in here.  (Another name of the slot, for
    #: a property would be a call.)
    plain: dict[bytes, list[bytes]] = Headers._rawHeaders  # type: ignore[misc]


def received(pairs: Iterable[tuple[bytes, bytes]], names: HeaderNames) -> PlainHeaders:
    """Return the headers of (name, value) *pairs* in which a parser has found no CR or LF."""
    headers = PlainHeaders()
    plain = headers.plain
    for spelling, value in pairs:
        name = names[spelling]
        # RFC 9112 5.1: white space around a value is not part of it; llhttp leaves what comes after it.
        if name in plain:
            plain[name].append(value.rstrip(b" \t"))
        else:
            plain[name] = [value.rstrip(b" \t")]
    return headers
