"""The `mtlsd` command, as a person or a script meets it."""

from __future__ import annotations

import io
import json
import os
import re
import stat
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import patch

from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from mtlsd import __version__
from mtlsd.cli import main
from mtlsd.cli.commands import mtlsd
from mtlsd.cli.tables import clients_table, explanation_text
from mtlsd.explain import Explanation, explained
from mtlsd.policy import Reason
from mtlsd.registry.records import Authorization, Snapshot, Tombstone
from tests.pki import Pair, make_pair, new_key

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
VERBS = (
    *(
        "adopt",
        "approve",
        "authorize",
        "check",
        "clients",
        "dismiss",
        "explain",
        "export",
        "history",
        "import",
        "init",
        "invite",
        "invites",
    ),
    *("join", "new", "pending", "renew", "revoke", "route", "trust", "uninvite"),
)


class Base(SynchronousTestCase):
    def setUp(self) -> None:
        self.work = Path(self.mktemp()).absolute()
        self.certs = self.work / "certs"
        for part in ("authorized", "revoked"):
            (self.certs / part).mkdir(parents=True)

    def run_it(self, *arguments: str, standard_input: bytes | None = None) -> Result:
        """Run the command on the test's folder."""
        return self.bare(*arguments, "--certs", str(self.certs), standard_input=standard_input)

    def bare(self, *arguments: str, standard_input: bytes | None = None) -> Result:
        result = CliRunner().invoke(mtlsd, list(arguments), standard_input, prog_name="mtlsd")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def done(self, *arguments: str, standard_input: bytes | None = None) -> str:
        """Assert that the command succeeds in silence on standard error, and return what it prints."""
        result = self.run_it(*arguments, standard_input=standard_input)
        self.assertEqual((result.exit_code, result.stderr), (0, ""), result.output)
        return result.stdout

    def fails(self, status: int, said: str, *arguments: str, standard_input: bytes | None = None) -> None:
        """Assert the exit status, and one line on standard error with *said* in it."""
        result = self.run_it(*arguments, standard_input=standard_input)
        self.one_line(result, status, said)

    def one_line(self, result: Result, status: int, said: str) -> None:
        self.assertEqual(result.exit_code, status, result.output)
        self.assertIn(said, result.stderr)
        self.assertTrue(result.stderr.startswith("mtlsd: "), result.stderr)
        self.assertEqual(result.stderr.count("\n"), 1, result.stderr)
        self.assertEqual(result.stdout, "")

    def file(self, pair: Pair, name: str = "clientCrt.pem") -> str:
        path = self.work / name
        path.write_bytes(pair.pem)
        return str(path)


class UsageTests(Base):
    """What is typed wrongly, and the help."""

    def test_wrong(self) -> None:
        """Lost: status 2 and one line for a mistake in the command, where a script and a person look for it."""
        for said, arguments in (
            ("Missing argument 'NAME'", ["new", "--out", "x"]),
            ("Missing option '--out'", ["new", "alice"]),
            ("No such option", ["clients", "--jsn"]),
            ("either NAME or --fingerprint", ["revoke"]),
            ("either NAME or --fingerprint", ["revoke", "alice", "--fingerprint", "0" * 64]),
            ("--only goes with --fingerprint", ["revoke", "alice", "--only"]),
            ("8 to 64 hex digits", ["revoke", "--fingerprint", "0" * 7]),
            ("neither a host name nor", ["init", "--name", "a b"]),
            ("'--days'", ["init", "--days", "0"]),
            ("'--days'", ["new", "alice", "--out", "x", "--days", "soon"]),
            ("Missing option '--name'", ["authorize", "x.pem"]),
            ("unexpected extra argument", ["explain", "a.pem", "b.pem"]),
            ("a length of time is a number and its unit", ["clients", "--expiring", "30"]),
        ):
            self.fails(2, said, *arguments)

    def test_unknown_verb(self) -> None:
        """Lost: the verb that was meant; and what is typed reaches the terminal as it is."""
        self.one_line(self.bare("revok", "alice"), 2, "there is no verb 'revok', but there is revoke")
        self.one_line(self.bare("\x1b[31m"), 2, r"\x1b[31m")
        self.one_line(self.bare("--frobnicate"), 2, "No such option")

    def test_no_verb(self) -> None:
        """Lost: a first look at what there is."""
        self.one_line(self.bare(), 2, "which verb? " + ", ".join(VERBS))

    def test_help(self) -> None:
        """Lost: an example for each verb, and the folder that it works on."""
        top = self.bare("--help")
        self.assertEqual(top.exit_code, 0)
        for verb in VERBS:
            self.assertIn(verb, top.stdout)
            result = self.bare(verb, "--help")
            self.assertEqual(result.exit_code, 0)
            self.assertIn(f"Example: mtlsd {verb}", result.stdout)
            # Who joins has no folder of clients, but one of its own.
            self.assertIn("--dir DIR" if verb in ("adopt", "join", "renew", "trust") else "--certs DIR", result.stdout)

    def test_version(self) -> None:
        """Lost: which mtlsd it is, for a report of a mistake."""
        self.assertEqual(self.bare("--version").stdout, f"mtlsd {__version__}\n")

    def test_no_folder(self) -> None:
        """Lost: the word that `mtlsd init` makes the folder."""
        path = self.file(make_pair())
        granting = (["authorize", path, "--name", "alice"], ["import", path], ["import", path, "--dry-run"])
        for arguments in (*granting, ["clients"], ["explain", path], ["export"], ["history"], ["revoke", "alice"]):
            result = self.bare(*arguments, "--certs", "nowhere")
            self.one_line(result, 1, "no such folder nowhere: run mtlsd init --certs nowhere")


