"""`mtlsd import` and `mtlsd export`."""

from __future__ import annotations

import json
import os
import shutil
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mtlsd import bundlefiles
from mtlsd.errors import FolderError
from mtlsd.registry.bundle import written
from mtlsd.registry.room import looked_at
from tests import test_cli
from tests.pki import Pair, make_pair, new_key

DAY = timedelta(days=1)


class Base(test_cli.Base):
    def put(self, name: str, data: bytes) -> str:
        path = self.work / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return str(path)

    def clients(self) -> dict[str, str]:
        """Return who is authorized: the name by the fingerprint."""
        return {one["fingerprint"]: one["name"] for one in json.loads(self.run_it("clients", "--json").stdout)}

    def authorized(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted((self.certs / "authorized").iterdir())}


class ImportTests(Base):
    """`mtlsd import`."""

    def test_bundle(self) -> None:
        """Lost: everybody in nginx's file, under the names that the command shows."""
        alice, carol = make_pair("alice"), make_pair("Carol Smith")
        path = self.put("clients.pem", alice.pem + b"junk between\n" + carol.pem)
        said = self.done("import", path)
        self.assertEqual(
            said,
            f"authorized {alice.fingerprint[:16]} as alice\n"
            f"authorized {carol.fingerprint[:16]} as Carol_Smith\n"
            "2 authorized, 0 there already, 0 refused\n",
        )
        self.assertEqual(self.clients(), {alice.fingerprint: "alice", carol.fingerprint: "Carol_Smith"})

    def test_twice(self) -> None:
        """Lost: a script that imports every night would fail, or write everything anew."""
        path = self.put("clients.pem", make_pair("alice").pem + make_pair("bob").pem)
        self.done("import", path)
        before, ledger = self.authorized(), (self.certs / "ledger.jsonl").read_bytes()
        said = self.done("import", path)
        self.assertIn("of alice: it is authorized already\n", said)
        self.assertTrue(said.endswith("0 authorized, 2 there already, 0 refused\n"))
        self.assertEqual((self.authorized(), (self.certs / "ledger.jsonl").read_bytes()), (before, ledger))

    def test_dry_run(self) -> None:
        """Lost: a look at what would happen, that changes nothing, with the very same answers."""
        weak = make_pair("weak", key="rsa1024")
        path = self.put("clients.pem", make_pair("alice").pem + weak.pem)
        dry = self.run_it("import", path, "--dry-run")
        self.assertEqual((dry.exit_code, self.authorized()), (1, {}))
        self.assertEqual(sorted(os.listdir(self.certs)), ["authorized", "revoked"])
        wet = self.run_it("import", path)
        self.assertEqual(wet.exit_code, 1)
        self.assertEqual(dry.stdout.replace("would be ", ""), wet.stdout)
        self.assertEqual(dry.stderr.replace("would be ", ""), wet.stderr)
        self.assertEqual(len(wet.stderr.splitlines()), 1)
        self.assertIn(
            f"mtlsd: {path}: certificate 2 (weak): refused: certificate {weak.fingerprint[:16]}: its key is too weak", wet.stderr
        )
        self.assertTrue(wet.stdout.endswith("1 authorized, 0 there already, 1 refused\n"))

    def test_json(self) -> None:
        """Lost: the keys that scripts rely on, and one list for all that became of it."""
        alice, weak = make_pair("a\x1bb"), make_pair("weak", key="rsa1024")
        junk = b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"
        result = self.run_it("import", "-", "--json", standard_input=alice.pem + weak.pem + junk + alice.pem)
        self.assertEqual((result.exit_code, result.stderr), (1, ""))
        first, second, third, fourth = json.loads(result.stdout)
        self.assertEqual(
            first,
            {
                "name": "a_b",
                "outcome": "authorized",
                "fingerprint": alice.fingerprint,
                "subject": "CN=a\\1Bb",
                "place": "standard input: certificate 1",
                "notes": [],
            },
        )
        self.assertEqual((second["name"], second["outcome"]), ("weak", "refused"))
        self.assertEqual((third["outcome"], third["subject"]), ("refused", None))
        self.assertEqual((fourth["name"], fourth["outcome"], fourth["notes"]), ("a_b", "there", ["it is there twice"]))

    def test_add(self) -> None:
        """Lost: next year's certificates for clients that are there, in one go."""
        old, new = make_pair("alice"), make_pair("alice")
        self.done("authorize", self.file(old), "--name", "alice")
        text = written([("alice", new.der)])
        self.assertEqual(self.run_it("import", "-", standard_input=text).exit_code, 1)
        self.done("import", "-", "--add", standard_input=text)
        self.assertEqual(self.clients(), {old.fingerprint: "alice", new.fingerprint: "alice"})

    def test_ca(self) -> None:
        """Lost: the word that nginx's file holds an authority, by which nobody is let in here."""
        above = make_pair("Some CA", key=new_key())
        result = self.run_it("import", "-", standard_input=above.pem + make_pair("alice", issuer=above, ca=False).pem)
        self.assertEqual(result.exit_code, 0)
        self.assertEqual(len(result.stderr.splitlines()), 1)
        self.assertIn("mtlsd: warning: standard input: certificate 1: ", result.stderr)
        self.assertIn("is a CA", result.stderr)

    def test_folder(self) -> None:
        """Lost: a folder in which each client's file is named after it, with what else lies in such folders."""
        alice, carol, erin = make_pair("x"), make_pair("x"), make_pair("x", key=new_key())
        self.put("in/alice.pem", alice.pem)
        self.put("in/Carol Smith.CRT", carol.pem)
        self.put("in/erin.cer", erin.pem + erin.key_pem)
        self.put("in/alice.toml", b'groups = ["ops"]')
        self.put("in/erin.key", erin.key_pem)
        self.put("in/d\x1bave.pem", b"junk")
        self.put("in/bundle.pem", alice.pem + make_pair("bob").pem)
        self.put("in/empty.pem", b"")
        self.put("in/.hidden.pem", make_pair("hidden").pem)
        os.mkdir(self.work / "in" / "folder.pem")
        os.mkfifo(self.work / "in" / "fifo.pem")
        result = self.run_it("import", str(self.work / "in"))
        self.assertEqual(result.exit_code, 1)
        self.assertEqual(self.clients(), {alice.fingerprint: "alice", carol.fingerprint: "Carol_Smith", erin.fingerprint: "erin"})
        self.assertNotIn("\x1b", result.stderr)
        for said in (
            "/in/bundle.pem: refused: 2 certificates of several subjects in it",
            r"/in/d\x1bave.pem: refused: no line -----BEGIN CERTIFICATE----- in it",
            "/in/erin.cer holds a private key too",
            "/in/folder.pem: refused: cannot be read: Is a directory",
            "/in: 2 of its files were passed over: only .pem, .crt and .cer are read; groups and terms (NAME.toml) are not taken over",
        ):
            self.assertIn(said, result.stderr)
        for name, data in self.authorized().items():
            self.assertNotIn(b"PRIVATE", data, name)

    def test_nothing(self) -> None:
        """Lost: one line that names the file, where there is nothing to be had."""
        (self.work / "none").mkdir()
        self.fails(1, "there is no certificate in it", "import", str(self.work / "none"))
        self.fails(1, "standard input: there is no certificate in it", "import", "-", standard_input=b"# nobody\n")
        self.fails(1, "cannot be read: No such file", "import", str(self.work / "nowhere.pem"))
        cut = self.put("cut.pem", make_pair().pem + make_pair().pem[:100])
        self.fails(1, "cut.pem: a BEGIN line of CERTIFICATE without its END line", "import", cut)
        self.assertEqual(self.authorized(), {})

    def test_pipe(self) -> None:
        """Lost: `mtlsd import <(ssh …)`, which comes when it comes."""
        pair, path = make_pair("alice"), self.work / "pipe"
        os.mkfifo(path)

        def write() -> None:
            with path.open("wb", buffering=0) as pipe:
                for start in range(0, len(pair.pem), 100):
                    pipe.write(pair.pem[start : start + 100])

        thread = threading.Thread(target=write)
        thread.start()
        self.addCleanup(thread.join)
        self.done("import", str(path))
        self.assertEqual(self.clients(), {pair.fingerprint: "alice"})

    def test_too_large(self) -> None:
        """Lost: a file of the wrong kind, in gigabytes, would be read into memory."""
        self.patch(bundlefiles, "LARGEST_BUNDLE", 1 << 20)
        self.fails(1, "it is larger than 1 MiB", "import", "-", standard_input=b"#" * ((1 << 20) + 1))

    def test_ledger(self) -> None:
        """Lost: status 1 and a line for a change that stands but is not recorded."""
        (self.certs / "ledger.jsonl").mkdir()
        result = self.run_it("import", "-", standard_input=make_pair("alice").pem)
        self.assertEqual(result.exit_code, 1)
        self.assertIn("the change stands, but it is not recorded", result.stderr)


