"""What is wrong at the start: one line on standard error that names file and cause, exit status 1, nothing started."""

from __future__ import annotations

import os
import socket

from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from tests.acceptance.harness import AcceptanceTestCase, reserve_port, run
from tests.pki import make_pair, new_key


class StartupTests(AcceptanceTestCase):
    """Each mistake is named."""

    def setUp(self) -> None:
        super().setUp()
        self.pair = self.put_server_pair()
        self.key = self.certs / "serverKey.pem"
        self.crt = self.certs / "serverCrt.pem"

    def fails(self, *options: str, says: tuple[str, ...], twistd: tuple[str, ...] = ("-n", "--pidfile=")) -> str:
        """Start with *options*, which must fail with one line that has all of *says* in it."""
        done = run(self.arguments(*options, twistd=twistd), cwd=self.folder)
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        lines = done.stderr.splitlines()
        self.assertEqual(len(lines), 1, done.stderr)
        self.assertTrue(lines[0].startswith("mtlsd: "), lines[0])
        for words in says:
            self.assertIn(words, lines[0])
        # Neither the list of all options nor a log of something half-started.
        self.assertEqual(done.stdout, "")
        return lines[0]

    def test_unknown_option(self) -> None:
        """A mistyped option would be buried under a list of all options."""
        self.fails("--prot", "9443", says=("prot",))

    def test_argument_too_many(self) -> None:
        """A folder given without --certs would be ignored, and another one used."""
        self.fails("certs", says=("argument",))

    def test_bad_values(self) -> None:
        """A wrong number would be a traceback, or taken for another one."""
        for option, value in (
            ("--port", "http"),
            ("--port", "70000"),
            ("--idle-timeout", "-1"),
            ("--tickets", "maybe"),
            ("--tls-min", "1.1"),
            ("--max-head", "1_000_000"),
        ):
            self.fails(option, value, says=(option, value, "is wanted"))

    def test_no_folder(self) -> None:
        """A mistyped folder would be a traceback, or made anew and empty."""
        self.fails("--certs", "/nonexistent/certs", says=("/nonexistent/certs", "No such file"))

    def test_no_authorized(self) -> None:
        """A server that nobody can enter would start without a word."""
        (self.certs / "authorized").rmdir()
        self.fails(says=(str(self.certs / "authorized"), "missing"))

    def test_no_key(self) -> None:
        """The missing file would have to be guessed."""
        self.key.unlink()
        self.fails(says=(str(self.key), "No such file"))

    def test_no_certificate(self) -> None:
        """The missing file would have to be guessed."""
        self.crt.unlink()
        self.fails(says=(str(self.crt), "No such file"))

    def test_no_file_at_all(self) -> None:
        """A folder or a FIFO in place of a file would be a traceback, or hold the start for ever."""
        for make in (os.mkdir, os.mkfifo):
            for path in (self.crt, self.key):
                kept = path.read_bytes()
                path.unlink()
                make(path, 0o700)
                self.fails(says=(str(path), "not a regular file"))
                path.rmdir() if path.is_dir() else path.unlink()
                self.write(path, kept, 0o600)

    def test_key_open_to_others(self) -> None:
        """Everybody on the machine could read the server's key, and nobody would know."""
        self.key.chmod(0o604)
        self.fails(says=(str(self.key), "0604", "chmod"))

    def test_key_of_another_certificate(self) -> None:
        """The server would start, and refuse every client for a reason of its own."""
        self.write(self.key, new_pem(), 0o600)
        self.fails(says=(str(self.key), str(self.crt), "not the key of"))

    def test_corrupt_certificate(self) -> None:
        """A damaged file would be a traceback out of OpenSSL."""
        for data in (self.pair.pem[:300] + b"\n-----END CERTIFICATE-----\n", self.pair.pem[:300], b"", b"\xff\x00 nothing\n"):
            self.write(self.crt, data)
            self.fails(says=(str(self.crt),))

    def test_corrupt_key(self) -> None:
        """A damaged file would be a traceback out of OpenSSL."""
        for data in (self.pair.key_pem[:100], b""):
            self.write(self.key, data, 0o600)
            self.fails(says=(str(self.key), "private key"))

    def test_encrypted_key(self) -> None:
        """The server would wait for a passphrase that nobody is there to type."""
        sealed = self.pair.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
        self.write(self.key, sealed, 0o600)
        self.fails(says=(str(self.key), "encrypted"))

    def test_audit_log_that_cannot_be_written(self) -> None:
        """The server would run without the log that it was told to keep."""
        self.fails("--audit-log", "/nonexistent/audit.jsonl", says=("/nonexistent/audit.jsonl", "No such file"))

    def test_bad_interface(self) -> None:
        """An address that this machine does not have would be a traceback."""
        self.fails("--interface", "192.0.2.1", says=("192.0.2.1", "annot"))

    def test_configuration_file(self) -> None:
        """A mistake in the file would be found one at a time, or not at all."""
        config = self.folder / "mtlsd.toml"
        self.fails("--config", str(config), says=(str(config), "No such file"))
        config.write_text("[server\n")
        self.fails("--config", str(config), says=(str(config), "line 1"))
        config.write_text('[server]\nprot = 1\nidle_timeout = "long"\n[sever]\n')
        self.fails("--config", str(config), says=(str(config), "server.prot", "server.idle_timeout", "sever"))


class TakenPortTests(AcceptanceTestCase):
    """A port that somebody else has."""

    def setUp(self) -> None:
        super().setUp()
        self.put_server_pair()
        # Reserved, for it has to be free again once it is not taken any more.
        self.port = reserve_port(self)
        self.taken = socket.create_server(("127.0.0.1", self.port))
        self.addCleanup(self.taken.close)

    def fails(self, *twistd: str) -> None:
        done = run(self.arguments("--port", str(self.port), twistd=twistd), cwd=self.folder)
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
        self.assertIn(f"port {self.port}: cannot listen: Address already in use", done.stderr)

    def test_in_the_foreground(self) -> None:
        """The server would run and serve nobody; and once the port is free, it has to start."""
        self.fails("-n", "--pidfile=")
        self.taken.close()
        self.new_client("alice")
        server = self.serve("--port", str(self.port))
        self.assertEqual(server.port, self.port)
        self.assertIn("Hello: alice", self.curl_as("alice", server).stdout)

    def test_as_a_daemon(self) -> None:
        """The start would look like a success, with nothing running and a pidfile left behind."""
        pidfile, log = self.folder / "mtlsd.pid", self.folder / "mtlsd.log"
        self.fails("--pidfile", str(pidfile), "--logfile", str(log))
        self.assertFalse(pidfile.exists())

    def test_again_at_once(self) -> None:
        """A restart would fail for a minute, because connections of before are in TIME_WAIT."""
        self.taken.close()
        self.new_client("alice")
        for _ in range(2):
            server = self.serve("--port", str(self.port))
            self.assertIn("Hello: alice", self.curl_as("alice", server).stdout)
            self.assertEqual(server.stop(), 0)


class GroupReadableKeyTests(AcceptanceTestCase):
    """What is no mistake."""

    def test_group_may_read_the_key(self) -> None:
        """Who shares the key with a group, as Debian's ssl-cert does, could not start."""
        self.put_server_pair()
        os.chmod(self.certs / "serverKey.pem", 0o640)
        self.new_client("alice")
        self.assertIn("Hello: alice", self.curl_as("alice", self.serve()).stdout)


def new_pem() -> bytes:
    return make_pair("other", key=new_key()).key_pem
