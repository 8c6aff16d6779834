"""From OpenSSL's words to the reason in a verdict."""

from __future__ import annotations

from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from mtlsd.policy import Reason
from mtlsd.tls.reasons import reason_of


class ReasonOfTests(SynchronousTestCase):
    """Each way to fail has its reason, and what is not known is a bad handshake."""

    def test_known(self) -> None:
        """The operator would read "bad handshake" where the cause is known."""
        error = SSL.Error([("SSL routines", "", "peer did not return a certificate")])
        self.assertEqual(reason_of(error), (Reason.NO_CERTIFICATE, "peer did not return a certificate"))

    def test_known_behind_another(self) -> None:
        """A cause would be missed because OpenSSL says something else after it."""
        error = SSL.Error([("SSL routines", "", "HTTP request"), ("SSL routines", "", "whatever")])
        self.assertEqual(reason_of(error)[0], Reason.PLAIN_HTTP)

    def test_unknown(self) -> None:
        """An error that nobody has met would be no reason at all."""
        self.assertEqual(reason_of(SSL.Error([("a", "b", "new words")])), (Reason.BAD_HANDSHAKE, "new words"))
        self.assertEqual(reason_of(SSL.Error([("a", "b", "")])), (Reason.BAD_HANDSHAKE, None))

    def test_gone(self) -> None:
        """A peer that went away would be taken for one that sent nonsense."""
        for error in (
            SSL.Error([]),
            SSL.Error(),
            SSL.SysCallError(-1, "Unexpected EOF"),
            SSL.ZeroReturnError(),
            SSL.Error([("SSL routines", "", "unexpected eof while reading")]),
        ):
            self.assertEqual(reason_of(error), (Reason.CLOSED, None))
