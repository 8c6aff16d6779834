"""Lengths of time as an operator writes them: ``30d``, ``12h``, ``30m``, ``45s``.  Pure."""

from __future__ import annotations

import re
from datetime import timedelta

_DURATION = re.compile(r"([0-9]{1,5})([dhms])\Z", re.ASCII)
_UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}


def read_duration(text: str) -> timedelta:
    """Read a length of time: a whole number, and ``d``, ``h``, ``m`` or ``s``.  Raises :exc:`ValueError`."""
    match = _DURATION.match(text)
    if match is None:
        raise ValueError("a length of time is a number and its unit, as 30d, 12h, 30m or 45s")
    number, unit = match.groups()
    return timedelta(**{_UNITS[unit]: int(number)})
