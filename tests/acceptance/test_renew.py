"""`mtlsd renew` against a running server, and what is left where either of the two is killed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

from mtlsd.cli.shared import now
from mtlsd.client import Pair as ClientPair
from mtlsd.client import Rejected, whoami
from mtlsd.client import Server as Known
from mtlsd.clientfolder import ClientFolder
from mtlsd.clientpairs import MARK, ClientPairs
from mtlsd.enrol import renewer
from mtlsd.keys import new_client_pair
from mtlsd.registry.pem import certificates_in
from mtlsd.registry.store import Store
from tests.acceptance.backends import ScriptedServer
from tests.acceptance.clients import ClientsTestCase, FolderLock, joined_folder
from tests.acceptance.harness import (
    DEADLINE,
    MTLSD,
    Server,
    command,
    environment,
    poll,
    reserve_port,
)
from tests.acceptance.in_between import relay
from tests.pki import make_pair
from tests.test_clientpairs import Links
from tests.test_store import Killed


class RenewTestCase(ClientsTestCase):
    def start(self, *options: str | Path) -> Server:
        self.server = self.serve("--renew", "on", *options)
        return self.server

    def client(self, name: str = "bob", days: int = 20) -> ClientFolder:
        """Return the folder of a client, as a join leaves it, once the server lets it in."""
        folder = self.authorized_folder(name, days)
        poll("it is let in", lambda: self.hello(name) == f"Hello: {name}\n")
        return folder

    def authorized_folder(self, name: str, days: int = 20) -> ClientFolder:
        """The same, but do not wait for the server."""
        made = new_client_pair(name, now(), days)
        (der,) = certificates_in((self.certs / "serverCrt.pem").read_bytes()).certificates
        folder = joined_folder(self.folder / name, made, der, self.server.port)
        folder.put_curl()
        Store(self.certs, now, "operator").authorize([made.der], name)
        return folder

    def renew(self, name: str = "bob", *more: str) -> subprocess.CompletedProcess[str]:
        return command("renew", "--dir", name, *more, cwd=self.folder)

    def renewed(self, name: str = "bob", *more: str) -> str:
        return self.mtlsd("renew", "--dir", name, *more)

    def not_renewed(self, said: str, name: str = "bob", *more: str) -> None:
        """Assert that it is refused in one line, and that the pair is the same as before, and good."""
        before = self.pair(name)
        self.not_done(said, "renew", "--dir", name, *more)
        self.assertEqual(self.pair(name), before)

    def pair(self, name: str = "bob") -> tuple[bytes, bytes]:
        return tuple((self.folder / name / file).read_bytes() for file in ("key.pem", "cert.pem"))  # type: ignore[return-value]

    def fingerprint(self, name: str = "bob") -> str:
        found = ClientFolder(self.folder / name).pair()
        assert found is not None
        return found[1].fingerprint

    def is_let_in(self, known: Known, pair: ClientPair) -> bool:
        try:
            return bool(whoami(known, pair).client)
        except Rejected:
            return False


class SceneTests(RenewTestCase):
    """What a client does by itself."""

    def test_renew(self) -> None:
        """The scene of the README: one command, at the client, and nobody at the server."""
        self.start()
        self.client()
        self.write(self.certs / "authorized" / "bob.toml", b'# mine\ngroups = ["ops"]\n')
        poll("the groups are there", lambda: "ops" in self.hello(path="/whoami"))
        before, old = self.pair(), self.fingerprint()
        said = self.renewed("bob", "--then", "echo told >> told")
        self.assertRegex(said, r"^renewed the certificate of bob, good until \d{4}-\d\d-\d\d\nit is in \S*/bob, as before\n$")
        self.assertNotEqual(self.pair()[0], before[0])
        self.assertEqual((self.folder / "told").read_text(), "told\n")
        told = json.loads(self.hello(path="/whoami"))
        self.assertEqual((told["client"], told["groups"], told["fingerprint"]), ("bob", ["ops"], self.fingerprint()))
        # Whatever has not been restarted yet has the old pair in its memory.
        aside = self.folder / "aside"
        aside.mkdir()
        for file, data in zip(("key.pem", "cert.pem"), before, strict=True):
            self.write(aside / file, data, 0o600)
        old_curl = ("-k", "--cert", aside / "cert.pem", "--key", aside / "key.pem", self.server.url())
        self.assertEqual(self.curl(*old_curl).stdout, "Hello: bob\n")
        (renewed,) = self.server.events("renewed")
        (retired,) = poll("the old one has an end", lambda: self.server.events("retired"))
        self.assertEqual((self.ledger("renewed"), self.ledger("retired")), ([renewed], [retired]))
        self.assertEqual((renewed["fingerprint"], retired["fingerprint"]), (self.fingerprint(), old))
        # The operator who reads the log at night.
        for said in (f"renewed bob from .*renewed from {old}", f"retired bob .*renewed as {self.fingerprint()}, ends at "):
            self.server.log.wait_for(rf"mtlsd#info\] {said}")
        terms = (self.certs / "authorized" / "bob.toml").read_text()
        self.assertTrue(terms.startswith('# mine\ngroups = ["ops"]\n'), terms)
        # At once, a second time: the first has its overlap still.
        self.not_renewed("you have two certificates already")
        self.server.stop()
        self.assert_quiet(self.server)

    def test_the_old_one_ends(self) -> None:
        """A stolen key would be good for as long as the certificate that was renewed long ago."""
        self.start("--renew-grace", "0")
        folder = self.client()
        found = folder.pair()
        assert found is not None
        known = renewer.server_of(folder)
        for turn in range(3):
            self.renewed()
            poll("the old one is out", lambda: not self.is_let_in(known, found[0]))
            self.assertEqual(self.hello(), "Hello: bob\n", turn)

    def test_if_expiring(self) -> None:
        """A line in a crontab would renew each day, or mail each day that there is nothing to do."""
        self.start()
        self.client(days=20)
        before = self.pair()
        self.assertEqual(self.renewed("bob", "--if-expiring", "10d", "--then", "echo told >> told"), "")
        self.assertEqual(self.pair(), before)
        self.assertFalse((self.folder / "told").exists())
        self.assertIn("renewed", self.renewed("bob", "--if-expiring", "30d", "--then", "echo told >> told"))
        self.assertNotEqual(self.pair(), before)
        self.assertEqual(self.renewed("bob", "--if-expiring", "30d", "--then", "echo told >> told"), "")
        self.assertEqual((self.folder / "told").read_text(), "told\n")

    def test_then_fails(self) -> None:
        """What uses the pair would go on with one that ends in an hour, and nobody would tell it."""
        self.start()
        self.client()
        found = self.renew("bob", "--then", "test -e ready")
        self.assertEqual(found.returncode, 1)
        self.assertIn("status 1", found.stderr)
        after = self.pair()
        (self.folder / "ready").touch()
        said = self.renewed("bob", "--if-expiring", "30d", "--then", "test -e ready && echo told")
        self.assertIn("had renewed", said)
        self.assertIn("told\n", said)
        self.assertEqual(self.pair(), after)
        self.assertEqual(self.renewed("bob", "--if-expiring", "30d", "--then", "false"), "")

    def test_with_routes(self) -> None:
        """Where there are routes, a client would look for it in vain."""
        config = self.write(self.folder / "mtlsd.toml", b'[[route]]\npath = "/"\nallow = ["nobody"]\nstatic = "srv"\n')
        (self.folder / "srv").mkdir()
        self.start("--config", config)
        folder = self.authorized_folder("bob")
        known, found = renewer.server_of(folder), folder.pair()
        assert found is not None
        poll("it is let in", lambda: self.is_let_in(known, found[0]))
        self.assertIn("renewed", self.renewed())

    def test_which_server(self) -> None:
        """`mtlsd renew`, as the README has it, would not find what `mtlsd join` has made."""
        self.start()
        self.client()
        base = self.folder / "xdg" / "mtlsd"
        base.mkdir(parents=True)
        (self.folder / "bob").rename(base / "localhost")

        def run(*arguments: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [*MTLSD, "renew", *arguments],
                cwd=self.folder,
                env=environment(XDG_CONFIG_HOME=str(base.parent)),
                capture_output=True,
                text=True,
                timeout=60,
            )

        self.assertIn("renewed the certificate of bob", run().stdout)
        shutil.copytree(base / "localhost", base / "other", symlinks=True)
        for arguments, said in (
            ((), "which server? localhost, other"),
            (("localhost", "--dir", "x"), "give either HOST or --dir"),
            (("nowhere.example",), "nowhere.example/server.pem is missing"),
        ):
            found = run(*arguments)
            self.assertIn(said, found.stderr)
            self.assertEqual(found.stderr.count("\n"), 1, found.stderr)
        shutil.rmtree(base)
        self.assertIn("nothing was joined", run().stderr)


class AdoptTests(RenewTestCase):
    """A client that was approved, with files of its own."""

    def setUp(self) -> None:
        super().setUp()
        self.start()
        make = "req -nodes -x509 -newkey rsa:2048 -keyout clientKey.pem -out clientCrt.pem -days 20 -subj /CN=alice"
        self.assertEqual(self.openssl(*make.split()).returncode, 0)
        self.certificate = (self.folder / "clientCrt.pem").read_bytes()

    def let_in(self) -> None:
        self.write(self.certs / "authorized" / "alice.pem", self.certificate)
        poll("she is let in", lambda: self.curl_as("client", self.server).stdout.endswith("Hello: alice\n"))

    def adopt(self, *more: str | Path, known: bool = True) -> subprocess.CompletedProcess[str]:
        pair = ("--cert", "clientCrt.pem", "--key", "clientKey.pem", "--dir", "alice")
        right = ("--cacert", self.certs / "serverCrt.pem") if known else ()
        return command("adopt", f"localhost:{self.server.port}", *pair, *right, *more, cwd=self.folder)

    def test_adopted_and_renewed(self) -> None:
        """Who was approved would have to carry a file each year, or be invited anew under another name."""
        refused = self.adopt()
        self.assertEqual((refused.returncode, refused.stdout), (1, ""))
        self.assertIn("it has to be approved first, there: mtlsd pending lists it\n", refused.stderr)
        self.assertFalse((self.folder / "alice").exists())
        self.let_in()
        for said in ("adopted the pair of alice, for localhost:", "you had adopted the pair of alice"):
            found = self.adopt()
            self.assertEqual((found.returncode, found.stderr), (0, ""))
            self.assertTrue(found.stdout.startswith(said), found.stdout)
            self.assertIn(f"curl --config {self.folder}/alice/curl ", found.stdout)
        self.assertEqual((self.folder / "alice" / "key.pem").stat().st_mode & 0o777, 0o600)
        self.assertEqual(self.hello("alice"), "Hello: alice\n")
        self.assertEqual((self.folder / "alice" / "cert.pem").read_bytes(), self.certificate)
        self.assertIn("renewed the certificate of alice", self.renewed("alice"))
        self.assertEqual(self.hello("alice"), "Hello: alice\n")
        self.assertNotEqual((self.folder / "alice" / "cert.pem").read_bytes(), self.certificate)
        # What was there is let be, and the folder is not made anew over what has come of it.
        self.assertEqual((self.folder / "clientCrt.pem").read_bytes(), self.certificate)
        self.assertIn("holds another pair already", self.adopt().stderr)

    def test_by_the_fingerprint(self) -> None:
        """Without the server's certificate, which nobody has carried, it could not be done; or anybody would do as the server."""
        self.let_in()
        (server,) = certificates_in((self.certs / "serverCrt.pem").read_bytes()).leaves
        wrong = self.adopt("--fingerprint", "0" * 64, known=False)
        self.assertIn("nothing was sent", wrong.stderr)
        self.assertFalse((self.folder / "alice").exists())
        found = self.adopt("--fingerprint", server.fingerprint.upper(), known=False)
        self.assertEqual((found.returncode, found.stderr), (0, ""))
        self.assertEqual(self.hello("alice"), "Hello: alice\n")

    def test_wrong(self) -> None:
        """Each of these would be a traceback, or a folder with a pair that is none."""
        self.let_in()
        (self.folder / "empty.pem").touch()
        (self.folder / "damaged.pem").write_bytes(self.certificate[:200])
        locked = ("pkey", "-in", "clientKey.pem", "-aes256", "-passout", "pass:x", "-out", "locked.pem")
        self.assertEqual(self.openssl(*locked).returncode, 0)
        make_pair("eve").write(self.folder, "eve")
        for more, said in (
            (("--cert", "nowhere.pem"), "nowhere.pem: cannot be read: No such file or directory"),
            (("--cert", "empty.pem"), "empty.pem: there is no certificate in it"),
            (("--cert", "damaged.pem"), "damaged.pem: a BEGIN line of CERTIFICATE without its END line"),
            (("--cacert", "empty.pem"), "empty.pem: there is no certificate in it"),
            (("--key", "empty.pem"), "empty.pem: there is no private key in it"),
            (("--key", "locked.pem"), "locked.pem: the key is encrypted"),
            (("--key", "eveKey.pem"), "the key and the certificate do not belong together"),
            (("--fingerprint", "0" * 64), "give either --cacert FILE or --fingerprint F"),
            (("--fingerprint", "00"), "a fingerprint is 64 hex digits"),
        ):
            found = self.adopt(*more)
            self.assertEqual((found.stdout, found.stderr.count("\n")), ("", 1), found.stderr)
            self.assertIn(said, found.stderr)
            self.assertFalse((self.folder / "alice").exists())
        self.assertIn("give either", self.adopt(known=False).stderr)


