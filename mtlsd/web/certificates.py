"""``/.mtlsd/server``: which certificates the server shows, now and next, for clients that know it by these alone.

docs/protocol.md has the exchange.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from mtlsd.audit.events import rfc3339
from mtlsd.identity import Certificate
from mtlsd.web.request import Request
from mtlsd.web.site import Branch


@dataclass(frozen=True, slots=True)
class Announced:
    """A certificate of the server's, PEM too, and from when it is used; ``None``: now."""

    facts: Certificate
    pem: str
    since: datetime | None = None


class ServerCertificates(Branch):
    """Tells every client that is let in, for it is on a connection whose server has proven the first of them."""

    def __init__(self, announced: Callable[[], Sequence[Announced]]) -> None:
        """*announced* gives what is true at this moment, the one in force first."""
        super().__init__()
        self._announced = announced

    def render_GET(self, request: Request) -> bytes:
        request.setHeader(b"Content-Type", b"application/json")
        request.setHeader(b"Cache-Control", b"no-store")
        told = [
            {
                "certificate": one.pem,
                "fingerprint": one.facts.fingerprint,
                "from": None if one.since is None else rfc3339(one.since),
                "not_after": rfc3339(one.facts.not_after),
            }
            for one in self._announced()
        ]
        return json.dumps({"certificates": told}).encode("ascii") + b"\n"
