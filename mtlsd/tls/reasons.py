"""From what OpenSSL says of a failed handshake to the reason in a verdict."""

from __future__ import annotations

from OpenSSL import SSL

from mtlsd.policy import Reason
from mtlsd.tls.seam import CALLBACK_FAILED, NO_APPLICATION_PROTOCOL

#: OpenSSL's reason texts (ssl/ssl_err.c), lower case.  What is not here is a bad handshake: nobody gets in either way.
_REASONS = {
    "peer did not return a certificate": Reason.NO_CERTIFICATE,
    "http request": Reason.PLAIN_HTTP,
    "https proxy request": Reason.PLAIN_HTTP,
    "unsupported protocol": Reason.OLD_PROTOCOL,
    "version too low": Reason.OLD_PROTOCOL,
    "no protocols available": Reason.OLD_PROTOCOL,
    "unknown protocol": Reason.OLD_PROTOCOL,
    "tlsv1 alert protocol version": Reason.OLD_PROTOCOL,
    "inappropriate fallback": Reason.OLD_PROTOCOL,
    NO_APPLICATION_PROTOCOL: Reason.NO_COMMON_PROTOCOL,
    "no shared cipher": Reason.NO_COMMON_PROTOCOL,
    "no suitable key share": Reason.NO_COMMON_PROTOCOL,
    "no suitable groups": Reason.NO_COMMON_PROTOCOL,
    "no shared groups": Reason.NO_COMMON_PROTOCOL,
    "no shared signature algorithms": Reason.NO_COMMON_PROTOCOL,
    "no suitable signature algorithm": Reason.NO_COMMON_PROTOCOL,
    "excessive message size": Reason.TOO_LARGE,
    CALLBACK_FAILED: Reason.INTERNAL_ERROR,
}


def reason_of(error: SSL.Error) -> tuple[Reason, str | None]:
    """Return the reason of a verdict and OpenSSL's own words (fixed text of OpenSSL), where it has any.

    An end of the stream in the middle of a handshake is ``closed``: the peer went away.
    """
    if isinstance(error, SSL.SysCallError | SSL.ZeroReturnError):
        return Reason.CLOSED, None
    queue = error.args[0] if error.args else None
    if not isinstance(queue, list) or not queue:
        return Reason.CLOSED, None
    texts = [str(entry[2]) for entry in queue if len(entry) > 2 and entry[2]]
    for text in texts:
        known = _REASONS.get(text.lower())
        if known is not None:
            return known, text
        if text.lower().startswith("unexpected eof"):
            return Reason.CLOSED, None
    return Reason.BAD_HANDSHAKE, texts[-1] if texts else None
