"""NAME.toml: the operator's terms."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from twisted.trial.unittest import SynchronousTestCase

from mtlsd.errors import SettingsError
from mtlsd.registry.terms import Terms, read_terms
from mtlsd.registry.termtext import checked, with_renewal, with_retirement, without

PRINT = "ab" * 32
NOON = datetime(2026, 12, 31, 12, tzinfo=UTC)


class ReadTermsTests(SynchronousTestCase):
    def test_nothing(self) -> None:
        """A client without terms would be refused, or given some."""
        self.assertEqual(Terms(), read_terms(b"# nothing\n"))

    def test_everything(self) -> None:
        """An operator's groups, grace and retirement would not take force."""
        terms = read_terms(
            f'groups = ["ops", "a.b-c_d", "ops"]\ngrace = "7d"\n[retire]\n{PRINT} = 2026-12-31T13:00:00+01:00'.encode()
        )
        self.assertEqual(Terms(("ops", "a.b-c_d"), timedelta(days=7), {PRINT: NOON}), terms)

    def test_grace(self) -> None:
        """A grace in one of the units that the documentation names would be refused or taken for another."""
        for text, grace in (
            ("12h", timedelta(hours=12)),
            ("30m", timedelta(minutes=30)),
            ("45s", timedelta(seconds=45)),
            ("0", timedelta()),
        ):
            self.assertEqual(grace, read_terms(f'grace = "{text}"'.encode()).grace)

    def test_retire_as_people_write_it(self) -> None:
        """A fingerprint pasted from openssl, or a time as text, would be refused."""
        colons = ":".join(["AB"] * 32)
        for time in (
            '"2026-12-31T12:00:00Z"',
            '"2026-12-31t12:00:00.000z"',
            '"2026-12-31 11:00:00-01:00"',
            "2026-12-31T12:00:00Z",
        ):
            self.assertEqual({PRINT: NOON}, read_terms(f'[retire]\n"{colons}" = {time}'.encode()).retire)

    def test_strict(self) -> None:
        """A misspelt [retire] would be passed over in silence, and a certificate would stay in for ever."""
        for text, why in (
            ("retired = 1", "unknown key retired"),
            ('"\\u001b" = 1', "unknown key \\x1b"),
            ('groups = "ops"', "groups"),
            ('groups = ["*"]', "groups"),
            ("groups = [1]", "groups"),
            ("grace = 7", "grace"),
            ('grace = "7 d"', "grace"),
            ('grace = "-1d"', "grace"),
            ('grace = "\u0667d"', "grace"),
            ("retire = 1", "[retire] is a table"),
            ("[retire]\nabcd = 2026-12-31T12:00:00Z", "[retire] abcd: a fingerprint is 64"),
            (f"[retire]\n{PRINT} = 2026-12-31T12:00:00Z\n{PRINT.upper()} = 2027-12-31T12:00:00Z", "twice"),
            (f"[retire]\n{PRINT} = 2026-12-31T12:00:00", "offset"),
            (f"[retire]\n{PRINT} = 2026-12-31", "offset"),
            (f'[retire]\n{PRINT} = "tomorrow"', "offset"),
            (f'[retire]\n{PRINT} = "2026-13-31T12:00:00Z"', "offset"),
            (f"[retire]\n{PRINT} = 9999-12-31T23:59:59-12:00", "offset"),
            ("groups = [", "not TOML"),
            ("a = " + "[" * 100_000, "not TOML"),
        ):
            error = self.assertRaises(SettingsError, read_terms, text.encode())
            self.assertIn(why, str(error))
            self.assertTrue(str(error).isprintable())
        self.assertRaises(SettingsError, read_terms, b"\xff")


class EndsTests(SynchronousTestCase):
    def test_ends(self) -> None:
        """A retired certificate would go on, or a grace not be given."""
        day = timedelta(days=1)
        self.assertEqual(NOON, Terms().ends(PRINT, NOON))
        self.assertEqual(NOON + day, Terms(grace=day).ends(PRINT, NOON))
        self.assertEqual(NOON - day, Terms(grace=day, retire={PRINT: NOON - day}).ends(PRINT, NOON))
        self.assertEqual(NOON, Terms(retire={PRINT: NOON + day}).ends(PRINT, NOON))
        self.assertEqual(NOON, Terms(retire={"cd" * 32: NOON - day}).ends(PRINT, NOON))

    def test_no_end(self) -> None:
        """A certificate of the year 9999, which is how one writes "no end", would break the whole scan by its grace."""
        last = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
        self.assertLessEqual(last, Terms(grace=timedelta(days=7)).ends(PRINT, last))