class MainTests(Base):
    """The entry point."""

    def call(self, *arguments: str, out: io.TextIOBase | None = None) -> tuple[object, str, str]:
        stdout, stderr = out or io.StringIO(), io.StringIO()
        with patch.object(sys, "argv", ["mtlsd", *arguments]), redirect_stdout(stdout), redirect_stderr(stderr):
            error = self.assertRaises(SystemExit, main)
        return error.code, stdout.getvalue() if isinstance(stdout, io.StringIO) else "", stderr.getvalue()

    def into(self, descriptor: int, *arguments: str) -> tuple[object, str, str]:
        """Call with an output that takes nothing."""
        out = io.TextIOWrapper(io.FileIO(descriptor, "w"), write_through=True)
        try:
            return self.call(*arguments, out=out)
        finally:
            # What it still holds goes nowhere.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
            out.close()

    def test_status(self) -> None:
        """Lost: the exit statuses that scripts rely on."""
        pair = make_pair()
        path, certs = self.file(pair), ["--certs", str(self.certs)]
        self.assertEqual(self.call("explain", path, *certs)[0], 1)
        self.assertEqual(self.call("authorize", path, "--name", "alice", *certs)[0], 0)
        self.assertEqual(self.call("explain", path, *certs)[0], 0)
        self.assertEqual(self.call("explain"), (2, "", "mtlsd: Missing argument 'CERT.pem'; see mtlsd explain --help\n"))
        self.assertEqual(self.call("--version")[:2], (0, f"mtlsd {__version__}\n"))

    def test_closed_pipe(self) -> None:
        """Lost: `mtlsd clients | head` without a complaint."""
        reading, writing = os.pipe()
        os.close(reading)
        code, _, stderr = self.into(writing, "--help")
        self.assertEqual((code, stderr), (1, ""))

    def test_full_disk(self) -> None:
        """Lost: one line, and status 1, where the output cannot be written."""
        code, _, stderr = self.into(os.open("/dev/full", os.O_WRONLY), "--version")
        self.assertEqual((code, stderr), (1, "mtlsd: No space left on device\n"))

    def test_interrupted(self) -> None:
        """Lost: Ctrl-C, while another one holds the lock, without a traceback."""
        with patch("mtlsd.cli.commands.looked_at", side_effect=KeyboardInterrupt):
            code, _, stderr = self.call("clients", "--certs", str(self.certs))
        self.assertEqual((code, stderr.strip()), (130, ""))


class InitTests(Base):
    """`mtlsd init`."""

    def test_makes(self) -> None:
        """Lost: the first command of everybody, its hosts, and that running it again is harmless."""
        folder = self.work / "new"
        arguments = ["init", "--name", "WWW.Example.org", "--name", "192.0.2.7", "--certs", str(folder)]
        first = self.bare(*arguments)
        self.assertEqual((first.exit_code, first.stderr), (0, ""))
        self.assertIn(f"made {folder / 'serverKey.pem'}", first.stdout)
        for host in ("localhost", "www.example.org", "127.0.0.1", "::1", "192.0.2.7"):
            self.assertIn(host, first.stdout)
        second = self.bare(*arguments)
        self.assertEqual((second.exit_code, second.stderr), (0, ""))
        self.assertIn("nothing had to be made", second.stdout)
        self.assertIn(re.findall(r"[0-9a-f]{64}", first.stdout)[0], second.stdout)
        self.assertEqual(stat.S_IMODE((folder / "serverKey.pem").stat().st_mode), 0o600)

    def test_odd_machine(self) -> None:
        """Lost: init on a machine whose name no certificate can hold, or whose resolver answers with an address."""
        with (
            patch("mtlsd.cli.founding.socket.gethostname", return_value="my machine"),
            patch("mtlsd.cli.founding.socket.getfqdn", return_value="1.0.0.127.in-addr.arpa"),
        ):
            self.assertIn("good for localhost, 127.0.0.1, ::1, until", self.done("init"))

    def test_lacks(self) -> None:
        """Lost: the word that the pair that is there does not go by the wanted name, or lacks its other half."""
        self.done("init")
        self.fails(1, "does not name b.org", "init", "--name", "b.org")
        (self.certs / "serverKey.pem").unlink()
        self.fails(1, "serverKey.pem is missing", "init")

    def test_expired(self) -> None:
        """Lost: the word that no client will believe this server any more."""
        make_pair("localhost", begins=timedelta(days=-2), ends=timedelta(days=-1)).write(self.certs, "server")
        result = self.run_it("init")
        self.assertEqual(result.exit_code, 0)
        self.assertIn("good for localhost", result.stdout)
        self.assertIn("has expired: mtlsd init --renew makes another", result.stderr)

    def test_renew(self) -> None:
        """Lost: the day on which the server changes, which its operator has to know, and what happens to who does not come before."""
        self.done("init", "--name", "a.org")
        said = self.done("init", "--renew", "--in", "40d", "--name", "b.org")
        self.assertRegex(
            said,
            rf"\Amade {self.certs}/next\nthe server's next certificate: [0-9a-f]{{64}}\ngood for localhost, .*a\.org.*b\.org.*, until \d{{4}}-\d\d-\d\d\n"
            r"used from \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC on; until then clients learn it with mtlsd renew or mtlsd trust --refresh\n\Z",
        )
        fingerprint = said.split()[6]
        self.assertIn(f"the next one: {fingerprint}, used from ", self.done("init"))
        self.fails(1, "is there already", "init", "--renew")
        soon = self.run_it("init", "--renew", "--again", "--in", "3d")
        self.assertEqual(soon.exit_code, 0)
        self.assertIn("warning: 3 days left: who does not learn it in time has to be given it, or to join anew", soon.stderr)
        (self.certs / "next" / "serverCrt.pem").write_bytes(b"junk")
        damaged = self.run_it("init")
        self.assertEqual(damaged.exit_code, 0)
        self.assertIn(f"warning: {self.certs}/next/serverCrt.pem: ", damaged.stderr)
        self.assertIn(": put it right, or mtlsd init --renew --again makes another in its place", damaged.stderr)
        now = self.run_it("init", "--renew", "--again", "--in", "0s")
        self.assertEqual(now.exit_code, 0)
        self.assertIn("used from now on\n", now.stdout)
        self.assertIn("have to be given this one, or join anew", now.stderr)
        fingerprint = now.stdout.split()[6]
        # The one in force is told of, wherever it lies; and gets the usual names with the next init.
        out = self.work / "out"
        self.assertIn(f"--cacert {self.certs}/next/serverCrt.pem", self.done("new", "alice", "--out", str(out)))
        said = self.done("init")
        self.assertIn(f"made {self.certs}/serverCrt.pem\nthe server's certificate: {fingerprint}", said)
        self.assertFalse((self.certs / "next").exists())

    def test_renew_usage(self) -> None:
        """Lost: a slip in an option would make a pair that nobody wanted."""
        self.done("init")
        for words, more in (
            ("go with --renew", ["--in", "3d"]),
            ("go with --renew", ["--again"]),
            ("go with --renew", ["--from", "2040-01-01"]),
            ("not both", ["--renew", "--in", "3d", "--from", "2040-01-01"]),
            ("a date is wanted", ["--renew", "--from", "tomorrow"]),
        ):
            self.fails(2, words, "init", *more)
        self.fails(1, "before the next one would be used", "init", "--renew", "--from", "2040-01-01", "--days", "9999")
        self.assertFalse((self.certs / "next").exists())


