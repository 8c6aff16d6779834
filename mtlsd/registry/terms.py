"""``authorized/NAME.toml``: the operator's terms for a client.  Pure.

Strict: an unknown key or a wrong type is an error.  A misspelt ``[retire]`` that is passed over in silence would
leave somebody in.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

from mtlsd.durations import NONE, read_duration
from mtlsd.errors import SettingsError
from mtlsd.identity import parse_fingerprint
from mtlsd.text import printable, shortened

#: The name of a group.
GROUP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:[Zz]|[+-]\d\d:\d\d)\Z", re.ASCII)
_LATEST = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Terms:
    """Groups, the time that an ended certificate stays good, and the time (aware, UTC) at which one stops early.

    ``renewed`` tells of certificates that clients have renewed by themselves: the new one's fingerprint, and the old one's.
    """

    groups: tuple[str, ...] = ()
    grace: timedelta = timedelta()
    retire: Mapping[str, datetime] = field(default_factory=lambda: MappingProxyType({}))
    renewed: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def ends(self, fingerprint: str, not_after: datetime) -> datetime:
        """Return when an authorization stops: the certificate's end and the grace, or its retirement if sooner."""
        try:
            end = not_after + self.grace if self.grace else not_after
        except OverflowError:
            # 99991231235959Z is how RFC 5280 4.1.2.5 writes "no end".
            end = _LATEST
        retired = self.retire.get(fingerprint)
        return end if retired is None else min(end, retired)

    def heirs(self, fingerprint: str) -> frozenset[str]:
        """Return what was renewed from this certificate, what was renewed from that, and so on."""
        found: set[str] = set()
        waiting = [fingerprint]
        while waiting:
            old = waiting.pop()
            fresh = {new for new, of in self.renewed.items() if of == old} - found
            found |= fresh
            waiting += fresh
        return frozenset(found)


def read_terms(data: bytes) -> Terms:
    """Read the text of a ``NAME.toml``.

    Raises :exc:`~mtlsd.errors.SettingsError`, with the cause but not the file, for anything that is not exactly
    ``groups`` (a list of names), ``grace`` (``7d``, ``12h``, ``30m``, ``45s`` or ``0``), ``[retire]`` (fingerprint =
    a time with its offset) and ``[renewed]`` (fingerprint = fingerprint).
    """
    try:
        table = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"not TOML: {_shown(str(error) or type(error).__name__)}") from error
    unknown = sorted(table.keys() - {"groups", "grace", "retire", "renewed"})
    if unknown:
        raise SettingsError(f"unknown key {_shown(unknown[0])}; groups, grace, [retire] and [renewed] are known")
    return Terms(
        _groups(table.get("groups", [])),
        _grace(table.get("grace", "0")),
        _retire(table.get("retire", {})),
        _renewed(table.get("renewed", {})),
    )


def _groups(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(group, str) and GROUP_NAME.match(group) for group in value):
        raise SettingsError("groups is a list of names (letters, digits, dots, dashes and underscores)")
    return tuple(dict.fromkeys(value))


def _grace(value: object) -> timedelta:
    if value == NONE:
        return timedelta()
    with suppress(ValueError):
        if isinstance(value, str):
            return read_duration(value)
    raise SettingsError('grace is a text like "7d", "12h", "30m", "45s" or "0"')


def _retire(value: object) -> Mapping[str, datetime]:
    if not isinstance(value, dict):
        raise SettingsError("[retire] is a table: fingerprint = time")
    times: dict[str, datetime] = {}
    for key, time in value.items():
        fingerprint = _fingerprint("retire", key)
        if fingerprint in times:
            raise SettingsError(f"[retire] {fingerprint}: it is there twice")
        times[fingerprint] = _time(fingerprint, time)
    return MappingProxyType(times)


def _renewed(value: object) -> Mapping[str, str]:
    if not isinstance(value, dict):
        raise SettingsError("[renewed] is a table: new fingerprint = old fingerprint")
    renewed: dict[str, str] = {}
    for key, old in value.items():
        new = _fingerprint("renewed", key)
        if new in renewed:
            raise SettingsError(f"[renewed] {new}: it is there twice")
        if not isinstance(old, str):
            raise SettingsError(f"[renewed] {new}: the old fingerprint, a text, is wanted")
        renewed[new] = _fingerprint("renewed", old)
    return MappingProxyType(renewed)


def _fingerprint(table: str, text: str) -> str:
    try:
        return parse_fingerprint(text)
    except ValueError as error:
        raise SettingsError(f"[{table}] {_shown(text)}: {error}") from error


def _time(fingerprint: str, value: object) -> datetime:
    try:
        if isinstance(value, str) and _RFC_3339.match(value):
            value = datetime.fromisoformat(value.upper())
        if isinstance(value, datetime) and value.tzinfo is not None:
            return value.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise SettingsError(f"[retire] {fingerprint}: not a time with its offset, like 2026-12-31T12:00:00Z")


def _shown(text: str) -> str:
    return shortened(printable(text), 100)
