"""What the server would say to a certificate, and why: the same predicate, asked ahead of time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from mtlsd.identity import Certificate
from mtlsd.policy import Allowed, Reason, decide, remedy
from mtlsd.registry.records import Authorization, Snapshot, Standing


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answer: ``standing`` is what the registry knows of the certificate, ``remedy`` a command or ``None``."""

    certificate: Certificate
    standing: Standing
    reason: Reason
    remedy: str | None

    @property
    def accepted(self) -> bool:
        return self.reason is Reason.AUTHORIZED

    @property
    def client(self) -> str | None:
        """The name under which the certificate is authorized, also where it is refused for its dates."""
        return self.standing.client if isinstance(self.standing, Authorization) else None

    def as_dict(self) -> dict[str, object]:
        """Return the JSON object of ``mtlsd explain --json``; its keys are a contract."""
        return {
            "accepted": self.accepted,
            "reason": str(self.reason),
            "client": self.client,
            "fingerprint": self.certificate.fingerprint,
            "remedy": self.remedy,
        }


def explained(leaf: Certificate, snapshot: Snapshot, now: datetime, *, kept: bool = False) -> Explanation:
    """Explain what would become of *leaf* with what *snapshot* knows; *now* is aware; *kept*: it waits to be approved."""
    standing = snapshot.standing(leaf.fingerprint)
    decision = decide(leaf, standing, now)
    if isinstance(decision, Allowed):
        return Explanation(leaf, standing, Reason.AUTHORIZED, None)
    return Explanation(leaf, standing, decision.reason, remedy(decision.reason, leaf, now, kept=kept))