class NewTests(Base):
    """`mtlsd new`."""

    def test_makes(self) -> None:
        """Lost: a pair that is let in, and a curl line that can be pasted, with odd folders quoted."""
        self.done("init", "--name", "a.org")
        out = self.work / "it's"
        said = self.done("new", "alice", "--out", str(out))
        curl = said.splitlines()[-1]
        self.assertTrue(curl.startswith(f"curl --cacert {self.certs}/serverCrt.pem --cert '"), curl)
        self.assertTrue(curl.endswith(" https://localhost:9443/hello"), curl)
        self.assertIn("it'\"'\"'s", curl)
        self.done("explain", str(out / "aliceCrt.pem"))

    def test_server_of_the_recipe(self) -> None:
        """Lost: the host by which the server's own certificate goes."""
        make_pair("a.org").write(self.certs, "server")
        self.assertIn("https://a.org:9443/hello", self.done("new", "alice", "--out", str(self.work / "out")))

    def test_no_server_certificate(self) -> None:
        """Lost: a client's pair could not be made before the server's, or beside a damaged one."""
        said = self.done("new", "alice", "--out", str(self.work / "out"))
        self.assertIn("\ncurl --cert ", said)
        (self.certs / "serverCrt.pem").write_text("junk")
        result = self.run_it("new", "bob", "--out", str(self.work / "out"))
        self.assertEqual(result.exit_code, 0)
        self.assertIn("serverCrt.pem: no line", result.stderr)

    def test_refused(self) -> None:
        """Lost: a taken name, or a file that is there, is an error that leaves nothing behind."""
        out = self.work / "out"
        self.done("new", "alice", "--out", str(out))
        self.fails(1, "is there already", "new", "alice", "--out", str(out))
        other = self.work / "other"
        self.fails(1, "--add", "new", "alice", "--out", str(other))
        self.assertFalse(other.exists())
        self.done("new", "alice", "--out", str(other), "--add", "--days", "3")