class RefusedTests(RenewTestCase):
    """Whoever may not renew is told so in one line, and keeps a pair that works."""

    def test_renew_is_off(self) -> None:
        """An operator who has not turned it on would have it all the same; or the client a status to look up."""
        self.server = self.serve("--enrol", "on")
        self.client()
        self.not_renewed("it does not let clients renew")
        self.assertEqual(self.hello(), "Hello: bob\n")

    def test_too_long(self) -> None:
        """The operator's limit would be the client's to set."""
        self.start("--renew-longest", "90d")
        self.client()
        self.not_renewed("ends too late: make one for fewer days")
        self.assertEqual(self.hello(), "Hello: bob\n")
        self.renewed("bob", "--days", "89")

    def test_revoked(self) -> None:
        """A client that was shut out could come back by itself; or what it had renewed would stay in."""
        self.start()
        folder = self.client()
        old = self.fingerprint()
        self.renewed()
        done = command("revoke", "--fingerprint", old, "--certs", self.certs, cwd=self.folder)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(self.fingerprint()[:16], done.stdout)
        known, found = renewer.server_of(folder), folder.pair()
        assert found is not None
        poll("it is out", lambda: not self.is_let_in(known, found[0]))
        self.not_renewed("it does not let this certificate in")

    def test_no_server(self) -> None:
        """A client that cannot reach its server would lose its pair, or have a new one that nobody knows."""
        self.start()
        self.client()
        self.server.stop()
        self.not_renewed("cannot be reached")
        self.not_renewed("cannot be reached", "bob", "--at", f"127.0.0.1:{reserve_port(self)}")

    def test_two_at_once(self) -> None:
        """Two machines with one pair: both would win, or the one that loses would have no pair that works."""
        self.start()
        self.client()
        shutil.copytree(self.folder / "bob", self.folder / "bob2", symlinks=True)
        lock = self.hold_lock()
        both = [self.begin("renew", "--dir", name) for name in ("bob", "bob2")]
        lock.release()
        said = [process.communicate(timeout=60) for process in both]
        self.assertEqual(sorted(process.returncode for process in both), [0, 1], said)
        self.assertIn("you have two certificates already", said[0][1] + said[1][1])
        self.assertEqual(len(self.ledger("renewed")), 1)
        # A pair that works: the new one, and the old one for its overlap.
        self.write(self.folder / "bob2" / "curl", (self.folder / "bob" / "curl").read_bytes().replace(b"/bob/", b"/bob2/"))
        self.assertEqual((self.hello("bob"), self.hello("bob2")), ("Hello: bob\n",) * 2)


