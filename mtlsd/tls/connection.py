"""pyOpenSSL's Connection, without what it does anew for each record.

It makes a buffer for each read, looks at each write's type, and asks three times after each call that went well whether
a callback has failed.  That is as much as a small request's TLS costs OpenSSL itself.  Where something is not as it is
in most cases, and in every error, pyOpenSSL's own methods do the work.
"""

from __future__ import annotations

import socket
from typing import Any

from OpenSSL import SSL, crypto
from OpenSSL._util import ffi, lib

#: The plaintext of one TLS record, at most, in bytes (RFC 8446 5.1).
RECORD = 16_384


def make_room() -> Any:
    """Return a place for what is read; it is copied from there at once."""
    return ffi.new("char[]", RECORD)


def same(one: crypto.X509, other: crypto.X509) -> bool:
    """Tell whether two wrappers are of one certificate in memory: then it needs not be compared byte by byte."""
    return bool(one._x509 == other._x509)


class Connection(SSL.Connection):
    """One TLS connection of the front door."""

    def __init__(self, context: SSL.Context, sock: socket.socket | None, room: Any) -> None:
        """*room* is from :func:`make_room`: the connections of one thread may share it."""
        super().__init__(context, sock)
        self._room = room

    def recv_record(self) -> bytes:
        """Return what the next record holds.  Raises what :meth:`OpenSSL.SSL.Connection.recv` raises."""
        size = lib.SSL_read(self._ssl, self._room, RECORD)
        if size > 0:
            data: bytes = ffi.buffer(self._room, size)[:]
            return data
        self._raise_ssl_error(self._ssl, size)
        raise SSL.ZeroReturnError

    def send_bytes(self, data: bytes) -> int:
        """Give *data* to OpenSSL and return how much it took.  Raises what :meth:`OpenSSL.SSL.Connection.send` raises."""
        size: int = lib.SSL_write(self._ssl, data, len(data))
        if size > 0:
            return size
        self._raise_ssl_error(self._ssl, size)
        return 0