class AuthorizeTests(Base):
    """`mtlsd authorize`."""

    def test_file_and_standard_input(self) -> None:
        """Lost: a certificate from a file or from a pipe."""
        one, two = make_pair(), make_pair()
        self.assertEqual(
            self.done("authorize", self.file(one), "--name", "alice"), f"authorized {one.fingerprint[:16]} as alice\n"
        )
        self.done("authorize", "-", "--name", "bob", standard_input=two.pem)
        self.assertIn("already", self.done("authorize", "-", "--name", "bob", standard_input=two.pem))

    def test_several(self) -> None:
        """Lost: whoever sends a chain would get its authority let in as well."""
        one, two = make_pair(), make_pair()
        both = one.pem + two.pem
        self.fails(1, "holds 2 certificates: --all", "authorize", "-", "--name", "alice", standard_input=both)
        said = self.done("authorize", "-", "--name", "alice", "--all", standard_input=both)
        self.assertEqual(said.count("authorized"), 2)

    def test_with_a_key(self) -> None:
        """Lost: the word that a key has travelled; it must go no further."""
        pair = make_pair()
        result = self.run_it("authorize", "-", "--name", "alice", standard_input=pair.key_pem + pair.pem)
        self.assertEqual(result.exit_code, 0)
        self.assertIn("holds a private key too", result.stderr)
        self.assertEqual((self.certs / "authorized" / "alice.pem").read_bytes(), pair.pem)

    def test_no_certificate(self) -> None:
        """Lost: one line that names the file, for what is no certificate."""
        path = self.work / "x\x1b.pem"
        path.write_bytes(b"junk")
        self.fails(1, r"x\x1b.pem: no line", "authorize", str(path), "--name", "alice")
        self.fails(1, "Is a directory", "authorize", str(self.work), "--name", "alice")
        self.fails(1, "cannot be read: No such file", "explain", str(self.work / "nothing"))
        self.fails(1, "standard input: there is no certificate in it", "explain", "-", standard_input=b"")
        self.fails(1, "larger than 1 MiB", "explain", "-", standard_input=b"#" * (1 << 21))

    def test_revoked(self) -> None:
        """Lost: --again, and the refusal without it."""
        path = self.file(make_pair())
        self.done("authorize", path, "--name", "alice")
        self.assertIn("revoked ", self.done("revoke", "alice", "--reason", "lost"))
        self.fails(1, "--again", "authorize", path, "--name", "alice")
        self.done("authorize", path, "--name", "alice", "--again")

    def test_only(self) -> None:
        """Lost: the way to keep what was renewed from a certificate that is revoked; or, without the option, its end too."""
        old, new, newer = make_pair(), make_pair(key=new_key()), make_pair(key=new_key())
        for pair in (old, new, newer):
            self.done("authorize", self.file(pair), "--name", "alice", "--add")
        (self.certs / "authorized" / "alice.toml").write_text(
            f'[renewed]\n{new.fingerprint} = "{old.fingerprint}"\n{newer.fingerprint} = "{new.fingerprint}"\n'
        )
        self.done("revoke", "--fingerprint", old.fingerprint, "--only")
        self.done("explain", self.file(new))
        self.assertEqual(self.done("revoke", "--fingerprint", new.fingerprint).count("revoked "), 2)
        self.assertFalse((self.certs / "authorized" / "alice.pem").exists())

    def test_ledger(self) -> None:
        """Lost: status 1 and a line for a change that stands but is not recorded; and who made those that are."""
        (self.certs / "ledger.jsonl").mkdir()
        result = self.run_it("authorize", self.file(make_pair()), "--name", "alice")
        self.assertEqual((result.exit_code, result.stdout.count("authorized")), (1, 1))
        self.assertIn("the change stands", result.stderr)

    def actor(self) -> object:
        self.done("authorize", self.file(make_pair()), "--name", "alice", "--add")
        return json.loads((self.certs / "ledger.jsonl").read_text().splitlines()[-1])["actor"]

    def test_actor(self) -> None:
        """Lost: which of the administrators it was, behind sudo and without a terminal."""
        with patch("mtlsd.cli.shared.os.getlogin", return_value="ann"):
            self.assertEqual(self.actor(), "ann")
        with patch("mtlsd.cli.shared.os.getlogin", side_effect=OSError(6, "no terminal")):
            with patch("mtlsd.cli.shared.os.geteuid", return_value=0), patch.dict(os.environ, {"SUDO_USER": "b\x1bob"}):
                self.assertEqual(self.actor(), r"b\x1bob")
            with patch.dict(os.environ):
                os.environ.pop("SUDO_USER", None)
                with patch("mtlsd.cli.shared.pwd.getpwuid", side_effect=KeyError):
                    self.assertEqual(self.actor(), str(os.getuid()))


