"""The client's side of joining and renewing: what it makes of a server's answers, and of none."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from twisted.trial.unittest import SynchronousTestCase

from mtlsd.client import Answer, Connection, Rejected, Server, ServerError, Who
from mtlsd.clientfolder import ClientFolder
from mtlsd.clientpairs import ClientPairs
from mtlsd.enrol import joiner, renewer
from mtlsd.enrol.exchange import FAILED, LATER, error_line
from mtlsd.enrol.invitation import Invitation
from mtlsd.errors import FolderError, MtlsdError
from mtlsd.identity import Certificate
from tests.test_clientpairs import NOW, Base, pair

SERVER = Server("localhost", 1, frozenset({"0" * 64}))
INVITATION = Invitation("localhost", 1, "bob", "0" * 64, b"s" * 16)


@dataclass
class Wire:
    """The server's end of a connection, as it is heard: lines, or an error."""

    heard: bytes | Exception
    sent: list[bytes] = field(default_factory=list)

    def send(self, data: bytes) -> None:
        self.sent.append(data)

    def line(self, longest: int) -> bytes:
        if isinstance(self.heard, Exception):
            raise self.heard
        return self.heard


class AskedTests(SynchronousTestCase):
    """The one line that comes back from a join."""

    def asked(self, heard: bytes | Exception) -> bool:
        return joiner._asked(cast(Connection, Wire(heard)), INVITATION)

    def test_yes(self) -> None:
        """Who is in would be told that it is not."""
        self.assertTrue(self.asked(b'{"client": "bob", "groups": [], "fingerprint": "00"}\n'))

    def test_silence(self) -> None:
        """An answer that gets lost may have been a yes: the pair must not be thrown away."""
        for heard in (b"", ServerError("gone"), Rejected("cut")):
            self.assertFalse(self.asked(heard))

    def test_no(self) -> None:
        """Nobody could tell an invite that is used up from a server that is full."""
        for error, said in ((LATER, "try again in a minute"), (FAILED, "could not write"), ("refused", "ask for a new one")):
            self.assertIn(said, str(self.assertRaises(joiner.NotJoined, self.asked, error_line(error))))
        said = str(self.assertRaises(joiner.NotJoined, self.asked, Rejected("localhost:1: alert", alert=True)))
        self.assertIn("is the clock right", said)

    def test_no_answer(self) -> None:
        """Something else on that port would pass for a server that has said yes."""
        for heard in (b"HTTP/1.1 400 Bad Request\r\n", b"[]\n"):
            self.assertIn("no answer to a join", str(self.assertRaises(ServerError, self.asked, heard)))


class FolderTests(Base):
    """What is in the folder, before anybody is asked."""

    def test_of_another(self) -> None:
        """A join under another name, or at another server, would take the pair of the first."""
        certificate = Certificate.from_der(self.old.der)
        joiner._insist_that_it_is_ours(self.folder, certificate, INVITATION, NOW)
        other = Invitation("localhost", 1, "alice", "0" * 64, b"s" * 16)
        self.assertRaises(FolderError, joiner._insist_that_it_is_ours, self.folder, certificate, other, NOW)
        late = certificate.not_after.replace(year=certificate.not_after.year + 1)
        said = str(self.assertRaises(FolderError, joiner._insist_that_it_is_ours, self.folder, certificate, INVITATION, late))
        self.assertIn("has expired", said)

    def test_known_as_somebody_else(self) -> None:
        """The curl line that is printed would be another client's."""
        certificate = Certificate.from_der(self.old.der)
        found = self.folder.pair()
        assert found is not None
        who = Who("mallory", (), certificate.fingerprint, "")
        self.assertRaises(MtlsdError, joiner._finished, self.folder, SERVER, found[0], who, INVITATION, certificate, before=False)

    def test_no_pair(self) -> None:
        """A folder that was moved away would end in a traceback."""
        empty = ClientFolder(Path(self.mktemp()))
        empty.path.mkdir()
        self.assertRaises(FolderError, renewer.renew, empty, ClientPairs(empty), SERVER, NOW, 365)

    def test_which_server(self) -> None:
        """A renewal would go to whoever answers."""
        self.assertIn("is missing", str(self.assertRaises(FolderError, renewer.server_of, self.folder)))
        self.folder.put_server(pair().der)
        self.assertIn("give --at", str(self.assertRaises(FolderError, renewer.server_of, self.folder)))
        self.assertEqual(renewer.server_of(self.folder, ("h", 2)).endpoint, "h:2")
        self.folder.put_endpoint("localhost:9443")
        self.assertEqual(renewer.server_of(self.folder).endpoint, "localhost:9443")


class AnswerTests(Base):
    """What a server says to a renewal."""

    def prepared(self) -> None:
        found = self.folder.pair()
        assert found is not None
        self.pairs.prepare(*found, self.new)

    def told(self, status: int, body: bytes = b"") -> str:
        answer = Answer(status, body)
        return str(self.assertRaises(MtlsdError, renewer._insist_on_yes, self.pairs, SERVER, answer, "bob"))

    def test_yes(self) -> None:
        """A pair that was agreed on would be thrown away."""
        with self.pairs.locked():
            self.prepared()
            renewer._insist_on_yes(self.pairs, SERVER, Answer(200, b"{}"), "bob")
            self.assertIsNotNone(self.pairs.waiting())

    def test_later(self) -> None:
        """A server that is busy, or broken, would cost a client its next pair, which it may have authorized already."""
        with self.pairs.locked():
            self.prepared()
            for status in (429, 500, 503):
                self.assertIn("later", self.told(status, b'{"error": "later"}'))
                self.assertIsNotNone(self.pairs.waiting())

    def test_no(self) -> None:
        """The same certificate would be refused again and again, and nobody told why."""
        for status, body, said in (
            (404, b"no such page\n", "renew is off"),
            (
                409,
                b'{"error": "two live certificates"}',
                "nothing to do; if it was not you, tell whoever looks after the server: mtlsd history bob",
            ),
            (403, b'{"error": "too long"}', "not renewed: too long"),
            (400, b"[]", "it answers 400"),
        ):
            with self.pairs.locked():
                self.prepared()
                self.assertIn(said, self.told(status, body))
                self.assertIsNone(self.pairs.waiting())
