"""The ALPN names (RFC 7301) that are spoken at the door."""

from __future__ import annotations

#: What clients speak who are let in.
HTTP = b"http/1.1"
#: What somebody speaks who holds an invite: docs/protocol.md.
JOIN = b"mtlsd-join/1"
