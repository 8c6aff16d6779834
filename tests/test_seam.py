"""Every callback goes through the one wrapper, and whatever is raised in it lets nobody in."""

from __future__ import annotations

import ast
from pathlib import Path

from OpenSSL import SSL
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

import mtlsd
from mtlsd.tls import context as context_module
from mtlsd.tls import seam
from mtlsd.tls.handshake import Handshake
from tests.memory_tls import FrontDoor
from tests.pki import make_pair

RAISED = (ValueError("broken"), SSL.Error([]), KeyboardInterrupt(), SystemExit(0), GeneratorExit(), BaseException("x\ny"))
REGISTERS = {
    "set_verify",
    "set_alpn_select_callback",
    "set_info_callback",
    "set_tlsext_servername_callback",
    "set_ocsp_server_callback",
    "set_ocsp_client_callback",
    "set_passwd_cb",
    "set_keylog_callback",
    "set_cookie_generate_callback",
    "set_cookie_verify_callback",
}


class SeamTests(SynchronousTestCase):
    """A callback that fails refuses, in one line."""

    def setUp(self) -> None:
        self.front = FrontDoor()
        self.alice = make_pair("alice")
        self.front.authorize(alice=self.alice)
        self.lines: list[LogEvent] = []

        @implementer(ILogObserver)
        def keep(event: LogEvent) -> None:
            self.lines.append(event)

        globalLogPublisher.addObserver(keep)
        self.addCleanup(globalLogPublisher.removeObserver, keep)

    def nobody_gets_in(self, what: object, lines: int = 1) -> None:
        for version in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
            self.lines.clear()
            self.front.sink.events.clear()
            client = self.front.connect(self.alice, version=version, alpn=[b"http/1.1"])
            self.assertEqual(client.request(), b"", what)
            client.lose()
            self.assertEqual(self.front.verdicts(), [("rejected", "internal-error")], what)
            self.assertEqual(len(self.lines), lines, what)
            self.assertEqual(self.front.served.served, [])

    def test_verify(self) -> None:
        """An error in the verify callback would let a stranger in, or be a traceback for each."""
        for raised in RAISED:

            def broken(*arguments: object, raised: BaseException = raised) -> bool:
                raise raised

            self.patch(Handshake, "verify", broken)
            self.nobody_gets_in(raised)

    def test_alpn(self) -> None:
        """An error in the ALPN callback would escape into the reactor, or let a stranger in."""
        for raised in RAISED:

            def broken(*arguments: object, raised: BaseException = raised) -> bytes:
                raise raised

            self.patch(context_module, "select_protocol", broken)
            self.front.creator.context = self.front.context()
            self.nobody_gets_in(raised)

    def test_truthy_is_not_true(self) -> None:
        """A truthy value that is no boolean (the text "no") accepts, in pyOpenSSL."""

        def say_no(*arguments: object) -> str:
            return "no"

        self.patch(Handshake, "verify", say_no)
        client = self.front.connect(self.alice)
        self.assertEqual(client.request(), b"")

    def test_failing_to_say_so(self) -> None:
        """An error while the error is logged would undo the refusal."""

        def broken(*arguments: object, **values: object) -> None:
            raise BaseException("the log is broken too")

        self.patch(Handshake, "verify", broken)
        self.patch(seam._log, "error", broken)
        self.nobody_gets_in("the log", lines=0)

    def test_no_callback_without_the_wrapper(self) -> None:
        """Somebody could register a callback beside the wrapper, and lose all that it is for."""
        root = Path(mtlsd.__file__).parent
        found = set()
        for path in root.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Attribute) and node.attr in REGISTERS:
                    found.add((path.relative_to(root).as_posix(), node.attr))
        self.assertEqual(found, {("tls/seam.py", "set_verify"), ("tls/seam.py", "set_alpn_select_callback")})

    def test_what_is_registered_is_wrapped(self) -> None:
        """CertificateOptions could register a callback of its own that is not wrapped."""
        context = self.front.context()
        helpers = {name: value for name, value in vars(context).items() if name.endswith("_helper") and value is not None}
        self.assertEqual(set(helpers), {"_verify_helper", "_alpn_select_helper"})
        self.assertIsNone(context._info_callback)
        self.assertIsNone(context._tlsext_servername_callback)
