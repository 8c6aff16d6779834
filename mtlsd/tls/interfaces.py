"""What a connection offers to the protocol of a join, which is served before anybody is accepted."""

from __future__ import annotations

from typing import Any

from zope.interface import Attribute, Interface

from mtlsd.policy import Reason


class IJoiningTransport(Interface):
    """A connection whose peer has proven its key and may ask to join.  It can never be authorized."""

    connection_id: str = Attribute("The connection's id in the audit log.")
    listener: str | None = Attribute("The address that was connected to.")
    peer: tuple[str, int] = Attribute("(address, port) of the other end.")

    def certificate() -> bytes:
        """Return the peer's certificate, DER."""

    def negotiated() -> Any:
        """Return what TLS has negotiated, an :class:`~mtlsd.identity.Tls`."""

    def deciding() -> None:
        """Say that the peer has said all: from here on the time is ours, and the verdict comes, even if the peer goes away."""

    def joined(client: str) -> None:
        """Give the verdict: accepted, as *client*."""

    def refused(reason: Reason, detail: str) -> None:
        """Give the verdict: rejected.  *detail* is for the operator."""

    def write(data: bytes) -> None:
        """Send *data*."""

    def loseConnection() -> None:
        """Close when all is sent."""
