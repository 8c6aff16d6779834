"""What a server tells its clients of its next certificate: what is taken of it, and what is not."""

from __future__ import annotations

import contextlib
import json
import stat
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from click.testing import CliRunner, Result

from mtlsd.cli.commands import mtlsd
from mtlsd.cli.tables import trusted_table
from mtlsd.client import Answer, Server, ServerError
from mtlsd.clientfolder import ClientFolder
from mtlsd.enrol.trust import LARGEST, NotTaken, NotTold, Shown, refresh, told_in
from mtlsd.errors import FolderError, Refused
from mtlsd.keys import NewPair, new_server_pair
from tests.pki import Pair, make_pair, new_key
from tests.test_clientpairs import NOW, Base, Links
from tests.test_store import Killed

SWITCH = datetime(2026, 12, 25, tzinfo=UTC)


def server_pair(*hosts: str, days: int = 365, now: datetime = NOW) -> NewPair:
    return new_server_pair(hosts or ("localhost",), now, days)


def entry(pair: NewPair | Pair, begins: datetime | None = None, **other: object) -> dict[str, object]:
    """Return what a server tells of one of its certificates."""
    pem, fingerprint = (
        (pair.pem, pair.fingerprint) if isinstance(pair, Pair) else (pair.certificate_pem, Shown(pair.der, None).fingerprint)
    )
    since = None if begins is None else begins.isoformat().replace("+00:00", "Z")
    return {
        "certificate": pem.decode(),
        "fingerprint": fingerprint,
        "from": since,
        "not_after": "2027-11-23T12:00:00Z",
        **other,
    }


def told(*entries: object) -> bytes:
    return json.dumps({"certificates": entries}).encode() + b"\n"