class ManyTests(RenewTestCase):
    """A fleet whose clocks all strike at once."""

    def test_fifty_at_once(self) -> None:
        """Of a fleet that renews at midnight, some would be lost, or two would have each other's certificate."""
        self.start()
        names = [f"c{number}" for number in range(50)]
        found: dict[str, str] = {}
        for name in names[:-1]:
            self.authorized_folder(name)
        self.client(names[-1])
        known = renewer.server_of(ClientFolder(self.folder / "c0"))

        def work(name: str) -> None:
            folder = ClientFolder(self.folder / name)
            pairs = ClientPairs(folder)
            renewal = renewer.renew(folder, pairs, known, now(), 365)
            pairs.finish()
            assert renewal is not None
            found[name] = f"{renewal.who.client} {renewal.certificate.fingerprint}"

        # What goes wrong with one is raised here; each has the patience of its own connection.
        with ThreadPoolExecutor(len(names)) as pool:
            for _ in pool.map(work, names):
                continue
        self.assertEqual(found, {name: f"{name} {self.fingerprint(name)}" for name in names})
        self.assertEqual(sorted(str(event["client"]) for event in self.ledger("renewed")), sorted(names))
        self.assertEqual([self.hello(name) for name in names], [f"Hello: {name}\n" for name in names])
        poll("each old one has an end", lambda: len(self.ledger("retired")) == len(names))


