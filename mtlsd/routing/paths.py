"""One spelling for each path.  Pure.

A rule is only as good as the agreement between whoever judges a path and whoever acts on it.  So a path has one
canonical form: it is what is judged, and the same bytes are what is handed on.  What two readers may take for two
things has none, and is refused.
"""

from __future__ import annotations

import re

# RFC 3986 2.3: the only characters that mean the same whether they are escaped or not.
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_PLAIN = re.compile(rb"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*/?")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})?")
# Some servers take a backslash for a slash, and what follows a semicolon for no part of the path.
_AMBIGUOUS = re.compile(rb"[\\;\x00-\x20\x7f-\xff]")
_SLASH, _BACKSLASH, _DELETE, _SPACE = 0x2F, 0x5C, 0x7F, 0x20
# Escapes, in a canonical path, of what may stand there without one too: `@` is `%40` to whoever decodes it, and RFC 3986 2.2
# lets it be something else.
_ESCAPED_GRAPHIC = re.compile(rb"%(2[1246-9A-C]|3[AC-E]|40|5[BDE]|60|7[B-D])")


class PathError(ValueError):
    """A path has no canonical form: one line that says why, without any of its text."""


def canonical(path: bytes) -> bytes:
    """Return the one spelling of *path*, which is without its query.

    Escapes of unreserved characters are undone, the others are in upper case (RFC 3986 6.2.2).  Raises
    :exc:`PathError` for a path with an empty segment, ``.`` or ``..``, an escaped slash, backslash or control character,
    ``\\``, ``;``, a byte that is not printable ASCII, or a broken escape.
    """
    if _PLAIN.fullmatch(path) and path:
        return path
    if not path.startswith(b"/"):
        raise PathError("a path begins with a slash")
    if _AMBIGUOUS.search(path):
        raise PathError("a path may not hold a backslash, a semicolon, or what is not printable ASCII")
    path = _ESCAPE.sub(_unescaped, path)
    *segments, last = path[1:].split(b"/")
    if b"" in segments:
        raise PathError("a path may not have an empty segment")
    if b"." in segments or b".." in segments or last in (b".", b".."):
        raise PathError("a path may not have a . or .. segment")
    return path


def alike(path: bytes) -> bytes:
    """Return what is the same for all canonical paths that an application may take for *path*: to compare, not to hand on."""
    return _ESCAPED_GRAPHIC.sub(_graphic, path) if b"%" in path else path


def _graphic(found: re.Match[bytes]) -> bytes:
    return bytes((int(found[1], 16),))


def _unescaped(found: re.Match[bytes]) -> bytes:
    if found[1] is None:
        raise PathError("an escape in a path is two hex digits")
    value = int(found[1], 16)
    if value in _UNRESERVED:
        return bytes((value,))
    # Also the rest of the control characters: a line end that somebody decodes begins a header.
    if value in (_SLASH, _BACKSLASH, _DELETE) or value < _SPACE:
        raise PathError("a path may not hold an escaped slash, backslash or control character")
    return found[0].upper()
