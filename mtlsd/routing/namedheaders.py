"""Names of headers as applications read them: the spellings that some application merges are one name.  Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

#: Takes the spellings of a name that some application merges to one, with lower(): CGI as some servers have it makes an
#: underscore of whatever is no letter or digit.
_ONE_FORM = bytes.maketrans(b"!#$%&'*+.^_`|~", b"-" * 14)
# RFC 9110 5.1, and a star at its end for whatever begins so.
_PATTERN = re.compile(r"[A-Za-z0-9!#$%&'+.^_`|~-]{1,100}\*?\Z")
#: Without these nobody could say where the request ends, or whom it is for; the first four are the door's own on either side.
_NEEDED = (b"connection", b"content-length", b"transfer-encoding", b"upgrade", b"host")


def one_form(name: bytes) -> bytes:
    """Return the one form of all spellings of *name*."""
    return name.lower().translate(_ONE_FORM)


@dataclass(frozen=True, slots=True)
class NamedHeaders:
    """Some names, in whatever spelling: ``exact`` ones, and all that begin with one of ``beginnings``, in their one form."""

    exact: frozenset[bytes] = frozenset()
    beginnings: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, patterns: Iterable[str]) -> NamedHeaders:
        """Read names, each with a ``*`` at its end where it stands for whatever begins so."""
        forms = [(one_form(pattern.removesuffix("*").encode("ascii")), pattern.endswith("*")) for pattern in patterns]
        return cls(
            frozenset(form for form, is_beginning in forms if not is_beginning),
            tuple(form for form, is_beginning in forms if is_beginning),
        )

    def __contains__(self, name: bytes) -> bool:
        form = one_form(name)
        return form in self.exact or form.startswith(self.beginnings)


def objection(pattern: str) -> str | None:
    """Return what is wrong with a name for :meth:`NamedHeaders.of`; ``None`` for one that is right."""
    if not _PATTERN.match(pattern):
        return "the name of a header is wanted, with a star at its end for all that begin so"
    names = NamedHeaders.of([pattern])
    needed = next((name.decode("ascii") for name in _NEEDED if name in names), None)
    return None if needed is None else f"no request goes on without {needed}"
