"""Text from strangers, made fit for a terminal or a log line."""


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
