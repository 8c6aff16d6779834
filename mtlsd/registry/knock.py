"""``pending/FINGERPRINT.json``: a certificate that was shown and refused, and what is claimed of it.  Pure.

The certificate is what its name says, or the file is refused: the SHA-256 is looked at before anything else is
believed.  All the rest is hearsay, for whoever showed it had not proven its key.
"""

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import dataclass
from datetime import datetime

from mtlsd.audit.events import rfc3339
from mtlsd.errors import CertificateError, SettingsError
from mtlsd.identity import FINGERPRINT_DIGITS, Certificate
from mtlsd.registry.blocks import pem_of
from mtlsd.registry.pem import certificates_in

_SUFFIX = ".json"
_NAME = re.compile(rf"([0-9a-f]{{{FINGERPRINT_DIGITS}}}){re.escape(_SUFFIX)}", re.ASCII)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)
#: Bytes of a file: the largest certificate that is let in, as PEM, and the claims.
_MOST_BYTES = 32_768
_MOST_KNOCKS = 10**12


@dataclass(frozen=True, slots=True)
class Knock:
    """A certificate (and its DER) that was refused as unknown.

    ``address`` is where it was first shown from, ``first`` and ``last`` (aware, UTC) are when, ``count`` is how often,
    from wherever.  All of these, and the certificate's own subject, are claims.
    """

    certificate: Certificate
    der: bytes
    address: str
    first: datetime
    last: datetime
    count: int


def file_of(fingerprint: str) -> str:
    """Return the name of the file of a knock."""
    return fingerprint + _SUFFIX


def fingerprint_in(file_name: str) -> str | None:
    """Return the fingerprint that a file of this name is about; ``None`` for any other name."""
    found = _NAME.fullmatch(file_name)
    return found[1] if found else None


def written(der: bytes, address: str, first: datetime, last: datetime, count: int) -> bytes:
    """Return the text of a file."""
    told = {
        "certificate": pem_of(der).decode("ascii"),
        "address": address,
        "first": rfc3339(first),
        "last": rfc3339(last),
        "count": count,
    }
    return json.dumps(told, ensure_ascii=True, indent=1).encode("ascii") + b"\n"


def read_knock(fingerprint: str, data: bytes) -> Knock:
    """Read a file that is named after *fingerprint*.

    Raises :exc:`~mtlsd.errors.CertificateError` where it does not hold exactly the certificate of its name, and
    :exc:`~mtlsd.errors.SettingsError` where the rest is not as :func:`written` makes it; both with the cause but not the file.
    """
    if len(data) > _MOST_BYTES:
        raise SettingsError("it is larger than 32 KiB")
    try:
        told = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SettingsError("not JSON") from error
    if not isinstance(told, dict):
        raise SettingsError("not a JSON object")
    pem = told.get("certificate")
    found = certificates_in(pem.encode("utf-8", "replace")) if isinstance(pem, str) else None
    if found is None or len(found.certificates) != 1:
        raise CertificateError("there is not one certificate in it")
    if found.leaves[0].fingerprint != fingerprint:
        raise CertificateError("the certificate in it is another one than its name says")
    first, last, count = _time(told, "first"), _time(told, "last"), told.get("count")
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= _MOST_KNOCKS:
        raise SettingsError("count is no number of knocks")
    return Knock(found.leaves[0], found.certificates[0], _address(told), first, max(first, last), count)


def plain(address: str) -> str | None:
    """Return an address in its one spelling, without its zone; ``None`` for what is no IP address."""
    try:
        return str(ipaddress.ip_address(address.partition("%")[0]))
    except ValueError:
        return None


def _address(told: dict[str, object]) -> str:
    value = told.get("address")
    # A zone may be any text, and this one goes to terminals.
    if not isinstance(value, str) or "%" in value or plain(value) != value:
        raise SettingsError("address is no IP address")
    return value


def _time(told: dict[str, object], key: str) -> datetime:
    value = told.get(key)
    try:
        if isinstance(value, str) and _TIME.fullmatch(value):
            return datetime.fromisoformat(value)
    except ValueError:
        pass
    raise SettingsError(f"{key} is no time like 2026-11-23T23:57:18.204Z")
