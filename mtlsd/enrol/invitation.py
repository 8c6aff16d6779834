"""The line that an operator sends to whoever is invited: ``mtlsd://HOST:PORT/NAME/CODE``.  Pure.

CODE is base32 (RFC 4648), lower case, of the SHA-256 of the server's certificate, the secret, and a checksum over all that
comes before it, the address and the name included: 50 bytes, so there is no padding, and no character that a chat, a shell
or Markdown takes for its own.  A line that was mangled on its way is noticed before anybody connects.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from dataclasses import dataclass, field
from itertools import accumulate

from mtlsd.errors import MtlsdError
from mtlsd.identity import is_client_name
from mtlsd.keys import read_endpoint

#: Bytes of a secret: 128 bits are beyond guessing.
SECRET = 16
#: The longest line that can be one, in characters, however it was broken up.
LONGEST = 4096

_FINGERPRINT = hashlib.sha256().digest_size
_CHECK = 2
_SCHEME = "mtlsd://"
_CODE = (_FINGERPRINT + SECRET + _CHECK) * 8 // 5
_LINE = re.compile(rf"([^/\s]{{3,300}})/([^/\s]{{1,64}})/([a-z2-7]{{{_CODE}}})\Z", re.ASCII | re.IGNORECASE)
#: What a chat or an editor adds that nobody sees: soft hyphen, zero-width marks, byte order mark.
_UNSEEN = dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"))
#: What people put around a thing that they quote, and behind it.
_QUOTES = "<>`'\"()[]*.,;:!\u00bb\u2019\u201d"


class NoInvitation(MtlsdError):
    """A text is no invitation, or one that was mangled on its way."""


@dataclass(frozen=True, slots=True)
class Invitation:
    """Where the server is, who is invited, the SHA-256 of the server's certificate (hex), and the secret.

    The secret is not shown where the value is.
    """

    host: str
    port: int
    name: str
    fingerprint: str
    secret: bytes = field(repr=False)

    @property
    def endpoint(self) -> str:
        """``HOST:PORT``, as in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def line(self) -> str:
        """Return the line."""
        payload = bytes.fromhex(self.fingerprint) + self.secret
        code = base64.b32encode(payload + self._check(payload)).decode("ascii").lower()
        return f"{_SCHEME}{self.endpoint}/{self.name}/{code}"

    def _check(self, payload: bytes) -> bytes:
        return hashlib.sha256(f"{_SCHEME}{self.endpoint}/{self.name}/".encode() + payload).digest()[:_CHECK]


def read_invitation(text: str) -> Invitation:
    """Read what was pasted: white space, line breaks and marks of quotation in it, and words before and after it, do not matter.

    Raises :exc:`NoInvitation`; what it says holds nothing of *text*, which holds a secret.
    """
    # Of no use in a line, but at the beginning of each in what mail and chats quote.
    words = text.translate(_UNSEEN).replace(">", " ").split()
    packed = "".join(words)
    at = packed.lower().rfind(_SCHEME)
    if at < 0:
        raise NoInvitation("that is no invitation: one begins with mtlsd://, as mtlsd invite prints it")
    mangled = NoInvitation("the invitation was mangled on its way: copy the whole line again, from mtlsd:// to its end")
    # It ends with a word, for a letter too many is a mistake; which one, its length tells.
    ends = (end for end in accumulate(map(len, words)) if end > at)
    found = next(filter(None, (_LINE.match(packed[at + len(_SCHEME) : end].rstrip(_QUOTES)) for end in ends)), None)
    if found is None:
        raise mangled
    try:
        host, port = read_endpoint(found[1])
        code = base64.b32decode(found[3].upper())
    except (ValueError, binascii.Error):
        raise mangled from None
    payload, check = code[:-_CHECK], code[-_CHECK:]
    invitation = Invitation(host, port, found[2], payload[:_FINGERPRINT].hex(), payload[_FINGERPRINT:])
    if not is_client_name(invitation.name) or not hmac.compare_digest(invitation._check(payload), check):
        raise mangled
    return invitation