class AtOnceTests(RenewTestCase):
    """The clock strikes again while the last one is still at work."""

    def test_the_command_takes_its_time(self) -> None:
        """Two would restart what uses the pair at once, and one would clear away what the other has only begun."""
        self.start()
        self.client()
        os.mkfifo(self.folder / "go")
        process = self.begin("renew", "--dir", "bob", "--then", "echo told >> told; read _ < go")
        poll("the command runs", (self.folder / "told").exists)
        second = self.renew("bob", "--if-expiring", "1d", "--then", "echo told >> told")
        (self.folder / "go").write_text("\n")
        self.assertEqual(process.communicate(timeout=DEADLINE)[1], "")
        self.assertEqual(process.returncode, 0)
        self.assertEqual(second.returncode, 1)
        self.assertIn("another mtlsd renew or trust is at work here", second.stderr)
        self.assertEqual((self.folder / "told").read_text(), "told\n")
        self.assertEqual(self.renewed("bob", "--if-expiring", "1d", "--then", "echo told >> told"), "")


class HungUpTests(RenewTestCase):
    """A connection that breaks, without a word of the server's, on the way to the new certificate."""

    def setUp(self) -> None:
        super().setUp()
        self.start()
        self.client()

    def breaking(self, which: int) -> str:
        """Return where the server is behind somebody who hangs up on a connection: the first one is number 1."""

        def serve(connection: socket.socket, number: int) -> None:
            if number + 1 == which:
                connection.recv(65536)
            else:
                relay(connection, self.server.port)

        listener = ScriptedServer(serve)
        self.addCleanup(listener.stop)
        return f"localhost:{listener.port}"

    def test_the_first_use(self) -> None:
        """A client that went back to its old pair would hear that it has two already, each day until that pair has ended."""
        old = self.fingerprint()
        found = self.renew("bob", "--at", self.breaking(3))
        self.assertEqual((found.returncode, found.stdout), (1, ""), found.stderr)
        self.assertIn("it hung up", found.stderr)
        self.assertNotEqual(self.fingerprint(), old)
        self.assertIn("had renewed", self.renewed("bob", "--if-expiring", "1d", "--then", "echo told >> told"))
        self.assertEqual((self.folder / "told").read_text(), "told\n")
        self.assertEqual(len(self.ledger("renewed")), 1)

    def test_what_is_trusted(self) -> None:
        """A renewal that has succeeded would count as failed, because the server did not say which certificate it shows next."""
        found = self.renew("bob", "--at", self.breaking(4), "--then", "echo told >> told")
        self.assertEqual((found.returncode, found.stderr.count("\n")), (0, 1), found.stderr)
        self.assertIn("next certificate was not asked for, or not learned: localhost:", found.stderr)
        self.assertIn("renewed the certificate of bob", found.stdout)
        self.assertEqual((self.folder / "told").read_text(), "told\n")
        self.assertEqual(len(self.ledger("renewed")), 1)

    def test_afterwards(self) -> None:
        """A client would go back, without a word, to a pair that ends within the hour."""
        self.renew("bob", "--then", "false")
        new = self.fingerprint()
        found = self.renew("bob", "--at", self.breaking(1), "--if-expiring", "1d")
        self.assertEqual((found.returncode, found.stdout), (1, ""), found.stderr)
        self.assertIn("it hung up", found.stderr)
        self.assertIn("had renewed", self.renewed("bob", "--if-expiring", "1d"))
        self.assertEqual(self.fingerprint(), new)


