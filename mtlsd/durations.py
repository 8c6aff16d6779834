"""Lengths of time as an operator writes them: ``30d``, ``12h``, ``30m``, ``45s``.  Pure."""

from __future__ import annotations

import re
from datetime import timedelta

_DURATION = re.compile(r"([0-9]{1,5})([dhms])\Z", re.ASCII)
_UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
#: How no time at all is written.
NONE = "0"


def read_duration(text: str) -> timedelta:
    """Read a length of time: a whole number, and ``d``, ``h``, ``m`` or ``s``.  Raises :exc:`ValueError`."""
    match = _DURATION.match(text)
    if match is None:
        raise ValueError("a length of time is a number and its unit, as 30d, 12h, 30m or 45s")
    number, unit = match.groups()
    return timedelta(**{_UNITS[unit]: int(number)})


def written(length: timedelta) -> str:
    """Return a length of time, in whole seconds, as :func:`read_duration` reads it, in the largest unit that fits; ``0`` for none."""
    for unit, name in _UNITS.items():
        one = timedelta(**{name: 1})
        if length and not length % one:
            return f"{length // one}{unit}"
    return NONE
