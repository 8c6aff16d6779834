"""The one wrapper at the OpenSSL seam: every callback that OpenSSL calls goes through it.

Left to itself an exception in a callback is a hole or a flood: on a ``Connection`` it is lost silently, on a
``Context`` it escapes ``do_handshake`` and is a traceback for each stranger; a truthy value that is no boolean
accepts.  So a callback that fails here logs one line, refuses, and marks its handshake as failed by our own fault.
A test reads the sources and shows that no callback is registered anywhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

from OpenSSL import SSL, crypto
from twisted.logger import Logger

#: (connection, certificate, X509_V_ERR_… number, depth, OpenSSL's own opinion) -> go on?
Verify: TypeAlias = Callable[[SSL.Connection, crypto.X509, int, int, int], bool]
#: (connection, names the client offers) -> the one that is spoken, or None where there is none.
SelectProtocol: TypeAlias = Callable[[SSL.Connection, Sequence[bytes]], bytes | None]

#: What :class:`NoCommonProtocol` and :class:`CallbackFailed` put where OpenSSL puts its reason.
NO_APPLICATION_PROTOCOL = "no application protocol"
CALLBACK_FAILED = "callback failed"

_T = TypeVar("_T")
_log = Logger()


class NoCommonProtocol(SSL.Error):
    """Raised through OpenSSL to send a fatal alert: the client knows only ALPN names that nobody here speaks.

    An ``SSL.Error``, so that whoever drives the handshake takes it for the failed handshake that it is.
    """

    def __init__(self, reason: str = NO_APPLICATION_PROTOCOL) -> None:
        super().__init__([("SSL routines", "", reason)])


class CallbackFailed(NoCommonProtocol):
    """The same, because the callback itself failed."""

    def __init__(self) -> None:
        super().__init__(CALLBACK_FAILED)


def install(context: SSL.Context, mode: int, verify: Verify, select_protocol: SelectProtocol) -> None:
    """Set the callbacks of *context*, wrapped.  *mode* is the ``SSL.VERIFY_…`` flags."""

    def guarded_verify(connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int) -> bool:
        return _guarded(connection, False, lambda: verify(connection, certificate, error, depth, ok) is True)

    def guarded_select(connection: SSL.Connection, offered: list[bytes]) -> bytes:
        selected = _guarded(connection, CallbackFailed(), lambda: select_protocol(connection, offered))
        if selected is None:
            raise NoCommonProtocol
        if not isinstance(selected, bytes):
            raise selected
        return selected

    context.set_verify(mode, guarded_verify)
    context.set_alpn_select_callback(guarded_select)


def _guarded(connection: SSL.Connection, refusal: Any, call: Callable[[], _T]) -> _T | Any:
    try:
        return call()
    except BaseException as failure:
        try:
            handshake = connection.get_app_data()
            handshake.callback_failed = True
            _log.error("a TLS callback failed and refused its connection: {problem}", problem=repr(failure)[:500])
        except BaseException:
            # Nothing is left to say it with; refusing is what counts.
            pass
        return refusal
