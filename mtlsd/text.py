"""Text from strangers, made fit for a terminal or a log line; and times in words."""

import unicodedata
from datetime import timedelta


def printable(text: str) -> str:
    r"""Escape what a terminal or a log reader could act on.

    Control characters, line ends, ESC, NUL and the bidirectional overrides (CVE-2021-42574) come back as
    ``\xNN``, ``\uNNNN`` or ``\UNNNNNNNN``; everything printable is kept.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "surrogatepass").decode("ascii")
        for character in text
    )


def shortened(text: str, width: int) -> str:
    """Cut printable *text* to *width* characters, with an ellipsis where something is missing."""
    return text if len(text) <= width else text[: width - 1] + "…"


def columns(text: str) -> int:
    """Return how many columns of a terminal printable *text* takes: two for 名 and for an emoji, none for a combining mark."""
    if text.isascii():
        return len(text)
    return sum(map(_columns_of, text))


def cut(text: str, width: int) -> str:
    """Cut printable *text* to *width* columns of a terminal, with an ellipsis where something is missing."""
    if columns(text) <= width:
        return text
    kept, left = "", width - 1
    for character in text:
        left -= _columns_of(character)
        if left < 0:
            break
        kept += character
    return kept + "…"


def _columns_of(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def days_left(left: timedelta) -> str:
    """Return the time until an end, not negative, in words of days: ``1 day left``, ``1,200 days left``.

    A day that has begun counts: what was made for a year just now has 365 days left.
    """
    days = max(1, -(-left // timedelta(days=1)))
    return f"{days:,} day{'s' if days > 1 else ''} left"