class ClientsTests(Base):
    """`mtlsd clients`."""

    def test_none(self) -> None:
        """Lost: how to add the first one; and an empty list for a script."""
        result = self.run_it("clients")
        self.assertEqual((result.exit_code, result.stdout), (0, ""))
        self.assertIn("mtlsd new NAME --out DIR", result.stderr)
        self.assertEqual(self.done("clients", "--json"), "[]\n")

    def test_json(self) -> None:
        """Lost: the keys that scripts rely on."""
        pair = make_pair("a\x1bb")
        self.done("authorize", self.file(pair), "--name", "alice")
        (self.certs / "authorized" / "alice.toml").write_text('groups = ["ops"]')
        (client,) = json.loads(self.done("clients", "--json"))
        self.assertEqual(
            client,
            {
                "name": "alice",
                "fingerprint": pair.fingerprint,
                "key_type": "EC P-256",
                "subject": "CN=a\\1Bb",
                "not_before": pair.leaf.not_before.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
                "not_after": pair.leaf.not_after.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
                "ends": pair.leaf.not_after.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
                "on_grace": False,
                "groups": ["ops"],
                "file": "authorized/alice.pem",
            },
        )

    def expiring(self, within: str) -> list[tuple[str, bool]]:
        told = json.loads(self.done("clients", "--expiring", within, "--json"))
        return [(client["name"], client["on_grace"]) for client in told]

    def test_expiring(self) -> None:
        """Lost: whose certificate runs out next, by when the client is shut out, and the silence for cron where it is nobody's."""
        day = timedelta(days=1)
        self.assertEqual(self.done("clients", "--expiring", "30d"), "")
        for name, ends, terms in (
            ("late", 40 * day, ""),
            ("soon", 7 * day, ""),
            ("sooner", 6 * day, ""),
            ("spared", 7 * day, 'grace = "60d"'),
            ("retired", 300 * day, "[retire]\n{} = " + f"{datetime.now(UTC) + 2 * day:%Y-%m-%dT%H:%M:%SZ}"),
            ("gone", -day, ""),
            ("grace", -day, 'grace = "3d"'),
        ):
            pair = make_pair(name, begins=-10 * day, ends=ends)
            (self.certs / "authorized" / f"{name}.toml").write_text(terms.format(pair.fingerprint))
            (self.certs / "authorized" / f"{name}.pem").write_bytes(pair.pem)
        soon = [("gone", False), ("grace", True), ("retired", False)]
        self.assertEqual(self.expiring("72h"), soon)
        self.assertEqual(self.expiring("30d"), [*soon, ("sooner", False), ("soon", False)])
        self.assertEqual([line.split()[0] for line in self.done("clients", "--expiring", "1s").splitlines()], ["NAME", "gone"])

    def test_piped(self) -> None:
        """Lost: whole names where no terminal limits them."""
        name = "a" * 64
        pair = make_pair()
        self.done("authorize", self.file(pair), "--name", name)
        self.assertIn(f"{name}  {pair.fingerprint[:16]}  EC P-256  ", self.done("clients"))

    def test_in_a_terminal(self) -> None:
        """Lost: a table that breaks its lines in a narrow window."""
        self.done("authorize", self.file(make_pair()), "--name", "a" * 64)
        reader, writer = os.openpty()
        with open(writer, "w") as terminal, patch.dict(os.environ, {"COLUMNS": "40"}), redirect_stdout(terminal):
            error = self.assertRaises(SystemExit, mtlsd, ["clients", "--certs", str(self.certs)])
        said = os.read(reader, 4096).decode()
        os.close(reader)
        self.assertEqual(error.code, 0)
        self.assertIn("…", said)
        self.assertLessEqual(max(map(len, said.splitlines())), 40)

    def test_problems(self) -> None:
        """Lost: why somebody is not in the list; one line for each, and no raw text from a file's name."""
        good, revoked = make_pair(), make_pair()
        self.done("authorize", self.file(good), "--name", "alice")
        (self.certs / "authorized" / "bob.pem").write_bytes(b"junk")
        (self.certs / "authorized" / "e\x1bve.pem").write_bytes(good.pem)
        (self.certs / "authorized" / "mallory.pem").write_bytes(revoked.pem)
        (self.certs / "revoked" / f"{revoked.fingerprint}.json").touch()
        result = self.run_it("clients", "--json")
        self.assertEqual([client["name"] for client in json.loads(result.stdout)], ["alice"])
        self.assertNotIn("\x1b", result.stderr)
        for said in ("bob.pem: damaged", r"e\x1bve.pem: refused", "mallory.pem: certificate", "so it does not count"):
            self.assertIn(said, result.stderr)


class RevokeTests(Base):
    """`mtlsd revoke`."""

    def test_name_and_fingerprint(self) -> None:
        """Lost: both ways to shut a client out, with what was done, and that doing it twice is fine."""
        one, two = make_pair(), make_pair()
        self.done("authorize", self.file(one), "--name", "alice")
        self.done("authorize", self.file(two), "--name", "bob")
        self.assertEqual(self.done("revoke", "alice"), f"revoked {one.fingerprint[:16]}, of alice\n")
        shown = ":".join(re.findall("..", two.fingerprint.upper()))
        self.assertEqual(self.done("revoke", "--fingerprint", shown), f"revoked {two.fingerprint[:16]}, of bob\n")
        self.assertIn("already", self.done("revoke", "alice"))
        self.assertIn("already", self.done("revoke", "--fingerprint", two.fingerprint[:8]))

    def test_in_advance(self) -> None:
        """Lost: keeping a certificate out that nobody has authorized yet."""
        self.assertIn("revoked 0000000000000000\n", self.done("revoke", "--fingerprint", "0" * 64))

    def test_not_found(self) -> None:
        """Lost: status 1 for a name that is mistyped."""
        self.fails(1, "there is no client 'alcie'", "revoke", "alcie")
        self.fails(1, "no certificate begins with", "revoke", "--fingerprint", "0" * 8)


class ExplainTests(Base):
    """`mtlsd explain`."""

    def said(self, pair: Pair) -> tuple[int, dict[str, object]]:
        result = self.run_it("explain", self.file(pair), "--json")
        return result.exit_code, json.loads(result.stdout)

    def test_json(self) -> None:
        """Lost: the keys that scripts rely on, for a yes, an unknown one and a revoked one."""
        pair = make_pair()
        common = {"fingerprint": pair.fingerprint}
        unknown = {
            "accepted": False,
            "reason": "unknown-certificate",
            "client": None,
            "remedy": "mtlsd authorize CERT.pem --name NAME",
        }
        self.assertEqual(self.said(pair), (1, unknown | common))
        self.done("authorize", self.file(pair), "--name", "alice")
        self.assertEqual(
            self.said(pair), (0, {"accepted": True, "reason": "authorized", "client": "alice", "remedy": None} | common)
        )
        self.done("revoke", "alice")
        again = "mtlsd authorize CERT.pem --name NAME --again"
        self.assertEqual(self.said(pair), (1, {"accepted": False, "reason": "revoked", "client": None, "remedy": again} | common))

    def test_first_counts(self) -> None:
        """Lost: a chain is explained by its leaf, as the server sees it."""
        one, two = make_pair(), make_pair()
        self.done("authorize", self.file(two), "--name", "bob")
        self.assertEqual(self.run_it("explain", "-", standard_input=one.pem + two.pem).exit_code, 1)
        self.assertEqual(self.run_it("explain", "-", standard_input=two.pem + one.pem).exit_code, 0)

    def test_problems(self) -> None:
        """Lost: that the certificate is in a file that cannot be read; a yes is not disturbed by other people's problems."""
        pair = make_pair()
        (self.certs / "authorized" / "alice.pem").write_bytes(pair.pem[:-30])
        result = self.run_it("explain", self.file(pair))
        self.assertEqual(result.exit_code, 1)
        self.assertIn("alice.pem: damaged", result.stderr)
        other = make_pair()
        self.done("authorize", self.file(other), "--name", "bob")
        self.done("explain", self.file(other))

    def test_raw_text(self) -> None:
        """Lost: a certificate that is only looked at could write to the operator's terminal."""
        said = self.run_it("explain", self.file(make_pair("\x1b]0;x\x07\n\u202e"))).stdout
        self.assertFalse([line for line in said.splitlines() if not line.isprintable()])
        self.assertIn(r"\1B", said)


