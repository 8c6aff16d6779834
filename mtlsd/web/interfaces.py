"""What the protocol that serves a client has instead of a TLS connection."""

from __future__ import annotations

from twisted.internet.interfaces import IProtocol, ITransport
from zope.interface import Attribute

from mtlsd.identity import Identity

#: What is sent in every answer.  No version: whoever knows it knows what to try.
SERVER = b"mtlsd"


class IAuthenticatedTransport(ITransport):
    """The transport of a client that was let in.

    The channel is its streaming producer (``IConsumer``), and slows it down where it also provides ``IPushProducer``.
    """

    connection_id = Attribute("Text that names the connection in the logs.")
    peer = Attribute("(address, port) of the client: text and a number.")
    disconnecting = Attribute("True once the connection is being closed: no further line is read (LineReceiver asks).")

    def authorize() -> Identity | None:
        """Ask the live registry again.  ``None``: no longer authorized, and the connection has been cut."""

    def certificate() -> bytes:
        """Return the client's certificate, DER: for whoever is told of it, never for a decision."""

    def hand_over(above: IProtocol) -> None:
        """Let *above* serve the client from here on, instead of whoever has until now.

        Where it is an ``IHalfCloseableProtocol``, it hears of it when the client sends nothing more.
        """

    def loseWriteConnection() -> None:
        """Tell the client, when all is sent, that nothing more comes; go on reading."""

    def hang_up() -> None:
        """Close when all is sent, as ``loseConnection``, to a client that has said that it sends nothing more."""

    def abortConnection() -> None:
        """Close at once, dropping what waits to be sent.  ``connectionLost`` may be called before this returns."""