class TakenTests(Base):
    def setUp(self) -> None:
        super().setUp()
        self.now, self.next = server_pair(), server_pair(days=700)
        self.fingerprint = Shown(self.now.der, None).fingerprint
        self.server = Server("localhost", 9443, frozenset({self.fingerprint}))

    def take(self, body: bytes, status: int = 200, hosts: Sequence[str] = ("localhost",)) -> tuple[Shown, ...]:
        return told_in(Answer(status, body), self.server, self.fingerprint, hosts, NOW)

    def refused(self, said: str, *entries: object, body: bytes | None = None, **options: Any) -> None:
        error = str(self.assertRaises(NotTaken, self.take, told(*entries) if body is None else body, **options))
        self.assertTrue(
            error.startswith("localhost:9443: what it tells of its certificates is not right, and nothing was"), error
        )
        self.assertIn(said, error)
        self.assertTrue(error.isprintable(), error)

    def test_taken(self) -> None:
        """A client would not know its server any more, from the day on which that takes its next certificate."""
        self.assertEqual(self.take(told(entry(self.now))), (Shown(self.now.der, None),))
        both = (Shown(self.now.der, None), Shown(self.next.der, SWITCH))
        self.assertEqual(self.take(told(entry(self.now), entry(self.next, SWITCH))), both)
        # What a later version may add.
        self.assertEqual(self.take(told(entry(self.now, more=1), entry(self.next, SWITCH))), both)
        # Just behind the switch: the proven one is the one that was to come.
        self.fingerprint = both[1].fingerprint
        self.assertEqual(self.take(told(entry(self.now), entry(self.next, SWITCH))), both)

    def test_an_older_server(self) -> None:
        """Whoever renews would be warned each day of a server that does not tell yet; or a broken one be taken for such."""
        self.assertIn("an older mtlsd", str(self.assertRaises(NotTold, self.take, b"", 404)))
        for status in (403, 500):
            error = self.assertRaises(ServerError, self.take, told(entry(self.now)), status)
            self.assertNotIsInstance(error, NotTold)
            self.assertIn(f"it answers {status}", str(error))

    def test_no_such_answer(self) -> None:
        """Something else that answers there would be a traceback, or be believed in part."""
        whole = entry(self.now)
        for body in (
            b"",
            b"hello\n",
            b"[]",
            b"{}",
            b"\xff",
            b"[" * 30_000,
            b'{"certificates": {"certificate": ""}}',
            told("x"),
            told({}),
            told({key: value for key, value in whole.items() if key != "from"}),
            told({**whole, "certificate": None}),
            told({**whole, "certificate": "\u2026"}),
        ):
            self.refused("in no form that is known here", body=body)
        self.refused(f"more than {LARGEST} bytes", body=told(whole) + b" " * LARGEST)

    def test_how_many(self) -> None:
        """A server, or who has got its key for an hour, could have a client trust a hundred certificates."""
        self.refused("names 0 certificates")
        self.refused("names 3 certificates", entry(self.now), entry(self.next, SWITCH), entry(server_pair(), SWITCH))
        self.refused("the same certificate twice", entry(self.now), entry(self.now, SWITCH))

    def test_no_certificate(self) -> None:
        """What stands in server.pem would be more than was looked at, or a file that curl cannot read."""
        pem = self.next.certificate_pem.decode()
        for text, said in (
            ("", "does not give one certificate each"),
            (pem + pem, "does not give one certificate each"),
            (pem + self.now.key_pem.decode(), "does not give one certificate each"),
            (pem[:200], "without its END line"),
            (pem.replace("M", "\x1b", 1), "no line"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "certificate 1: not a certificate"),
        ):
            self.refused("" if "\x1b" in text else said, entry(self.now), entry(self.next, SWITCH, certificate=text))

    def test_another_fingerprint(self) -> None:
        """An operator who compares fingerprints would see one, and the client trust another."""
        for wrong in ("0" * 64, self.fingerprint, None, 5):
            self.refused("another certificate's", entry(self.now), entry(self.next, SWITCH, fingerprint=wrong))

    def test_not_the_proven_one(self) -> None:
        """A server would have its client forget the certificate that it shows, and shut itself out."""
        self.refused("has shown just now is not among them", entry(self.next))
        self.fingerprint = "0" * 64
        self.refused("has shown just now is not among them", entry(self.now), entry(self.next, SWITCH))

    def test_from_when_on(self) -> None:
        """A certificate would be trusted of which nobody knows when it is used."""
        for first, second in (
            (entry(self.now, SWITCH), entry(self.next, SWITCH)),
            (entry(self.now), entry(self.next)),
            (entry(self.now), {**entry(self.next), "from": "soon"}),
            (entry(self.now), {**entry(self.next), "from": "2026-12-25T00:00:00"}),
            (entry(self.now), {**entry(self.next), "from": 5}),
        ):
            self.refused("from when on", first, second)

    def test_unfit(self) -> None:
        """The day of the switch would be the day on which curl and browsers refuse the server, or anybody can do as it."""
        later = timedelta(days=90)
        unfit: tuple[tuple[NewPair | Pair, str], ...] = (
            (server_pair("other.example"), "does not name localhost"),
            # A common name is no name to browsers, nor to requests.
            (make_pair("localhost", now=NOW, ends=later), "does not name localhost"),
            (make_pair("localhost", key="rsa1024", hosts=["localhost"], now=NOW, ends=later), "too weak"),
            (make_pair("localhost", key="dsa", hosts=["localhost"], now=NOW, ends=later), "too weak"),
            (make_pair("localhost", padding=16_384, hosts=["localhost"], now=NOW, ends=later), "too large"),
            (server_pair(now=NOW - timedelta(days=500)), "has ended"),
            (server_pair(days=10), "not valid at the time"),
            (server_pair(now=SWITCH + timedelta(days=1)), "not valid at the time"),
        )
        for pair, said in unfit:
            self.refused(said, entry(self.now), entry(pair, SWITCH))
        error = self.assertRaises(NotTaken, self.take, told(entry(self.now), entry(server_pair("x"), SWITCH)), hosts=("a", "b"))
        self.assertIn("does not name a or b", str(error))

    def test_of_one_subject(self) -> None:
        """From the day on which the next one is known, and not only used, Python would refuse the server."""
        present, later = (
            make_pair("x", key=new_key(), ca=False, hosts=["localhost"], now=NOW, ends=timedelta(days=d)) for d in (90, 99)
        )
        self.fingerprint = present.fingerprint
        self.server = Server("localhost", 9443, frozenset({present.fingerprint}))
        self.refused("could not tell them apart", entry(present), entry(later, SWITCH))
        self.assertEqual(len(self.take(told(entry(present), entry(self.next, SWITCH)))), 2)

    def test_what_is_trusted_already(self) -> None:
        """A client of a server that was made by hand, without subject alternative names, would never learn the next certificate."""
        plain = make_pair("localhost", now=NOW, ends=timedelta(hours=-1), begins=timedelta(days=-9))
        self.fingerprint = plain.fingerprint
        self.server = Server("localhost", 9443, frozenset({plain.fingerprint}))
        found = self.take(told(entry(plain), entry(self.next, SWITCH)))
        self.assertEqual([one.der for one in found], [plain.der, self.next.der])