class RenewedTests(SynchronousTestCase):
    """``[renewed]``: what was renewed from what."""

    def test_reads(self) -> None:
        """Revoking a certificate would leave in what was renewed from it."""
        new, newer = "cd" * 32, "ef" * 32
        colons = ":".join(["CD"] * 32)
        terms = read_terms(f'[renewed]\n"{colons}" = "{PRINT}"\n{newer} = "{new}"\n'.encode())
        self.assertEqual(terms.renewed, {new: PRINT, newer: new})
        self.assertEqual(terms.heirs(PRINT), {new, newer})
        self.assertEqual(terms.heirs(new), {newer})
        self.assertEqual(terms.heirs(newer), frozenset())

    def test_ring(self) -> None:
        """A mistake in the table would hold the command, or the server, for ever."""
        terms = read_terms(f'[renewed]\n{"cd" * 32} = "{PRINT}"\n{PRINT} = "{"cd" * 32}"\n'.encode())
        self.assertEqual(terms.heirs(PRINT), {"cd" * 32, PRINT})

    def test_strict(self) -> None:
        """A misspelt line would break the chain, and nobody would know."""
        for text in (
            'renewed = ["a"]',
            "[renewed]\nabcd = 1",
            f"[renewed]\n{PRINT} = 1",
            f'[renewed]\n{PRINT} = "abcd"',
            f'[renewed]\n{PRINT} = "{PRINT}"\n"{PRINT.upper()}" = "{PRINT}"',
            f'[renew]\n{PRINT} = "{PRINT}"',
        ):
            self.assertRaises(SettingsError, read_terms, text.encode())


class TermTextTests(SynchronousTestCase):
    """The operator's text stays as it is."""

    NEW = "cd" * 32

    def test_into_nothing(self) -> None:
        """A client without terms could not be told of."""
        self.assertEqual(with_renewal(b"", self.NEW, PRINT), f'[renewed]\n{self.NEW} = "{PRINT}"\n'.encode())
        self.assertEqual(read_terms(with_retirement(b"", PRINT, NOON)).retire, {PRINT: NOON})

    def test_keeps_every_byte(self) -> None:
        """The operator's comments, order or line ends would be lost."""
        before = (
            b'# mine\r\ngroups = [\n  "ops",  # why\n]\n\n [retire] # soon\r\n' + b"ef" * 32 + b" = 2027-01-01T00:00:00+01:00"
        )
        self.assertTrue(with_renewal(before, self.NEW, PRINT).startswith(before))
        text = with_retirement(with_renewal(before, self.NEW, PRINT), PRINT, NOON)
        head, table, rest = text.partition(b"[retire] # soon\r\n")
        self.assertEqual(head + table, before[: before.index(table) + len(table)])
        self.assertEqual(rest.splitlines()[0], f"{PRINT} = 2026-12-31T12:00:00Z".encode())
        terms = read_terms(text)
        self.assertEqual((terms.groups, dict(terms.renewed), len(terms.retire)), (("ops",), {self.NEW: PRINT}, 2))

    def test_takes_out_its_own(self) -> None:
        """The file would grow for ever, or a line that the operator wrote would go."""
        text = with_retirement(with_renewal(b"", self.NEW, PRINT), PRINT, NOON)
        mine = f'[renewed]\n"{self.NEW}" = "{PRINT}"\n'.encode()
        both = {self.NEW, PRINT}
        self.assertEqual(without(text, both, both), (b"[renewed]\n\n[retire]\n", {self.NEW}, {PRINT}))
        self.assertEqual(without(text, {PRINT}, {self.NEW}), (text, set(), set()))
        self.assertEqual(without(mine, both, both), (mine, set(), set()))

    def test_forms_that_cannot_be_changed(self) -> None:
        """A line would go into a text, or beside a table, where it says nothing or breaks the file."""
        wanted = Terms(renewed={self.NEW: PRINT})
        self.assertEqual(checked(with_renewal(b"", self.NEW, PRINT), wanted), with_renewal(b"", self.NEW, PRINT))
        for text in (b"renewed = {}", b'groups = ["""\n[renewed]\n"""]', b'[renewed]\n"' + PRINT.encode()):
            self.assertRaises(SettingsError, checked, with_renewal(text, self.NEW, PRINT), wanted)
