"""``revoked/FINGERPRINT.json``: a revocation.  Pure.

Fails closed: the name of the file alone revokes.  What is inside only tells about it.
"""

from __future__ import annotations

import json

from mtlsd.errors import SettingsError
from mtlsd.identity import is_client_name, parse_fingerprint
from mtlsd.registry.records import Tombstone
from mtlsd.text import printable, shortened

_SUFFIX = ".json"


def fingerprint_in(file_name: str) -> str | None:
    """Return the fingerprint that a file of this name revokes, in whichever spelling, or ``None``."""
    stem = file_name[: -len(_SUFFIX)] if file_name.lower().endswith(_SUFFIX) else file_name
    try:
        return parse_fingerprint(stem)
    except ValueError:
        return None


def read_tombstone(fingerprint: str, data: bytes) -> Tombstone:
    """Read what a tombstone tells: its texts come out printable and short, ``None`` where they are not given.

    Raises :exc:`~mtlsd.errors.SettingsError`, with the cause but not the file; the caller revokes all the same.
    """
    try:
        told = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SettingsError("not JSON") from error
    if not isinstance(told, dict):
        raise SettingsError("not a JSON object")
    client, key = _text(told, "name"), _text(told, "key_sha256")
    return Tombstone(
        fingerprint,
        client=client if client is not None and is_client_name(client) else None,
        time=_text(told, "time"),
        reason=_text(told, "reason"),
        key_sha256=None if key is None else _digest(key),
    )


def _text(told: dict[str, object], key: str) -> str | None:
    value = told.get(key)
    return shortened(printable(value), 200) if isinstance(value, str) else None


def _digest(text: str) -> str | None:
    try:
        return parse_fingerprint(text)
    except ValueError:
        return None