class KeptTests(Base):
    """server.pem, while it changes."""

    def setUp(self) -> None:
        super().setUp()
        self.now, self.next = server_pair(), server_pair(days=700)
        self.folder.put_server(self.now.der)
        self.folder.put_endpoint("localhost:9443")

    def test_replaced(self) -> None:
        """curl would not find the next certificate, or no other user's programs could read the file."""
        self.folder.replace_server([self.now.der, self.next.der])
        self.assertEqual(self.folder.server.read_bytes(), self.now.certificate_pem + self.next.certificate_pem)
        self.assertEqual(stat.S_IMODE(self.folder.server.stat().st_mode), 0o644)
        self.assertEqual(self.folder.server_certificates(), (self.now.der, self.next.der))
        self.assertEqual(len(self.folder.server_fingerprints()), 2)
        # A join that is given once more finds its server among them.
        self.folder.put_server(self.next.der)
        self.assertRaises(FolderError, self.folder.put_server, server_pair().der)

    def test_interrupted(self) -> None:
        """After a kill -9 or a full disk, curl would find half a file, and the server be nobody."""
        probe = Links(-1)
        ClientFolder(self.copy().path, probe).replace_server([self.now.der, self.next.der])
        self.assertGreater(probe.count, 8)
        before, after = self.now.certificate_pem, self.now.certificate_pem + self.next.certificate_pem
        for fatal in (False, True):
            for at in range(probe.count):
                path = self.copy().path
                with self.subTest(at=at, fatal=fatal):
                    with contextlib.suppress(Killed, FolderError):
                        ClientFolder(path, Links(at, fatal)).replace_server([self.now.der, self.next.der])
                    folder = ClientFolder(path)
                    self.assertIn(folder.server.read_bytes(), (before, after))
                    folder.replace_server([self.now.der, self.next.der])
                    self.assertEqual(folder.server.read_bytes(), after)
                    self.assertEqual(list(path.glob(".mtlsd-*")), [])

    def test_failed(self) -> None:
        """A full disk would be a traceback, or what is trusted be neither the old nor the new."""
        for at in range(4):
            error = self.assertRaises(FolderError, ClientFolder(self.folder.path, Links(at)).replace_server, [self.next.der])
            self.assertIn("server.pem: cannot be written: No space left on device", str(error))
            self.assertEqual(self.folder.server.read_bytes(), self.now.certificate_pem)

    def test_not_asked(self) -> None:
        """Two at once would each undo what the other has learned; or nobody know which server to ask."""
        with self.pairs.locked():
            self.assertIn("at work", str(self.assertRaises(Refused, refresh, self.folder, self.pairs, NOW)))
        self.folder.key.rename(self.folder.path / "aside")
        self.assertRaises(FolderError, refresh, self.folder, self.pairs, NOW)
        self.folder.server.unlink()
        self.assertIn("is missing", str(self.assertRaises(FolderError, refresh, self.folder, self.pairs, NOW)))


class ListedTests(Base):
    """`mtlsd trust`, which asks nobody."""

    def setUp(self) -> None:
        super().setUp()
        self.now, self.next = server_pair("localhost", "127.0.0.1"), server_pair("*.example.org", days=700)

    def listed(self, *more: str) -> Result:
        return CliRunner().invoke(mtlsd, ["trust", "--dir", str(self.folder.path), *more], prog_name="mtlsd")

    def test_listed(self) -> None:
        """Nobody could see which certificates are trusted, nor compare them with what the server's operator says."""
        self.folder.put_server(self.now.der)
        self.folder.replace_server([self.now.der, self.next.der])
        found = self.listed()
        self.assertEqual((found.exit_code, found.stderr), (0, ""))
        prints = [Shown(pair.der, None).fingerprint for pair in (self.now, self.next)]
        self.assertEqual(
            found.stdout.splitlines(),
            [
                "FINGERPRINT       UNTIL       NAMES",
                f"{prints[0][:16]}  2027-11-23  localhost, 127.0.0.1",
                f"{prints[1][:16]}  2028-10-23  *.example.org",
            ],
        )
        told = json.loads(self.listed("--json").stdout)
        self.assertEqual([one["fingerprint"] for one in told["certificates"]], prints)
        self.assertEqual(told["certificates"][0]["names"], ["localhost", "127.0.0.1"])
        self.assertEqual((told["learned"], told["forgotten"]), ([], []))

    def test_narrow(self) -> None:
        """In a terminal of 80 columns, lines would wrap; and one that has ended, or has no name, look like any other."""
        ended = server_pair(*(f"host{number}.example.org" for number in range(20)), days=1, now=NOW - timedelta(days=9))
        lines = trusted_table([ended.der, make_pair("not a host").der], NOW, 80).splitlines()
        self.assertEqual([len(line) for line in lines if len(line) > 80], [])
        self.assertIn("2026-11-15 EXPIRED  host0.example.org, ", lines[1])
        self.assertTrue(lines[1].endswith("…"))
        self.assertTrue(lines[2].endswith("  -"))

    def test_wrong(self) -> None:
        """One line, and no traceback, for a folder that knows no server."""
        for more, status, said in (((), 1, "server.pem is missing"), (("--at", "localhost:1"), 2, "--at wants --refresh")):
            found = self.listed(*more)
            self.assertEqual((found.exit_code, found.stdout, found.stderr.count("\n")), (status, "", 1))
            self.assertIn(said, found.stderr)
