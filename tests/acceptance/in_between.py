"""Whoever answers in the server's place, or passes on what is said between a client and the server."""

from __future__ import annotations

import contextlib
import socket
import threading

from OpenSSL import SSL, crypto

from tests.acceptance.harness import DEADLINE


def server_context(certificate_pem: bytes, key_pem: bytes) -> SSL.Context:
    """Return the context of a server that asks for a certificate, takes any, and speaks what the client would like best."""
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.use_certificate(crypto.load_certificate(crypto.FILETYPE_PEM, certificate_pem))
    context.use_privatekey(crypto.load_privatekey(crypto.FILETYPE_PEM, key_pem))
    context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
    context.set_alpn_select_callback(lambda _, offered: offered[0])
    return context


def server_side(context: SSL.Context, connection: socket.socket) -> SSL.Connection:
    """Return the server's side of a connection; the handshake is still to be made."""
    connection.setblocking(True)
    tls = SSL.Connection(context, connection)
    tls.set_accept_state()
    return tls


def relay(client: socket.socket, port: int, heard: bytearray | None = None) -> None:
    """Pass on what *client* and the server on *port* say, until both are done; *heard* gets what the client has said."""
    with socket.create_connection(("127.0.0.1", port), DEADLINE) as server:
        back = threading.Thread(target=_pass_on, args=(server, client, bytearray()), daemon=True)
        back.start()
        _pass_on(client, server, bytearray() if heard is None else heard)
        back.join(DEADLINE)


def _pass_on(source: socket.socket, to: socket.socket, heard: bytearray) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            heard += data
            to.sendall(data)
        to.shutdown(socket.SHUT_WR)