class ExportTests(Base):
    """`mtlsd export`."""

    def authorize(self, name: str, *pairs: Pair, terms: str = "") -> None:
        if terms:
            (self.certs / "authorized" / f"{name}.toml").write_text(terms)
        (self.certs / "authorized" / f"{name}.pem").write_bytes(b"".join(pair.pem for pair in pairs))

    def test_round_trip(self) -> None:
        """Lost: a move to another machine, with nobody forgotten and nobody under another name."""
        for name in ("alice", "bob@home", "9"):
            self.authorize(name, make_pair("the same"))
        self.authorize("carol", make_pair("x"), make_pair("y"))
        before = self.clients()
        self.assertEqual(len(before), 5)
        bundle = self.done("export").encode()
        shutil.rmtree(self.certs / "authorized")
        (self.certs / "authorized").mkdir()
        self.done("import", "-", standard_input=bundle)
        self.assertEqual(self.clients(), before)
        self.assertEqual(self.done("export").encode(), bundle)

    def test_what_is_in_force(self) -> None:
        """Lost: whoever was revoked or has ended would be handed on, and let in by whoever reads the bundle."""
        alice, revoked = make_pair("alice"), make_pair("revoked", key=new_key())
        self.authorize("alice", alice, revoked)
        self.authorize("late", make_pair("late", begins=-3 * DAY, ends=-DAY))
        self.authorize("grace", make_pair("grace", begins=-3 * DAY, ends=-DAY), terms='grace = "7d"')
        (self.certs / "revoked" / f"{revoked.fingerprint}.json").touch()
        (self.certs / "authorized" / "odd.pem").write_bytes(b"junk")
        result = self.run_it("export")
        self.assertEqual(result.exit_code, 0)
        self.assertEqual(result.stdout.encode(), written([("alice", alice.der)]))
        for said in ("odd.pem: damaged", "so it does not count", "warning: left out, for it has ended: grace, late"):
            self.assertIn(said, result.stderr)

    def test_terms(self) -> None:
        """Lost: the word that groups stay behind; whoever relies on them would be let in without."""
        for nth in range(7):
            self.authorize(f"client{nth}", make_pair(), terms='groups = ["ops"]')
        self.authorize("alice", make_pair(), terms='grace = "1d"')
        self.authorize("bob", make_pair(), terms="groups = []")
        result = self.run_it("export")
        self.assertIn("are not in a bundle: alice, client0, client1, client2, client3 and 3 more\n", result.stderr)
        self.assertEqual(len(result.stderr.splitlines()), 1)

    def test_out(self) -> None:
        """Lost: a file that nginx may read at any moment, whole, and that stays where it was."""
        self.authorize("alice", make_pair())
        out, link = self.work / "clients.pem", self.work / "link.pem"
        link.symlink_to("clients.pem")
        for path in (out, out, link):
            self.assertEqual(self.done("export", "--out", str(path)), f"1 certificate in {path}\n")
            self.assertEqual(out.read_text(), self.done("export"))
        self.assertTrue(link.is_symlink())
        self.authorize("bob", make_pair())
        self.assertIn("2 certificates in", self.done("export", "--out", str(out)))
        self.assertEqual(self.done("export", "--out", "/dev/null"), "2 certificates in /dev/null\n")
        self.assertEqual(sorted(path.name for path in self.work.iterdir()), ["certs", "clients.pem", "link.pem"])

    def test_cannot_be_written(self) -> None:
        """Lost: one line where there is no room, and nothing half-written."""
        self.authorize("alice", make_pair())
        self.fails(1, "nowhere/x.pem: cannot be written: No such file", "export", "--out", str(self.work / "nowhere" / "x.pem"))
        (self.work / "x.pem").mkdir()
        self.fails(1, "x.pem: cannot be written: Is a directory", "export", "--out", str(self.work / "x.pem"))

        def full(path: Path, target: Path) -> None:
            raise OSError(28, "No space left on device")

        self.patch(Path, "replace", full)
        self.fails(1, "No space left on device", "export", "--out", str(self.work / "y.pem"))
        self.assertEqual(sorted(path.name for path in self.work.iterdir()), ["certs", "x.pem"])

    def test_changed_meanwhile(self) -> None:
        """Lost: of a client that changes at that moment, something that was never in force."""
        self.authorize("alice", make_pair())
        seen = looked_at(self.certs)
        for data in (b"", b"junk", make_pair().pem):
            (self.certs / "authorized" / "alice.pem").write_bytes(data)
            error = self.assertRaises(FolderError, bundlefiles.exported, self.certs, seen, datetime.now(UTC))
            self.assertIn("alice.pem: it has changed meanwhile", str(error))
        (self.certs / "authorized" / "alice.pem").unlink()
        error = self.assertRaises(FolderError, bundlefiles.exported, self.certs, seen, datetime.now(UTC))
        self.assertIn("authorized: cannot be read: No such file", str(error))

    def test_nobody(self) -> None:
        """Lost: an empty bundle where nobody is authorized, and no error."""
        self.assertEqual(self.done("export"), "")
