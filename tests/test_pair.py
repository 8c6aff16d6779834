"""The server's own pair: read strictly, and read again without ever losing what works."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from OpenSSL import SSL
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from mtlsd.errors import CertificateError
from mtlsd.registry.nextpair import FROM, NEXT
from mtlsd.tls.pair import PairFiles, PairWatcher, ServerPair, load_pair
from tests.pki import Pair, make_pair, new_key


class PairCase(SynchronousTestCase):
    """A folder with a server's pair in it."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.key, self.cert = self.folder / "serverKey.pem", self.folder / "serverCrt.pem"
        self.pair = make_pair("localhost")
        self.put(self.pair)

    def put(self, pair: Pair) -> None:
        self.key.touch(0o600)
        self.key.write_bytes(pair.key_pem)
        self.cert.write_bytes(pair.pem)


class LoadPairTests(PairCase):
    """A pair that will not serve is named, with the file and the cause."""

    def wrong(self, path: Path, *words: str) -> None:
        error = self.assertRaises(CertificateError, load_pair, self.key, self.cert)
        self.assertIn(str(path), str(error))
        for word in words:
            self.assertIn(word, str(error))
        self.assertNotIn("\n", str(error))

    def test_good(self) -> None:
        """No server could start."""
        for kind in ("p256", "p384", "ed25519", "mldsa65", "rsa2048"):
            pair = make_pair("localhost", key=kind)
            self.put(pair)
            self.assertEqual(load_pair(self.key, self.cert).facts.fingerprint, pair.fingerprint)

    def test_chain(self) -> None:
        """A server with a certificate of some authority would not send the chain."""
        issuer = make_pair("issuer", key=new_key())
        leaf = make_pair("localhost", issuer=issuer)
        self.put(leaf)
        self.cert.write_bytes(leaf.pem + issuer.pem)
        self.assertEqual(len(load_pair(self.key, self.cert).chain), 1)

    def test_missing(self) -> None:
        """A missing file would be a traceback."""
        self.key.unlink()
        self.wrong(self.key, "No such file")
        self.put(self.pair)
        self.cert.unlink()
        self.wrong(self.cert, "No such file")

    def test_open_to_others(self) -> None:
        """A key that everybody on the machine can read would be used."""
        for mode in (0o604, 0o602, 0o601, 0o666):
            self.key.chmod(mode)
            self.wrong(self.key, "open to others", f"{mode:04o}", "chmod")
        self.key.chmod(0o640)
        load_pair(self.key, self.cert)

    def test_encrypted(self) -> None:
        """The service would wait for a passphrase that nobody types."""
        self.key.write_bytes(self.pair.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")))
        self.wrong(self.key, "encrypted")

    def test_corrupt(self) -> None:
        """A damaged file would be a traceback."""
        self.key.write_bytes(self.pair.key_pem[:100])
        self.wrong(self.key, "no private key")
        self.put(self.pair)
        for damaged in (b"", b"hello", self.pair.pem[:100]):
            self.cert.write_bytes(damaged)
            self.wrong(self.cert)

    def test_not_the_key(self) -> None:
        """A key that is not the certificate's would be found out by the first client."""
        self.put(Pair(self.pair.certificate, new_key()))
        self.wrong(self.key, "not the key of", str(self.cert))

    def test_weak(self) -> None:
        """A key that anybody can break would be the server's."""
        self.put(make_pair("localhost", key="rsa1024"))
        self.wrong(self.cert, "not fit for a server", "RSA-1024")

    def test_of_a_kind_that_no_client_takes(self) -> None:
        """A server would start that every client turns away from."""
        self.put(make_pair("localhost", key="k256"))
        self.wrong(self.cert, "not fit for a server", "secp256k1")

    def test_not_a_file(self) -> None:
        """A FIFO would hold the service for ever, and a huge file fill its memory."""
        self.key.unlink()
        os.mkfifo(self.key, 0o600)
        self.wrong(self.key, "not a regular file")
        self.key.unlink()
        self.put(self.pair)
        with self.cert.open("r+b") as file:
            file.truncate(2 << 20)
        self.wrong(self.cert, "larger than")

    def test_unreadable(self) -> None:
        """A key that may not be read would be a traceback (root may read all, so a folder stands in for it)."""
        self.key.unlink()
        self.key.mkdir(0o700)
        self.wrong(self.key, "not a regular file")


class PairWatcherTests(PairCase):
    """A change of the pair is used when it is whole, and reported when it is not."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.used: list[ServerPair] = []
        self.moment = datetime(2026, 11, 25, 12, tzinfo=UTC)
        self.next = self.folder / NEXT
        self.watcher = PairWatcher(self.files(), self.clock.seconds)
        self.watcher.hand_to(self.used.append)
        self.lines: list[str] = []

        @implementer(ILogObserver)
        def keep(event: LogEvent) -> None:
            self.lines.append(str(event.get("log_level")) + str(event.get("log_format")).format(**event))

        globalLogPublisher.addObserver(keep)
        self.addCleanup(globalLogPublisher.removeObserver, keep)

    def files(self) -> PairFiles:
        return PairFiles(self.key, self.cert, self.next, lambda: self.moment + timedelta(seconds=self.clock.seconds()))

    def put_next(self, pair: Pair, since: datetime) -> None:
        """Put a next pair in its place, as `mtlsd init --renew` does: by one rename."""
        made = self.folder / "made"
        made.mkdir(0o700)
        pair.write(made, "server")
        (made / FROM).write_text(f"{since:%Y-%m-%dT%H:%M:%SZ}\n")
        made.rename(self.next)

    def fingerprints(self) -> list[str]:
        return [pair.facts.fingerprint for pair in self.used]

    def beats(self, count: int) -> None:
        for _ in range(count):
            self.clock.advance(1)
            self.watcher.beat()

    def errors(self) -> list[str]:
        return [line for line in self.lines if "error" in line]

    def test_unchanged(self) -> None:
        """Every second would be a reload, and every ticket lost."""
        self.beats(5)
        self.assertEqual((self.used, self.lines), ([], []))

    def test_new_pair(self) -> None:
        """A renewed certificate would wait for a restart."""
        fresh = make_pair("localhost", key=new_key())
        self.put(fresh)
        self.beats(2)
        self.assertEqual([pair.facts.fingerprint for pair in self.used], [fresh.fingerprint])

    def test_half_a_pair(self) -> None:
        """A pair that is copied file by file would be reported as broken, or break what works."""
        fresh = make_pair("localhost", key=new_key())
        self.cert.write_bytes(fresh.pem)
        self.beats(1)
        self.put(fresh)
        self.beats(2)
        self.assertEqual(len(self.used), 1)
        self.assertEqual(self.errors(), [])

    def test_broken(self) -> None:
        """A broken pair would be used, go unsaid, or be said every second."""
        self.cert.write_bytes(b"garbage")
        self.beats(50)
        self.assertEqual(self.used, [])
        self.assertEqual(len(self.errors()), 1)
        self.assertIn(str(self.cert), self.errors()[0])
        self.beats(60)
        self.assertEqual(len(self.errors()), 2)
        self.put(self.pair)
        self.beats(2)
        self.assertEqual(len(self.used), 1)
        self.beats(70)
        self.assertEqual(len(self.errors()), 2)

    def test_refused_by_openssl(self) -> None:
        """A pair that makes no context would be a traceback, and the rest of a SIGHUP would not happen."""

        def refuse(pair: ServerPair) -> None:
            raise SSL.Error([("SSL routines", "", "no")])

        self.watcher.hand_to(refuse)
        self.watcher.reload()
        self.assertEqual(len(self.errors()), 1)

    def test_missing(self) -> None:
        """A file that is gone would be a traceback each second."""
        self.key.unlink()
        self.beats(3)
        self.assertEqual(len(self.errors()), 1)

    def test_reload(self) -> None:
        """SIGHUP would wait for a change, or keep quiet about what is wrong."""
        self.watcher.reload()
        self.assertEqual(len(self.used), 1)
        self.cert.write_bytes(b"garbage")
        self.watcher.reload()
        self.watcher.reload()
        self.assertEqual(len(self.errors()), 2)
        self.assertEqual(len(self.used), 1)

    def test_next(self) -> None:
        """A pair that is prepared would be used at once, or never; and every ticket would end when it is prepared."""
        fresh = make_pair("localhost", key=new_key())
        self.put_next(fresh, self.moment + timedelta(seconds=10))
        self.beats(9)
        self.assertEqual((self.used, self.watcher.pairs.current.facts.fingerprint), ([], self.pair.fingerprint))
        upcoming = self.watcher.pairs.upcoming
        assert upcoming is not None
        self.assertEqual(
            (upcoming.pair.facts.fingerprint, upcoming.since), (fresh.fingerprint, self.moment + timedelta(seconds=10))
        )
        (said,) = self.lines
        self.assertIn(f"the server's next certificate is {fresh.fingerprint}, from 2026-11-25 12:00:10 UTC on", said)
        self.beats(20)
        self.assertEqual((self.fingerprints(), self.watcher.pairs.upcoming), ([fresh.fingerprint], None))
        self.assertEqual((len(self.lines), self.errors()), (2, []))
        # A server that starts now has the same.
        self.assertEqual(self.files().load().current.facts.fingerprint, fresh.fingerprint)

    def test_next_and_the_clock_is_set_back(self) -> None:
        """The certificate that clients have forgotten would come back, with a clock or a date that is put back."""
        fresh = make_pair("localhost", key=new_key())
        self.put_next(fresh, self.moment)
        self.beats(2)
        (self.next / FROM).write_text("2030-01-01\n")
        self.beats(3)
        self.watcher.reload()
        self.assertEqual(({*self.fingerprints()}, self.watcher.pairs.upcoming), ({fresh.fingerprint}, None))

    def test_next_and_its_date_is_put_off(self) -> None:
        """Nobody would know that the next start shuts all clients out, or that a mended date is enough."""
        self.put_next(make_pair("localhost", key=new_key()), self.moment)
        self.beats(2)
        (self.next / FROM).write_text("2030-01-01\n")
        self.beats(3)
        (said,) = self.errors()
        self.assertIn("in use is prepared from 2030-01-01 00:00:00 UTC on, and clients may know no other", said)
        (self.next / FROM).write_text("2026-01-01\n")
        self.beats(130)
        self.assertEqual(self.errors(), [said])

    def test_next_gets_the_usual_names(self) -> None:
        """Whoever tidies up would bring the old certificate back, which clients have forgotten."""
        fresh = make_pair("localhost", key=new_key())
        self.put_next(fresh, self.moment)
        self.beats(2)
        self.cert.write_bytes(fresh.pem)
        self.beats(2)
        self.key.write_bytes(fresh.key_pem)
        self.beats(2)
        self.next.rename(self.folder / "gone")
        self.beats(2)
        self.assertEqual({*self.fingerprints()}, {fresh.fingerprint})
        self.assertEqual((self.watcher.pairs.current.facts.fingerprint, self.errors()), (fresh.fingerprint, []))

    def test_next_that_would_not_serve(self) -> None:
        """The moment would come, and only then somebody would find out; and the present pair would go with it."""
        fresh = make_pair("localhost", key=new_key())
        self.put_next(fresh, self.moment + timedelta(seconds=30))
        (self.next / "serverKey.pem").write_bytes(self.pair.key_pem)
        self.beats(3)
        (wrong,) = self.errors()
        self.assertIn(f"not the key of {self.next / 'serverCrt.pem'}", wrong)
        self.assertIn("the server's next pair is not used", wrong)
        self.beats(40)
        self.assertEqual((self.used, self.files().load().current.facts.fingerprint), ([], self.pair.fingerprint))
        (self.next / "serverKey.pem").write_bytes(fresh.key_pem)
        self.beats(3)
        self.assertEqual(self.fingerprints(), [fresh.fingerprint])

    def test_next_that_is_damaged_in_use(self) -> None:
        """A slip after the change would bring the old certificate back, which clients have forgotten."""
        fresh = make_pair("localhost", key=new_key())
        self.put_next(fresh, self.moment)
        self.beats(2)
        (self.next / FROM).write_bytes(b"tomorrow")
        self.beats(3)
        (wrong,) = self.errors()
        self.assertIn("the server's old pair stays in use", wrong)
        self.watcher.reload()
        self.assertEqual(
            (self.fingerprints(), self.watcher.pairs.current.facts.fingerprint), ([fresh.fingerprint], fresh.fingerprint)
        )
        # Whoever puts another pair in the usual place means it.
        other = make_pair("localhost", key=new_key())
        self.put(other)
        self.beats(3)
        self.assertEqual(self.fingerprints(), [fresh.fingerprint, other.fingerprint])

    def test_next_that_cannot_be_looked_at(self) -> None:
        """A folder of another user's would go unsaid, and clients would not learn what mtlsd init is going to put in place."""
        self.next.mkdir()
        (self.next / FROM).symlink_to(FROM)
        self.beats(3)
        (wrong,) = self.errors()
        self.assertIn(f"{self.next / FROM}: cannot be read", wrong)

    def test_next_at_no_moment(self) -> None:
        """A slip of the pen in the date would be a traceback each second, or mean now."""
        self.put_next(make_pair("localhost"), self.moment)
        for text in (b"tomorrow", b"", b"\xff", b"2026-11-25T12:00:00"):
            (self.next / FROM).write_bytes(text)
            self.lines.clear()
            self.watcher.reload()
            (wrong,) = self.errors()
            self.assertIn(f"{self.next / FROM}: ", wrong)
            self.assertEqual(self.watcher.pairs.current.facts.fingerprint, self.pair.fingerprint)

    def test_ends(self) -> None:
        """The daily warning would go on after the next pair has been prepared, or stop too early."""
        self.assertEqual(self.watcher.ends, self.pair.certificate.not_valid_after_utc)
        fresh = make_pair("localhost")
        for late, ends in ((False, fresh), (True, self.pair)):
            since = self.pair.certificate.not_valid_after_utc + timedelta(days=1 if late else -1)
            self.put_next(fresh, since)
            self.watcher.reload()
            self.assertEqual(self.watcher.ends, ends.certificate.not_valid_after_utc)
            self.next.rename(self.folder / f"gone{late}")
