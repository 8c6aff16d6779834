"""The two lines of a join: docs/protocol.md.  Pure."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping

from mtlsd.enrol.invitation import SECRET

#: Bytes of the line that asks, with its end, and of the line that answers.
LONGEST, LONGEST_ANSWER = 512, 16_384
#: What is said to whoever may not join: one answer, whether the invite is wrong, used or has expired.
REFUSED = "refused"
#: … to an address that has failed too often,
LATER = "later"
#: … and where it is the server's fault, and the invite as good as before.
FAILED = "failed"


def request_with(secret: bytes) -> bytes:
    """Return the line that asks to join."""
    return _line({"secret": base64.b32encode(secret).decode("ascii").rstrip("=").lower()})


def secret_in(line: bytes) -> bytes | None:
    """Return the secret in what a peer has sent, without its line end; ``None`` for anything that is not exactly that."""
    try:
        told = json.loads(line)
        text = told["secret"] if isinstance(told, dict) and told.keys() == {"secret"} else None
        secret = base64.b32decode(text.upper() + "=" * (-len(text) % 8)) if isinstance(text, str) else b""
    except (ValueError, RecursionError, binascii.Error):
        return None
    return secret if len(secret) == SECRET else None


def welcome_line(client: str, groups: tuple[str, ...], fingerprint: str | None) -> bytes:
    """Return the answer to somebody who has joined."""
    return _line({"client": client, "groups": list(groups), "fingerprint": fingerprint})


def error_line(error: str) -> bytes:
    """Return the answer to somebody who has not."""
    return _line({"error": error})


def answer_in(line: bytes) -> Mapping[str, object] | None:
    """Return what a server has answered; ``None`` for anything that is no answer."""
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) else None


def _line(told: Mapping[str, object]) -> bytes:
    return json.dumps(told, ensure_ascii=True).encode("ascii") + b"\n"
