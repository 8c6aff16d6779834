"""The events of the audit log and of the ledger.

Pure values.  One event is one JSON object on one line; the keys are a contract (docs/events.md).
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple

from mtlsd.identity import Certificate, Tls

#: json.dumps would make one of these for each line.
_JSON = json.JSONEncoder(ensure_ascii=True, separators=(", ", ": "))


class Kind(StrEnum):
    """What an event says happened."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    #: A live connection was cut because its certificate was revoked.
    REVOKED = "revoked"
    #: A live connection was cut because its certificate came to its end.
    EXPIRED = "expired"
    #: An unknown certificate was refused, and is kept for the operator from now on.
    PENDING = "pending"
    #: The command authorized a certificate that had been refused and kept.
    APPROVED = "approved"
    #: The command removed one that had been kept, without authorizing it.
    DISMISSED = "dismissed"
    #: The command authorized a certificate.
    AUTHORIZED = "authorized"
    #: The command revoked a client's certificate.
    REVOKED_CLIENT = "revoked-client"
    #: The command invited somebody to join under a name.
    INVITED = "invited"
    #: The command took an invite back.
    UNINVITED = "uninvited"
    #: Somebody who was invited has joined: its certificate is authorized.
    JOINED = "joined"
    #: A client has renewed its certificate: another one is authorized under its name.
    RENEWED = "renewed"
    #: The end of a certificate that was renewed has been set.
    RETIRED = "retired"


class Event(NamedTuple):
    """One line of the audit log or of the ledger.

    ``time`` is aware.  ``client`` is the authorized name or ``None``; ``fingerprint``, ``subject`` and ``not_after``
    are of the leaf that was shown; ``peer`` is (address, port); ``detail`` is fixed text of ours or of OpenSSL, never
    of the peer; ``actor`` is the system user who gave the command, in the ledger.
    """

    time: datetime
    event: Kind
    reason: str | None = None
    connection: str | None = None
    listener: str | None = None
    client: str | None = None
    fingerprint: str | None = None
    subject: str | None = None
    not_after: datetime | None = None
    peer: tuple[str, int] | None = None
    tls: Tls | None = None
    remedy: str | None = None
    detail: str | None = None
    actor: str | None = None

    def as_dict(self) -> dict[str, object]:
        """Return the JSON object: text, numbers, booleans and ``None`` only."""
        return {
            "time": rfc3339(self.time),
            "event": str(self.event),
            "connection": self.connection,
            "listener": self.listener,
            "reason": None if self.reason is None else str(self.reason),
            "client": self.client,
            "fingerprint": self.fingerprint,
            "subject": self.subject,
            "not_after": None if self.not_after is None else rfc3339(self.not_after),
            "peer": None if self.peer is None else {"address": self.peer[0], "port": self.peer[1]},
            "tls": None if self.tls is None else tls_as_dict(self.tls),
            "remedy": self.remedy,
            "detail": self.detail,
            "actor": self.actor,
        }

    def as_json(self) -> str:
        """Return one line of ASCII without its line end: nothing in a certificate can break out of it."""
        return _JSON.encode(self.as_dict())

    def in_words(self) -> str:
        """Return one readable line, for the service's log."""
        words = [str(self.event)]
        if self.client is not None:
            words.append(self.client)
        if self.peer is not None:
            words.append(f"from {endpoint(*self.peer)}")
        if self.event is Kind.REJECTED:
            words.append(f"because {self.reason}")
        if self.detail is not None:
            words.append(f"({self.detail})")
        if self.fingerprint is not None:
            words.append(f"certificate {self.fingerprint} {self.subject or ''}".rstrip())
        if self.tls is not None:
            words.append(" ".join(filter(None, (self.tls.version, self.tls.cipher, self.tls.group))))
            if self.tls.resumed:
                words.append("resumed")
        line = " ".join(words)
        if self.remedy is not None:
            line += f"; to put it right: {self.remedy}"
        return line if self.connection is None else f"{line} [{self.connection}]"


def certificate_fields(certificate: Certificate | None) -> tuple[str | None, str | None, datetime | None]:
    """Return (fingerprint, subject, not_after) as an event has them."""
    if certificate is None:
        return None, None, None
    return certificate.fingerprint, certificate.subject, certificate.not_after


def tls_as_dict(tls: Tls) -> dict[str, object]:
    """Return the JSON object of what was negotiated."""
    return {"version": tls.version, "cipher": tls.cipher, "group": tls.group, "resumed": tls.resumed}


def rfc3339(time: datetime) -> str:
    """Return an aware time in UTC with milliseconds, as RFC 3339 has it."""
    if time.tzinfo is not UTC:
        time = time.astimezone(UTC)
    return time.isoformat(timespec="milliseconds")[: -len("+00:00")] + "Z"


def endpoint(address: str, port: int) -> str:
    """Return ``address:port``, with brackets around an IPv6 address (RFC 3986 3.2.2)."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