class KilledTests(RenewTestCase):
    """kill -9, at either end: one of the two certificates is in the folder, whole, and gets in."""

    def setUp(self) -> None:
        super().setUp()
        self.start("--port", str(reserve_port(self)))

    def waiting(self) -> tuple[FolderLock, subprocess.Popen[str]]:
        """Start a renewal that comes to the folder's lock, which we hold."""
        lock = self.hold_lock()
        process = self.begin("renew", "--dir", "bob")
        lock.wait_until_wanted()
        return lock, process

    def test_the_client(self) -> None:
        """A client that was killed before it heard the answer would be shut out when its old certificate ends."""
        self.client()
        before = self.pair()
        lock, process = self.waiting()
        process.kill()
        process.communicate()
        lock.release()
        poll("the renewal takes place", lambda: self.ledger("renewed"))
        self.assertEqual(self.pair(), before)
        self.assertEqual(self.hello(), "Hello: bob\n")
        self.renewed("bob", "--if-expiring", "1d")
        self.assertNotEqual(self.pair(), before)
        self.assertEqual(self.hello(), "Hello: bob\n")
        self.assertEqual(len(self.ledger("renewed")), 1)

    def test_the_server(self) -> None:
        """A server that was killed in between would leave a client with a pair that nobody lets in."""
        self.client()
        before = self.pair()
        lock, process = self.waiting()
        self.server.process.kill()
        self.server.process.wait(DEADLINE)
        lock.release()
        self.assertIn("hung up", process.communicate(timeout=60)[1])
        self.assertEqual(self.pair(), before)
        self.start("--port", str(self.server.port))
        self.assertEqual(self.hello(), "Hello: bob\n")
        self.renewed("bob", "--if-expiring", "1d")
        self.assertNotEqual(self.pair(), before)
        self.assertEqual(self.hello(), "Hello: bob\n")

    def test_the_client_at_each_system_call(self) -> None:
        """Somewhere between two of them, a key would lie beside the certificate of another, or a pair that nobody lets in."""
        self.client("probe")
        probe = ClientFolder(self.folder / "probe")
        known, counting = renewer.server_of(probe), Links(-1)
        pairs = ClientPairs(probe, counting)
        self.assertIsNotNone(renewer.renew(probe, pairs, known, now(), 365))
        pairs.finish()
        self.assertGreater(counting.count, 20)

        def killed_at(at: int) -> None:
            folder = self.client(f"c{at}")
            before = self.pair(f"c{at}")
            with contextlib.suppress(Killed):
                killed = ClientPairs(folder, Links(at, fatal=True))
                renewer.renew(folder, killed, known, now(), 365)
                killed.finish()
            self.assertEqual(self.hello(f"c{at}"), f"Hello: c{at}\n")
            pairs = ClientPairs(folder)
            found = renewer.renew(folder, pairs, known, now(), 365, timedelta(days=30))
            if found is not None:
                pairs.finish()
            self.assertNotEqual(self.pair(f"c{at}"), before, at)
            self.assertEqual(self.hello(f"c{at}"), f"Hello: c{at}\n")
            self.assertFalse(pairs.is_under_way, at)

        # Several at once: most of a renewal is the wait until the server believes it.
        with ThreadPoolExecutor(8) as pool:
            for _ in pool.map(killed_at, range(counting.count)):
                continue
        self.assertEqual(len(self.ledger("renewed")), counting.count + 1)

    def test_the_newer_one_is_here(self) -> None:
        """A client with two live certificates could never renew: the older one is refused, and the newer one was never used."""
        folder = self.client()
        old, before = self.fingerprint(), self.pair()
        self.renewed()
        new = self.pair()
        # As after a backup of the client's.
        ClientPairs(folder).use(old[:16])
        (folder.path / MARK).unlink()
        self.assertEqual(self.pair(), before)
        self.assertIn("had renewed", self.renewed("bob", "--then", "echo told >> told"))
        self.assertEqual(self.pair(), new)
        self.assertEqual((self.folder / "told").read_text(), "told\n")
        self.assertIsNone(ClientPairs(folder).waiting())
        self.not_renewed("if it was not you, tell whoever looks after the server: mtlsd history bob")
        self.assertEqual(len(self.ledger("renewed")), 1)
        self.assertEqual([event["reason"] for event in self.server.events("rejected")], [])

    def test_what_was_renewed_is_not_known_as_that(self) -> None:
        """The next pair, which is let in by now, would be thrown away, and with it all that gets in once the old one has ended."""
        self.client()
        lock, process = self.waiting()
        process.kill()
        process.communicate()
        lock.release()
        poll("the renewal takes place", lambda: self.ledger("renewed"))
        terms = self.certs / "authorized" / "bob.toml"
        self.write(terms, terms.read_bytes().partition(b"[renewed]")[0])
        self.assertIn("had renewed", self.renewed())
        self.assertEqual(self.fingerprint(), self.ledger("renewed")[0]["fingerprint"])
        self.assertEqual(self.hello(), "Hello: bob\n")

    def test_the_newest_is_not_known(self) -> None:
        """After the server's folder came back from a backup, a client would be shut out although its old pair is good."""
        self.client()
        backup = (self.certs / "authorized" / "bob.pem").read_bytes()
        self.renewed()
        self.server.stop()
        (self.certs / "authorized" / "bob.toml").unlink()
        self.write(self.certs / "authorized" / "bob.pem", backup)
        self.start("--port", str(self.server.port))
        self.assertNotEqual(self.hello(), "Hello: bob\n")
        self.assertIn("had renewed", self.renewed())
        self.assertEqual(self.hello(), "Hello: bob\n")
        self.assertIn("renewed", self.renewed())
        self.assertEqual(self.hello(), "Hello: bob\n")
