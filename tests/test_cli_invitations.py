"""`mtlsd invite`, `invites` and `uninvite`, as a person or a script meets them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from click.testing import Result

from mtlsd.cli.tables import invites_table
from mtlsd.enrol.invitation import Invitation, read_invitation
from mtlsd.enrol.invite import Invite, digest_of
from tests.pki import Pair, make_pair
from tests.test_cli import Base

_ASSUMED = "the server is taken to be at www.example.org:9443; --at HOST:PORT says otherwise\n"


class InvitationsTests(Base):
    def setUp(self) -> None:
        super().setUp()
        self.server = self.server_pair("www.example.org")

    def server_pair(self, *hosts: str) -> Pair:
        pair = make_pair("server", hosts=hosts, ca=False)
        pair.write(self.certs, "server")
        return pair

    def invited(self, *arguments: str) -> tuple[Invitation, Result]:
        result = self.run_it("invite", *arguments)
        self.assertEqual(result.exit_code, 0, result.output)
        (line,) = result.stdout.splitlines()
        self.assertTrue(line.startswith("mtlsd join mtlsd://"), line)
        return read_invitation(line), result

    def listed(self) -> list[dict[str, object]]:
        found: list[dict[str, object]] = json.loads(self.done("invites", "--json"))
        return found

    def config(self, text: str) -> str:
        path = self.work / "mtlsd.toml"
        path.write_text(text)
        return str(path)

    def test_one_line(self) -> None:
        """Lost: the line alone on standard output, so that it can be sent or piped, and it names the server and its certificate."""
        invitation, result = self.invited("bob", "--group", "ops", "--for", "30m")
        self.assertEqual((invitation.endpoint, invitation.name), ("www.example.org:9443", "bob"))
        self.assertEqual(invitation.fingerprint, self.server.fingerprint)
        self.assertRegex(result.stderr, r"\Avalid until \d{4}-\d\d-\d\d \d\d:\d\d UTC, once\n" + _ASSUMED + r"\Z")
        (found,) = self.listed()
        self.assertEqual((found["name"], found["groups"], found["id"]), ("bob", ["ops"], digest_of(invitation.secret)[:16]))
        self.assertNotIn(str(digest_of(invitation.secret)), json.dumps(found))

    def test_where_the_server_is(self) -> None:
        """Lost: an invite for an address at which the client finds nobody, or somebody whose certificate does not fit."""
        self.assertEqual(self.invited("a", "--at", "www.example.org:443")[0].endpoint, "www.example.org:443")
        config = self.config('[server]\npublic = "www.example.org:8443"\nenrol = true\n')
        self.assertEqual(self.invited("b", "--config", config)[0].endpoint, "www.example.org:8443")
        self.server_pair("localhost", "vm", "www.example.org", "*.example.net")
        self.assertEqual(self.invited("c")[0].endpoint, "www.example.org:9443")
        self.assertEqual(self.invited("d", "--at", "a.example.net:1")[0].endpoint, "a.example.net:1")
        self.server_pair("localhost")
        self.assertEqual(self.invited("e")[0].endpoint, "localhost:9443")
        self.fails(
            1,
            "does not name www.example.org, so no client would trust it: it names localhost",
            "invite",
            "f",
            "--at",
            "www.example.org:1",
        )
        self.fails(1, "does not name www.example.org", "invite", "f", "--config", config)
        self.fails(2, "HOST:PORT is wanted", "invite", "f", "--at", "www.example.org")
        self.assertEqual(len(self.listed()), 5)

    def test_where_it_is_not_said(self) -> None:
        """Lost: that the address is a guess: a server with another port would be looked for in vain, far away and later."""
        self.assertIn(_ASSUMED, self.invited("a")[1].stderr)
        config = self.config("[server]\nenrol = true\n")
        for told in (("b", "--at", "www.example.org:9443"), ("c", "--config", config)):
            self.assertRegex(self.invited(*told)[1].stderr, r"\Avalid until .*, once\n\Z")

    def test_the_configuration(self) -> None:
        """Lost: the folder, the port and the certificate that the server has would not be those of the invite."""
        other = make_pair("other", hosts=["other.example"], ca=False)
        other.write(self.work, "other")
        config = self.config(f'[server]\ncerts = "{self.certs}"\ncert = "otherCrt.pem"\nport = 1234\n')
        result = self.bare("invite", "bob", "--config", config)
        self.assertEqual(result.exit_code, 0, result.output)
        invitation = read_invitation(result.stdout)
        self.assertEqual((invitation.endpoint, invitation.fingerprint), ("other.example:1234", other.fingerprint))
        self.assertIn("enrol is off, so nobody can join", result.stderr)
        self.assertEqual(len(self.listed()), 1)

    def test_refused(self) -> None:
        """Lost: one line for what cannot be."""
        self.invited("bob")
        self.fails(1, "bob is invited already", "invite", "bob")
        self.invited("bob", "--again")
        self.fails(1, "no client's name", "invite", "../bob")
        self.fails(2, "30d, 12h, 30m or 45s", "invite", "carol", "--for", "1")
        self.fails(1, "30 days at most", "invite", "carol", "--for", "31d")
        (self.certs / "serverCrt.pem").unlink()
        self.fails(1, "serverCrt.pem is missing: mtlsd init makes the server's pair", "invite", "carol")

    def test_an_expired_server(self) -> None:
        """Lost: invites for a server that no client trusts any more."""
        make_pair("server", hosts=["localhost"], begins=timedelta(days=-2), ends=timedelta(days=-1)).write(self.certs, "server")
        self.fails(1, "has expired", "invite", "bob")

    def test_list(self) -> None:
        """Lost: who is invited, into which groups, until when, by whom."""
        self.one_line(self.run_it("invites"), 0, "nobody is invited")
        self.assertEqual(self.listed(), [])
        self.invited("bob", "--group", "ops", "--group", "backup")
        self.invited("alice")
        self.assertRegex(
            self.done("invites"),
            r"\ANAME   UNTIL \(UTC\)       BY *  GROUPS\n"
            r"bob    \d{4}-\d\d-\d\d \d\d:\d\d  \S+ *  ops, backup\n"
            r"alice  \d{4}-\d\d-\d\d \d\d:\d\d  \S+ *  -\n\Z",
        )
        (self.certs / "invites" / "0.json").write_text("?")
        self.assertIn("0.json: damaged", self.run_it("invites").stderr)

    def test_widths(self) -> None:
        """Lost: a table that fits any terminal, and keeps whole what matters most: who, and until when."""
        at = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
        groups = tuple(f"group-{nth}" for nth in range(20))
        rows = [Invite("0" * 64, name, groups, at, at, "ann") for name in ("bob", "a" * 64)]
        for width in range(20, 200):
            self.assertLessEqual(max(map(len, invites_table(rows, width).splitlines())), width)
        shown = invites_table(rows[:1], 80).splitlines()
        self.assertEqual(shown[0].split(), ["NAME", "UNTIL", "(UTC)", "BY", "GROUPS"])
        self.assertTrue(shown[1].startswith("bob   2026-11-23 12:00  ann  group-0, group-1, "), shown)
        self.assertIn("a" * 40, invites_table(rows, 80))

    def test_uninvite(self) -> None:
        """Lost: a line that went to the wrong person could not be called back."""
        self.invited("bob")
        self.assertEqual(self.done("uninvite", "bob"), "bob is not invited any more\n")
        self.fails(1, "bob is not invited", "uninvite", "bob")

    def test_not_recorded(self) -> None:
        """Lost: a ledger that cannot be written would go unnoticed."""
        (self.certs / "ledger.jsonl").mkdir()
        for verb in ("invite", "uninvite"):
            result = self.run_it(verb, "bob")
            self.assertEqual(result.exit_code, 1)
            self.assertIn("it is not recorded", result.stderr)

    def test_the_secret_is_kept_nowhere(self) -> None:
        """Lost: whoever reads a backup of the folder could join."""
        invitation, _ = self.invited("bob")
        code = invitation.line().rsplit("/", 1)[1]
        for path in filter(Path.is_file, self.certs.rglob("*")):
            data = path.read_bytes()
            self.assertNotIn(invitation.secret, data)
            self.assertNotIn(invitation.secret.hex().encode(), data)
            self.assertNotIn(code.encode(), data)


class JoinTests(Base):
    """`mtlsd join`, before it connects to anybody; the rest is in tests/acceptance/test_join.py."""

    line = Invitation("localhost", 1, "bob", "ab" * 32, b"x" * 16).line()

    def test_wrong(self) -> None:
        """Lost: status 2 and one line for a mistake in the command."""
        self.one_line(self.bare("join"), 2, "Missing argument")
        self.one_line(self.bare("join", self.line, "--p12-password-file", "x"), 2, "--p12-password-file wants --p12")
        self.one_line(self.bare("join", self.line, "--days", "0"), 2, "'--days'")

    def test_mangled(self) -> None:
        """Lost: one line, and not a connection to somebody else; what was typed holds a secret and is not repeated."""
        for given, standard_input in (
            ([self.line[:-1]], None),
            (["-"], self.line[1:].encode()),
            (["-"], b""),
            (["-"], b"\xff\xfe"),
        ):
            result = self.bare("join", *given, "--dir", str(self.work / "bob"), standard_input=standard_input)
            self.assertEqual((result.exit_code, result.stdout), (1, ""), result.output)
            self.assertEqual(result.stderr.count("\n"), 1, result.stderr)
            self.assertNotIn(self.line[-30:-2], result.stderr)
        self.assertFalse((self.work / "bob").exists())

    def test_password(self) -> None:
        """Lost: the pair would be made, and the invite used up, before it turns out that the file for the browser cannot be."""
        password, p12 = self.work / "password", str(self.work / "bob.p12")

        def join(*more: str, standard_input: bytes | None = None) -> Result:
            folder = str(self.work / "bob")
            return self.bare("join", self.line, "--dir", folder, "--p12", p12, *more, standard_input=standard_input)

        self.one_line(join("--p12-password-file", str(password)), 1, "password: cannot be read: No such file")
        password.write_text("\nsecond\n")
        self.one_line(join("--p12-password-file", str(password)), 1, "the password is empty")
        password.write_bytes(b"\xff")
        self.one_line(join("--p12-password-file", str(password)), 1, "password: cannot be read")
        Path(p12).touch()
        self.one_line(join(), 1, "bob.p12: it is there already")
        Path(p12).unlink()
        asked = join(standard_input=b"one\none\n")
        self.assertIn("localhost:1: cannot be reached", asked.stderr)
        self.assertNotIn("one", asked.output.replace("Repeat for confirmation", ""))
        self.assertEqual([path.name for path in self.work.iterdir() if path.name.startswith("bob")], [])
