"""``NAME.toml`` as text: one line more in a table of it, some lines less, and nothing else touched.  Pure.

TOML has no writer that keeps comments.  So lines are put in and taken out, and whoever does that reads the result again:
what it should say is known.
"""

from __future__ import annotations

import re
from collections.abc import Set as AbstractSet
from datetime import datetime

from mtlsd.errors import SettingsError
from mtlsd.registry.terms import Terms, read_terms


def with_renewal(data: bytes, new: str, old: str) -> bytes:
    """Return *data* with the line that *new* was renewed from *old* (fingerprints)."""
    return _with_line(data, "renewed", f'{new} = "{old}"')


def with_retirement(data: bytes, fingerprint: str, at: datetime) -> bytes:
    """Return *data* with the line that a certificate ends *at* a time (aware, UTC, whole seconds)."""
    return _with_line(data, "retire", f"{fingerprint} = {at:%Y-%m-%dT%H:%M:%SZ}")


def without(
    data: bytes, renewals: AbstractSet[str], retirements: AbstractSet[str]
) -> tuple[bytes, AbstractSet[str], AbstractSet[str]]:
    """Return *data* without the lines of these fingerprints, and those whose line was there.

    Only lines that are exactly as the two functions above make them are taken out: others are the operator's.
    """
    removed: list[set[str]] = []
    for wanted, value in ((renewals, rb'"[0-9a-f]{64}"'), (retirements, rb"[0-9-]{10}T[0-9:]{8}Z")):
        line = re.compile(rb"^([0-9a-f]{64}) = " + value + rb"\n", re.MULTILINE)
        gone = {found[1].decode("ascii") for found in line.finditer(data)} & wanted
        data = line.sub(lambda found, gone=gone: b"" if found[1].decode("ascii") in gone else found[0], data)  # type: ignore[misc]
        removed.append(gone)
    return data, removed[0], removed[1]


def checked(data: bytes, wanted: Terms) -> bytes:
    """Return *data* if it says what is *wanted*; raises :exc:`~mtlsd.errors.SettingsError` where it does not."""
    try:
        if read_terms(data) == wanted:
            return data
    except SettingsError:
        pass
    raise SettingsError(
        "its text is in a form that cannot be changed safely: write [retire] and [renewed] as tables of their own"
    )


def _with_line(data: bytes, table: str, line: str) -> bytes:
    header = re.search(
        rb"^[ \t]*\[[ \t]*" + table.encode("ascii") + rb"[ \t]*\][ \t]*(?:#[^\n]*)?(?:\r?\n|\r?\Z)", data, re.MULTILINE
    )
    at = len(data) if header is None else header.end()
    before, after = data[:at], data[at:]
    apart = b"\n" if before and not before.endswith(b"\n") else b""
    if header is None:
        apart += (b"\n" if before else b"") + f"[{table}]\n".encode("ascii")
    return before + apart + line.encode("ascii") + b"\n" + after
