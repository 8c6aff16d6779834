"""The listening port: each connection that it accepts is a TLS transport on its own socket."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
import termios
from ipaddress import ip_address
from typing import Any

from twisted.internet import tcp
from twisted.internet.interfaces import INegotiated, IProtocol, IProtocolFactory
from zope.interface import implementer

from mtlsd.tls.context import ConnectionCreator
from mtlsd.tls.farewell import Farewells
from mtlsd.tls.transport import TLSTransport

_RESET = struct.pack("ii", 1, 0)
_DISCARDED = 65_536


@implementer(INegotiated)
class SocketTransport(TLSTransport):
    """A TLS transport on a socket."""

    def __init__(
        self, sock: socket.socket, client: tuple[Any, ...], protocol: IProtocol, port: Port, number: int, reactor: Any
    ) -> None:
        sock.setblocking(False)
        self._socket: socket.socket | None = sock
        self._client = client
        self._number = number
        self._address_type = port._addressType
        self._host = port.host
        self.fileno = sock.fileno  # type: ignore[method-assign]
        super().__init__(port.creator.connection(sock), protocol, reactor, port.farewells)
        self.startReading()

    def __repr__(self) -> str:
        return f"<TLS connection {self._number} from {self._client[0]}>"

    # ITCPTransport.

    def getHost(self) -> Any:
        if self._host is None:
            self._host = self._address_type("TCP", *self._wire().getsockname())
        return self._host

    def getPeer(self) -> Any:
        return self._address_type("TCP", *self._client)

    def getTcpNoDelay(self) -> bool:
        return bool(self._wire().getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    def setTcpNoDelay(self, enabled: bool) -> None:
        self._wire().setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, enabled)

    def getTcpKeepAlive(self) -> bool:
        return bool(self._wire().getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))

    def setTcpKeepAlive(self, enabled: bool) -> None:
        self._wire().setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, enabled)

    # What TLSTransport asks.

    def _cork(self) -> None:
        if self._socket is not None:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)

    def _uncork(self) -> None:
        # To close it, or to end its writing, sends what is held back too.
        if self._socket is not None:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)

    def _discard(self) -> int | None:
        try:
            return len(self._wire().recv(_DISCARDED)) or None
        except BlockingIOError:
            return 0
        except OSError:
            return None

    def _end_of_writing(self) -> None:
        # Where it is gone already, the next read will tell.
        with contextlib.suppress(OSError):
            self._wire().shutdown(socket.SHUT_WR)

    def _untaken_by_peer(self) -> int:
        held: int = struct.unpack("i", fcntl.ioctl(self._wire(), termios.TIOCOUTQ, b"\0\0\0\0"))[0]
        return held

    def _close_wire(self, *, orderly: bool) -> None:
        sock, self._socket = self._socket, None
        if sock is None:
            return
        # From here on the reactor is told that there is no descriptor.
        del self.fileno
        if not orderly:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        sock.close()

    def _wire(self) -> socket.socket:
        if self._socket is None:
            raise OSError("the connection is closed")
        return self._socket


class Port(tcp.Port):
    """Listens, and hands each connection to OpenSSL.  Accepting, running out of descriptors and stopping are Twisted's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.creator: ConnectionCreator
        self.farewells: Farewells
        #: The one address that all connections come to, where it is one.
        self.host: Any = None

    @classmethod
    def adopt(
        cls,
        reactor: Any,
        listening: socket.socket,
        factory: IProtocolFactory,
        creator: ConnectionCreator,
        farewells: Farewells,
    ) -> Port:
        """Start to accept on a socket that is bound and listens.  The port works on a duplicate of its descriptor."""
        port: Port = cls._fromListeningDescriptor(reactor, listening.fileno(), listening.family, factory)
        port.creator = creator
        port.farewells = farewells
        port.startListening()
        if not ip_address(listening.getsockname()[0].partition("%")[0]).is_unspecified:
            port.host = port.getHost()
        return port

    def transport(  # type: ignore[override]
        self, sock: socket.socket, protocol: IProtocol, client: tuple[Any, ...], port: Port, number: int, reactor: Any
    ) -> SocketTransport:
        """Make the transport of a connection: tcp.Port calls it so."""
        return SocketTransport(sock, client, protocol, self, number, reactor)