class WordsTests(SynchronousTestCase):
    """Explanations and tables, without a folder."""

    def setUp(self) -> None:
        self.leaf = make_pair(now=NOW).leaf

    def explain(self, make: Callable[[], Snapshot], now: datetime = NOW) -> tuple[Explanation, str]:
        explanation = explained(self.leaf, make(), now)
        return explanation, explanation_text(explanation)

    def authorized(self, ends: datetime | None = None) -> Snapshot:
        one = Authorization("alice", self.leaf, ends or self.leaf.not_after, (), "certs/authorized/alice.pem")
        return Snapshot({self.leaf.fingerprint: one})

    def test_yes(self) -> None:
        """Lost: a plain yes, with the name."""
        explanation, text = self.explain(self.authorized)
        self.assertTrue(explanation.accepted)
        self.assertTrue(text.startswith(f"yes, as alice\nfingerprint  {self.leaf.fingerprint}\nsubject      CN=alice\n"))
        self.assertNotIn("remedy", text)

    def test_dates(self) -> None:
        """Lost: whose certificate it is that has ended, and what to do."""
        for days, reason in ((31, Reason.EXPIRED), (-1, Reason.NOT_YET_VALID)):
            explanation, text = self.explain(self.authorized, NOW + timedelta(days=days))
            self.assertEqual((explanation.reason, explanation.client), (reason, "alice"))
            self.assertIn("client       alice", text)

    def test_terms(self) -> None:
        """Lost: that a client's terms let it in for longer, or less long, than its certificate says."""
        _, text = self.explain(lambda: self.authorized(NOW + timedelta(days=3)))
        self.assertIn("let in until 2026-11-26 12:00 UTC", text)

    def test_revoked(self) -> None:
        """Lost: who was revoked, when and why, as far as the tombstone tells."""
        stone = Tombstone(self.leaf.fingerprint, "alice", "2026-11-22T00:00:00.000Z", "lost")
        _, text = self.explain(lambda: Snapshot({}, {self.leaf.fingerprint: stone}))
        self.assertTrue(text.startswith("no (revoked): it was revoked, as alice, 2026-11-22T00:00:00.000Z: lost\n"))
        _, text = self.explain(lambda: Snapshot({}, {self.leaf.fingerprint: Tombstone(self.leaf.fingerprint)}))
        self.assertTrue(text.startswith("no (revoked): it was revoked\n"))

    def test_every_refusal_has_words(self) -> None:
        """Lost: a certificate whose refusal nobody thought of would be a traceback."""
        for pair, reason in (
            (make_pair(key="rsa1024", now=NOW), Reason.WEAK_KEY),
            (make_pair(padding=20_000, now=NOW), Reason.TOO_LARGE),
            (make_pair(now=NOW), Reason.UNKNOWN_CERTIFICATE),
        ):
            explanation = explained(pair.leaf, Snapshot(), NOW)
            self.assertEqual(explanation.reason, reason)
            self.assertIn(f"no ({reason}): ", explanation_text(explanation))

    def table(self, width: int | None, *clients: tuple[str, timedelta], now: datetime = NOW) -> list[str]:
        rows = [Authorization(name, self.leaf, now + left) for name, left in clients]
        return clients_table(rows, now, width).splitlines()

    def test_grace(self) -> None:
        """Lost: that a client is let in although its certificate has ended, and for how long still."""
        clients = (("a", timedelta(days=3)), ("b", timedelta(days=40)), ("c", timedelta(seconds=-1)))
        lines = self.table(None, *clients, now=self.leaf.not_after + timedelta(days=1))
        ends = [line[lines[0].index("EXPIRES") :] for line in lines[1:]]
        self.assertEqual(ends, ["2026-12-27 (on grace, 3 days left)", "2027-02-02 (on grace)", "2026-12-24 EXPIRED"])
        narrow = self.table(45, *clients, now=self.leaf.not_after + timedelta(days=1))
        self.assertEqual([line.rsplit("  ", 1)[1] for line in narrow[1:]], ["ON GRACE", "ON GRACE", "EXPIRED"])

    def test_expiry(self) -> None:
        """Lost: who has to be renewed soon, counted in days that have begun; and who is late."""
        lines = self.table(
            None,
            ("a", timedelta(days=365)),
            ("b", timedelta(days=3)),
            ("c", timedelta(seconds=1)),
            ("d", timedelta()),
            ("e", timedelta(seconds=-1)),
        )
        ends = [line[lines[0].index("EXPIRES") :] for line in lines]
        self.assertEqual(
            ends,
            [
                "EXPIRES",
                "2027-11-23",
                "2026-11-26 (3 days left)",
                "2026-11-23 (1 day left)",
                "2026-11-23 (1 day left)",
                "2026-11-23 EXPIRED",
            ],
        )

    def test_widths(self) -> None:
        """Lost: a table that fits any terminal, and gives up what matters least first."""
        clients = (("alice", timedelta(days=3)), ("bob-" + "x" * 60, timedelta(days=-3)))
        for width in range(10, 160):
            lines = self.table(width, *clients)
            self.assertLessEqual(max(map(len, lines)), width)
            self.assertEqual(len(lines), 3)
        self.assertEqual(self.table(80, clients[0])[0].split(), ["NAME", "FINGERPRINT", "KEY", "EXPIRES"])
        self.assertIn("3 days left", self.table(80, clients[0])[1])
        self.assertIn("EXPIRED", self.table(40, *clients)[2])
        self.assertIn(self.leaf.fingerprint[:8], self.table(40, *clients)[1])
        self.assertEqual(self.table(150, *clients), self.table(None, *clients))


