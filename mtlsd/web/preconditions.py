"""Conditions under which a client wants a file (RFC 9110 13): what it has of it already, or which state of it it means."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from twisted.web.http import datetimeToString, stringToDatetime
from twisted.web.http_headers import Headers

NOT_MODIFIED, PRECONDITION_FAILED = 304, 412

# RFC 9110 8.8.3.
_TAG = re.compile(rb'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')


@dataclass(frozen=True, slots=True)
class State:
    """One state of a file: its entity tag, and when it was last modified, in whole seconds since 1970."""

    tag: bytes
    modified: int

    @classmethod
    def of(cls, modified: int, size: int) -> State:
        """Return the state of a file of *size* bytes that was *modified* at that time, in ns: to the ns, so the tag is strong."""
        # Twisted's Last-Modified is rounded up too.
        return cls(b'"%x-%x"' % (modified, size), math.ceil(modified / 10**9))

    def refusal(self, headers: Headers) -> int | None:
        """Return the status where a GET or HEAD with these *headers* is not for the file as it is, in the order of 13.2.2.

        A date that cannot be read is none; a tag that cannot be read is another than the file's.
        """
        wanted = headers.getRawHeaders(b"If-Match")
        if wanted is not None:
            if wanted != [b"*"] and self.tag not in _tags(wanted):
                return PRECONDITION_FAILED
        else:
            unmodified_since = _date(headers, b"If-Unmodified-Since")
            if unmodified_since is not None and self.modified > unmodified_since:
                return PRECONDITION_FAILED
        known = headers.getRawHeaders(b"If-None-Match")
        if known is not None:
            is_known = known == [b"*"] or self.tag in [tag.removeprefix(b"W/") for tag in _tags(known)]
        else:
            modified_since = _date(headers, b"If-Modified-Since")
            is_known = modified_since is not None and self.modified <= modified_since
        return NOT_MODIFIED if is_known else None

    def has_ranges_for(self, headers: Headers) -> bool:
        """Tell whether ranges are wanted of this state (13.1.5): parts of another would be put together with it."""
        wanted = headers.getRawHeaders(b"If-Range")
        return wanted is None or wanted in ([self.tag], [datetimeToString(self.modified)])


def _tags(values: Sequence[bytes]) -> list[bytes]:
    """Return the entity tags in a header; none where there is anything else in it."""
    whole = b",".join(values)
    return [] if _TAG.sub(b"", whole).strip(b" \t,") else _TAG.findall(whole)


def _date(headers: Headers, name: bytes) -> int | None:
    values = headers.getRawHeaders(name, [])
    if len(values) != 1:
        return None
    try:
        return int(stringToDatetime(values[0]))
    except (ValueError, IndexError):
        return None
