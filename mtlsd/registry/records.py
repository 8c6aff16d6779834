"""What a registry knows of a certificate: an authorization, a tombstone, or nothing.

Pure values; a :class:`Snapshot` of them is what a registry publishes, whole, in one assignment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from types import MappingProxyType
from typing import TypeAlias

from mtlsd.identity import Certificate


@dataclass(frozen=True, slots=True)
class Authorization:
    """One certificate, authorized under the name of a client.

    ``ends`` is when it stops (aware, UTC): the certificate's own end, later by the operator's ``grace``, or
    earlier by a ``[retire]`` time.  ``file`` is where the authorization stands, for messages.  ``retires`` is the fingerprint
    of the certificate that is to end once this one has been used, for it was renewed by it; ``None`` where there is none,
    or its end is set already.  ``replaced``: a newer one, which this one has let in, is in use, so its end is no loss.
    """

    client: str
    certificate: Certificate
    ends: datetime
    groups: tuple[str, ...] = ()
    file: str = ""
    retires: str | None = None
    replaced: bool = False

    def on_grace(self, now: datetime) -> bool:
        """Tell whether the certificate has ended, and its client is let in by the operator's ``grace`` alone."""
        return self.certificate.not_after < now <= self.ends


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A revocation that wins over every authorization.

    Only ``fingerprint`` decides; the rest is what the tombstone's file tells, ``None`` where it does not.
    ``key_sha256`` is the hex SHA-256 of the revoked certificate's SubjectPublicKeyInfo.
    """

    fingerprint: str
    client: str | None = None
    time: str | None = None
    reason: str | None = None
    key_sha256: str | None = None


#: What a registry answers for a fingerprint.
Standing: TypeAlias = Authorization | Tombstone | None


@dataclass(frozen=True)
class Snapshot:
    """Everything a registry knows at one moment: two mappings by fingerprint (64 lower-case hex digits)."""

    authorized: Mapping[str, Authorization] = field(default_factory=lambda: MappingProxyType({}))
    tombstones: Mapping[str, Tombstone] = field(default_factory=lambda: MappingProxyType({}))

    def standing(self, fingerprint: str) -> Standing:
        """Return what is known of *fingerprint*.  A tombstone wins over every authorization."""
        return self.tombstones.get(fingerprint) or self.authorized.get(fingerprint)

    def clients(self) -> frozenset[str]:
        """Return the names of the clients that have a certificate."""
        return frozenset(authorization.client for authorization in self.authorized.values())

    @cached_property
    def buried_keys(self) -> Mapping[str, Tombstone]:
        """The tombstones by the hex SHA-256 of their certificate's public key, where they tell it; of several, the first."""
        found: dict[str, Tombstone] = {}
        for stone in self.tombstones.values():
            if stone.key_sha256 is not None:
                found.setdefault(stone.key_sha256, stone)
        return found

    def differs(self, other: Snapshot) -> frozenset[str]:
        """Return the fingerprints whose standing in *other* is not what it is here."""
        # Identity first: most records of 100,000 are the same objects before and after a reload.
        changed = set()
        for mine, theirs in ((self.authorized, other.authorized), (self.tombstones, other.tombstones)):
            for fingerprint in mine.keys() | theirs.keys():
                one, two = mine.get(fingerprint), theirs.get(fingerprint)
                if one is not two and one != two:
                    changed.add(fingerprint)
        return frozenset(changed)