class ConfigTests(Base):
    """`check` and `route`: what a configuration file would do, before a server has it."""

    def setUp(self) -> None:
        super().setUp()
        self.config = self.work / "mtlsd.toml"
        self.run_it("new", "alice", "--out", str(self.work / "alice"))

    def configure(self, *lines: str) -> None:
        routes = ["[[route]]", 'path = "/admin"', 'allow = ["group:ops"]', f'static = "{self.work}"', *lines]
        self.config.write_text("\n".join(["[server]", f'certs = "{self.certs}"', "[groups]", 'ops = ["alice"]', *routes]))

    def told(self, *mistakes: str) -> None:
        """Assert that `check` finds these mistakes, each on a line, and nothing else."""
        result = self.bare("check", str(self.config))
        self.assertEqual((result.exit_code, result.stdout), (1, ""))
        self.assertEqual(result.stderr.splitlines(), list(mistakes))

    def test_right(self) -> None:
        """Lost: a word that all is well, for whoever is about to reload."""
        self.configure()
        result = self.bare("check", str(self.config))
        self.assertEqual((result.exit_code, result.stderr), (0, ""))
        self.assertEqual(result.stdout, f"{self.config} is right: 1 route, 1 group\n")

    def test_mistakes(self) -> None:
        """Lost: all of them at once, each on a line with its place."""
        self.configure("[[route]]", 'path = "//"', 'allow = "ops"')
        self.told(
            f"mtlsd: {self.config}: route[1].path: no request can have this path: a path may not have an empty segment",
            f"mtlsd: {self.config}: route[1].allow: a list is wanted",
            f"mtlsd: {self.config}: route[1]: exactly one of upstream, static, wsgi, resource is wanted",
        )

    def test_what_routes_lead_to(self) -> None:
        """Lost: a folder or a module that the server would not find."""
        self.configure("[[route]]", 'path = "/x"', 'allow = ["*"]', 'wsgi = "nowhere_at_all:app"')
        result = self.bare("check", str(self.config))
        self.assertEqual(result.exit_code, 1)
        self.assertIn("route[1].wsgi: nowhere_at_all:app: ModuleNotFoundError", result.stderr)

    def test_a_module_that_ends_the_process(self) -> None:
        """Lost: the word for it. The status of the module would be that of the command, which may say that all is right."""
        (self.work / "quits_in_the_check.py").write_text("raise SystemExit(0)\n")
        self.configure("[[route]]", 'path = "/x"', 'allow = ["*"]', 'wsgi = "quits_in_the_check:app"')
        result = self.bare("check", str(self.config))
        self.assertEqual((result.exit_code, result.stdout), (1, ""))
        self.assertIn("route[1].wsgi: quits_in_the_check:app: SystemExit: 0", result.stderr)

    def test_what_the_server_opens(self) -> None:
        """Lost: a key, a certificate or a folder for a log that is not there, which ends the server when it starts."""
        (self.work / "key.pem").touch()
        self.config.write_text(
            f'[server]\ncerts = "{self.certs}"\nkey = "nofile"\ncert = "{self.work}"\n'
            'audit_log = "nodir/x"\naccess_log = "key.pem/x"\n'
        )
        self.told(
            f"mtlsd: {self.config}: server.key: {self.work}/nofile: No such file or directory",
            f"mtlsd: {self.config}: server.cert: {self.work} is a folder",
            f"mtlsd: {self.config}: server.audit_log: {self.work}/nodir: No such file or directory",
            f"mtlsd: {self.config}: server.access_log: {self.work}/key.pem is not a folder",
        )
        self.done("init")
        pair = f'key = "{self.certs}/serverKey.pem"\ncert = "{self.certs}/serverCrt.pem"'
        self.config.write_text(f'[server]\ncerts = "{self.certs}"\n{pair.replace("serverKey", "serverCrt")}\n')
        self.told(
            f"mtlsd: {self.config}: server: {self.certs}/serverCrt.pem: the private key is open to others (mode 0644): chmod o= {self.certs}/serverCrt.pem"
        )
        make_pair("localhost").write(self.certs, "other")
        (self.certs / "otherKey.pem").chmod(0o600)
        self.config.write_text(f'[server]\ncerts = "{self.certs}"\n{pair.replace("serverKey", "otherKey")}\n')
        self.told(
            f"mtlsd: {self.config}: server: {self.certs}/otherKey.pem: not the key of {self.certs}/serverCrt.pem: key values mismatch"
        )
        for more in (f'{pair}\naudit_log = "new.jsonl"\naccess_log = "-"', 'access_log = "key.pem"'):
            self.config.write_text(f'[server]\ncerts = "{self.certs}"\n{more}\n')
            result = self.bare("check", str(self.config))
            self.assertEqual((result.exit_code, result.stderr), (0, ""), more)

    def test_every_mistake_at_once(self) -> None:
        """Lost: what is found on a second run only, after the first mistake is put right."""
        self.configure(
            *("[[route]]", 'path = "/x"', 'allow = ["alcie"]', 'static = "gone"', "listing = 1"),
            *("[[route]]", 'path = "//"', 'allow = ["*"]', 'wsgi = "nowhere_at_all:app"'),
        )
        self.told(
            f"mtlsd: {self.config}: route[1].listing: true or false is wanted",
            f"mtlsd: {self.config}: route[2].path: no request can have this path: a path may not have an empty segment",
            f"mtlsd: {self.config}: route[1].static: {self.work}/gone is not a folder",
            f"mtlsd: {self.config}: route[2].wsgi: nowhere_at_all:app: ModuleNotFoundError: No module named 'nowhere_at_all'",
            f"mtlsd: warning: {self.config}: route[1].allow: unknown client alcie",
        )

    def test_a_mistake_in_the_folder_of_clients(self) -> None:
        """Lost: the one mistake, among a warning for every client of another folder."""
        self.config.write_text('[server]\ncerts = ""\n[groups]\nops = ["alice"]\n')
        self.one_line(self.bare("check", str(self.config)), 1, "server.certs: a path is wanted")
        result = self.bare("check", str(self.config), "--certs", str(self.certs))
        self.assertEqual(len(result.stderr.splitlines()), 1)

    def test_warnings(self) -> None:
        """Lost: a misspelt name, which locks out whoever it was meant for; but it may be enrolled tomorrow."""
        self.configure("[[route]]", 'path = "/x"', 'allow = ["alcie"]', 'static = "/"')
        result = self.bare("check", str(self.config))
        self.assertEqual(result.exit_code, 0)
        self.assertEqual(result.stderr, f"mtlsd: warning: {self.config}: route[1].allow: unknown client alcie\n")
        result = self.bare("check", str(self.config), "--certs", str(self.work / "nowhere"))
        self.assertEqual(result.exit_code, 0)
        self.assertIn("mtlsd: warning: ", result.stderr)

    def test_no_file(self) -> None:
        """Lost: which file it was."""
        self.one_line(self.bare("check", "nowhere.toml"), 1, "nowhere.toml: No such file or directory")
        self.one_line(self.bare("route", "--config", "no.toml", "--client", "alice", "GET", "/"), 1, "no.toml: No such file")

    def route(self, *arguments: str) -> Result:
        return self.bare("route", "--config", str(self.config), *arguments)

    def test_route(self) -> None:
        """Lost: an answer at night to "why is alice refused", without alice's key."""
        self.configure()
        result = self.route("--client", "alice", "GET", "/admin/x?y")
        self.assertEqual((result.exit_code, result.stderr), (0, ""))
        self.assertEqual(
            result.stdout,
            f"allowed: alice GET /admin/x goes to the files in {self.work} (route[0] /admin allows group:ops)\n",
        )
        result = self.route("--client", "alice", "GET", "/other")
        self.assertEqual((result.exit_code, result.stdout), (1, "refused with 403: alice GET /other: no route has this path\n"))

    def test_groups_of_the_registry(self) -> None:
        """Lost: half of a client's groups."""
        self.configure()
        self.run_it("new", "bob", "--out", str(self.work / "bob"))
        self.assertEqual(self.route("--client", "bob", "GET", "/admin").exit_code, 1)
        (self.certs / "authorized" / "bob.toml").write_text('groups = ["ops", "staff"]')
        result = self.route("--client", "bob", "GET", "/admin", "--json")
        self.assertEqual(result.exit_code, 0)
        self.assertEqual(json.loads(result.stdout)["groups"], ["ops", "staff"])

    def test_a_client_that_is_none(self) -> None:
        """Lost: that the rules allow somebody whom the door does not know."""
        self.configure()
        for client, shown in (("zo\x1be", "zo\\x1be"), ("alice", "alice")):
            if client == "alice":
                # By every authorized client is meant who gets in.
                self.run_it("revoke", "alice")
                self.configure("[[route]]", 'path = "/"', 'allow = ["*"]', 'static = "/"')
            result = self.route("--client", client, "GET", "/")
            self.assertEqual((result.exit_code, result.stderr), (1, ""))
            self.assertEqual(
                result.stdout,
                f"refused: {shown} GET /: no certificate of {shown} would be let in, so the door does not open\n",
            )

    def test_what_the_door_says_by_itself(self) -> None:
        """Lost: 405, 501 and 400 on the live server, after a word that all is well."""
        self.configure()
        for method, target, status in (
            ("DELETE", "/admin/x", 405),
            ("FOO", "/admin/x", 501),
            ("GET", "/admin#x", 400),
            ("GET", "/admin x", 400),
            ("GET", "*", 405),
        ):
            result = self.route("--client", "alice", method, target)
            self.assertEqual((result.exit_code, result.stdout[:18]), (1, f"refused with {status}: "), (method, target))
        for method, target in (("GET", "https://host/admin/x"), ("OPTIONS", "*")):
            self.assertEqual(self.route("--client", "alice", method, target).exit_code, 0, target)
        told = json.loads(self.route("--client", "alice", "OPTIONS", "*", "--json").stdout)
        self.assertEqual((told["allowed"], told["status"], told["destination"]), (True, 200, "the door itself"))
