"""Requests that have come before, by their bytes: what is asked again need not be taken apart again.

Machines ask the same thing in the same words, and to read them costs as much as to answer.  What a parser makes of
bytes that begin where a request may begin depends on nothing but those bytes, so the outcome can be kept.
"""

from __future__ import annotations

from mtlsd.web.message import Message

#: Requests that are kept, and bytes of the longest.
_MOST, _LONGEST = 512, 1024
#: Whoever asks with a secret of somebody else's must not learn from the time it takes that it is right.  Any other header,
#: and any query, may hold one.
_WITHOUT_SECRETS = frozenset(
    {b"Host", b"User-Agent", b"Accept", b"Accept-Encoding", b"Accept-Language", b"Connection", b"Cache-Control"}
)


class KnownHeads:
    """The requests without a body, one to a piece, that any client of a site has sent."""

    def __init__(self) -> None:
        self._messages: dict[bytes, Message] = {}

    @property
    def count(self) -> int:
        """How many are kept."""
        return len(self._messages)

    def again(self, data: bytes) -> Message | None:
        """Return the request that *data* is, the same for all who ask it; ``None`` where it is not known."""
        return self._messages.get(data)

    def keep(self, data: bytes, message: Message) -> None:
        """Remember that *data*, the whole of it and no more, is *message*.  What is long, or may hold a secret, is not kept."""
        if len(data) > _LONGEST or b"?" in message.target or not message.headers.plain.keys() <= _WITHOUT_SECRETS:
            return
        if len(self._messages) >= _MOST:
            self._messages.clear()
        # From here on it is everybody's, for the one who has just asked too.
        message.is_known = True
        self._messages[data] = message
