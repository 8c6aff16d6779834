"""What goes over the wire, and in how many pieces: a packet costs more than all that is computed for a small one."""

from __future__ import annotations

import socket
import struct

from tests.acceptance.harness import AcceptanceTestCase
from tests.acceptance.peers import Cut, TlsClient

#: tcpi_data_segs_in of struct tcp_info (linux/tcp.h): a number of 32 bits.
_DATA_SEGMENTS_IN = 152


class PacketTests(AcceptanceTestCase):
    """A short connection over loopback, where a packet holds 64 KiB."""

    def test_a_short_connection(self) -> None:
        """The tickets, the answer and the close would be four packets, each as dear as a system call and an interrupt at both ends."""
        alice = self.new_client("alice")
        server = self.serve()
        with TlsClient(server.port, alice) as client:
            # The end of the handshake and the request go out together, as browsers and curl send them.
            client._driven(client.tls.do_handshake)
            client.send(b"GET /hello HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            self.assertEqual(client.response().body, b"Hello: alice\n")
            self.assertRaises(Cut, client.receive)
            info = client.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        (segments,) = struct.unpack_from("I", info, _DATA_SEGMENTS_IN)
        self.assertEqual(segments, 2)
