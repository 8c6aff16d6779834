"""`mtlsd pending`, `approve` and `dismiss`, as a person or a script meets them."""

from __future__ import annotations

import contextlib
import json
import threading
from datetime import UTC, datetime, timedelta
from unittest.mock import patch

from click.testing import Result

from mtlsd.cli.tables import knock_text, knocks_table
from mtlsd.errors import Refused
from mtlsd.registry.knock import Knock, file_of, fingerprint_in, written
from mtlsd.registry.store import Store
from mtlsd.text import columns
from tests.pki import Pair, make_pair
from tests.test_cli import Base as CommandBase

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


class Base(CommandBase):
    def knocked(self, pair: Pair, address: str = "192.0.2.1", ago: timedelta = timedelta(), count: int = 1) -> Pair:
        folder = self.certs / "pending"
        folder.mkdir(mode=0o700, exist_ok=True)
        at = datetime.now(UTC) - ago
        (folder / file_of(pair.fingerprint)).write_bytes(written(pair.der, address, at, at, count))
        return pair

    def left(self) -> set[str]:
        return {found for path in (self.certs / "pending").iterdir() if (found := fingerprint_in(path.name))}

    def ledger(self) -> list[tuple[str, str]]:
        lines = (self.certs / "ledger.jsonl").read_text().splitlines()
        return [(line["event"], line["fingerprint"]) for line in map(json.loads, lines)]


class PendingTests(Base):
    """`mtlsd pending`."""

    def test_lists(self) -> None:
        """Lost: who has knocked, and that all of it is only claimed."""
        alice = self.knocked(make_pair(), count=3)
        header, row, *note = self.done("pending").splitlines()
        self.assertEqual(header.split(), ["FINGERPRINT", "FROM", "FIRST", "LAST", "COUNT", "CLAIMS", "TO", "BE"])
        self.assertEqual((row.split()[:2], row.split()[-2:]), ([alice.fingerprint[:16], "192.0.2.1"], ["3", "CN=alice"]))
        self.assertIn("These are claims (times in UTC).", note[0])
        self.assertEqual(note[1:], ["To let one in:  mtlsd approve FINGERPRINT --name NAME"])
        self.assertLessEqual(max(map(len, note)), 80)

    def test_many(self) -> None:
        """Lost: how many there are, and what to do about them, where their list runs off the screen."""
        for nth in range(21):
            self.knocked(make_pair(f"c{nth}"), f"2001:db8:85a3:8d3:1319:8a2e:370:{nth:x}")
        *_, last = self.done("pending").splitlines()
        self.assertEqual(last, "21 wait.  To drop many:  mtlsd dismiss --all-from ADDRESS, or --older-than 7d")

    def test_json(self) -> None:
        """Lost: the keys that scripts rely on."""
        alice = self.knocked(make_pair(), "2001:db8::1", count=3)
        (found,) = json.loads(self.done("pending", "--json"))
        self.assertEqual(
            list(found),
            ["fingerprint", "key_type", "subject", "not_before", "not_after", "address", "first", "last", "count"],
        )
        self.assertEqual((found["fingerprint"], found["address"], found["count"]), (alice.fingerprint, "2001:db8::1", 3))
        self.assertEqual(json.loads(self.done("dismiss", alice.fingerprint, "--json"))["fingerprints"], [alice.fingerprint])
        self.assertEqual(json.loads(self.done("pending", "--json")), [])

    def test_nobody(self) -> None:
        """Lost: a word instead of an empty screen, and status 0."""
        self.fails(0, "nobody waits", "pending")

    def test_only_who_can_be_approved(self) -> None:
        """Lost: who is known by now, or has ended, would be offered as long as the server is down."""
        alice, bob = self.knocked(make_pair()), self.knocked(make_pair("bob"))
        self.knocked(make_pair("old", begins=timedelta(days=-2), ends=timedelta(days=-1)))
        (self.certs / "authorized" / "alice.pem").write_bytes(alice.pem)
        (self.certs / "revoked" / f"{bob.fingerprint}.json").touch()
        carol = self.knocked(make_pair("carol"))
        self.assertEqual([one["fingerprint"] for one in json.loads(self.done("pending", "--json"))], [carol.fingerprint])

    def test_passed_over(self) -> None:
        """Lost: the name of a file that is not what it should be."""
        (self.certs / "pending").mkdir()
        (self.certs / "pending" / file_of("0" * 64)).write_text("junk")
        result = self.run_it("pending")
        self.assertEqual(result.exit_code, 0)
        self.assertIn(f"{file_of('0' * 64)}: passed over: not JSON", result.stderr)

    def test_hostile_subject(self) -> None:
        """Lost: the operator's terminal, to whoever knocks."""
        self.knocked(make_pair("\x1b]0;evil\x07\n\u202eecila"))
        for arguments in (["pending"], ["pending", "--json"]):
            said = self.done(*arguments)
            self.assertTrue(all(line.isprintable() for line in said.splitlines()), said)

    def test_narrow(self) -> None:
        """Lost: a table that fits, with digits that `approve` takes, whatever the width of the terminal."""
        pair = make_pair("a-client-with-a-rather-long-name.of.example.org")
        knock = Knock(pair.leaf, pair.der, "2001:db8:1111:2222:3333:4444:5555:6666", NOW, NOW + timedelta(hours=1), 12_345)
        whole = knocks_table([knock], None)
        for column in ("FROM", "FIRST", "LAST", "COUNT"):
            self.assertIn(column, whole)
        lost = []
        for width in range(160, 39, -1):
            table = knocks_table([knock], width)
            self.assertTrue(all(len(line) <= width for line in table.splitlines()), table)
            self.assertIn(pair.fingerprint[:16], table)
            lost += [
                column
                for column in ("FIRST", "LAST", "FROM", "COUNT")
                if column not in table.splitlines()[0] and column not in lost
            ]
        self.assertEqual(lost, ["FIRST", "LAST", "FROM"])
        self.assertEqual(knocks_table([knock], 80).splitlines()[0].split()[:4], ["FINGERPRINT", "FROM", "LAST", "COUNT"])
        self.assertIn("2001:db8:1111:2222:…", knocks_table([knock], 80))

    def test_letters_of_strangers(self) -> None:
        """Lost: columns that stand below their heads, and lines that fit, where a subject is wide or runs from right to left."""
        knocks = []
        for name in ("alice", "\U0001f600" * 15, "\u540d\u524d" * 10, "\u05d0\u05d1\u05d2" * 9, "Zoe\u0308" * 10):
            pair = make_pair(name)
            knocks.append(Knock(pair.leaf, pair.der, "192.0.2.1", NOW, NOW, 1))
        for width in (80, 100, 120, None):
            heads, *lines = knocks_table(knocks, width).splitlines()
            at = heads.index("CLAIMS TO BE")
            for line in lines:
                self.assertEqual(line[at : at + 3], "CN=", line)
                if width is not None:
                    self.assertLessEqual(columns(line), width)


class KnockTextTests(Base):
    """What is shown before it is asked."""

    def test_it_fits(self) -> None:
        """Lost: in lines that break anywhere, the one look that has to be right."""
        pair = make_pair()
        for address, count in (("192.0.2.1", 1), ("2001:db8:1111:2222:3333:4444:5555:6666", 12_345)):
            lines = knock_text(Knock(pair.leaf, pair.der, address, NOW, NOW + timedelta(hours=1), count)).splitlines()
            self.assertLessEqual(max(map(len, lines)), 80)
            self.assertIn(pair.fingerprint, lines[0])
            self.assertIn(f"first from   {address}", lines)
            self.assertIn("12,345 times, " if count > 1 else "once, at ", lines[-2])


class ApproveTests(Base):
    """`mtlsd approve`."""

    def setUp(self) -> None:
        super().setUp()
        self.alice = self.knocked(make_pair())

    def asked(self, answer: bytes, *arguments: str) -> Result:
        """Run the command at a terminal at which *answer* is typed."""
        with patch("mtlsd.cli.enrolment._at_a_terminal", return_value=True):
            return self.run_it("approve", *arguments, standard_input=answer)

    def test_yes(self) -> None:
        """Lost: the verb for scripts; and the explanation that names it, as long as it helps."""
        path = self.file(self.alice)
        remedy = json.loads(self.run_it("explain", path, "--json").stdout)["remedy"]
        self.assertEqual(remedy, f"mtlsd approve {self.alice.fingerprint} --name NAME")
        said = self.done(*remedy.replace("NAME", "alice").split()[1:], "--yes")
        self.assertEqual(said, f"approved {self.alice.fingerprint[:16]} as alice\n")
        self.assertTrue(self.done("explain", path).startswith("yes, as alice"))
        self.assertEqual(self.ledger(), [("approved", self.alice.fingerprint)])

    def test_any_spelling(self) -> None:
        """Lost: a fingerprint as openssl prints it."""
        digits = self.alice.fingerprint.upper()
        typed = ":".join(digits[at : at + 2] for at in range(0, 64, 2))
        told = json.loads(self.done("approve", typed, "--name", "alice", "--yes", "--json"))
        self.assertEqual(told, {"client": "alice", "fingerprints": [self.alice.fingerprint], "notes": []})

    def test_asks(self) -> None:
        """Lost: the look at the whole fingerprint, the subject and the dates, before somebody is let in."""
        result = self.asked(b"y\n", self.alice.fingerprint[:16], "--name", "alice")
        self.assertEqual((result.exit_code, result.stdout), (0, f"approved {self.alice.fingerprint[:16]} as alice\n"))
        leaf = self.alice.leaf
        for shown in (self.alice.fingerprint, "CN=alice", f"{leaf.not_after:%Y-%m-%d %H:%M}", "192.0.2.1", "let it in as alice?"):
            self.assertIn(shown, result.stderr)

    def test_no(self) -> None:
        """Lost: a no that is a no; so is no answer at all."""
        for answer, status in ((b"n\n", 1), (b"\n", 1), (b"", 130)):
            result = self.asked(answer, self.alice.fingerprint[:16], "--name", "alice")
            self.assertEqual(result.exit_code, status, result.output)
            self.assertEqual(result.stdout, "")
        self.assertEqual((self.left(), list((self.certs / "authorized").iterdir())), ({self.alice.fingerprint}, []))

    def test_refused_before_it_is_asked(self) -> None:
        """Lost: a question whose yes is then refused."""
        result = self.asked(b"y\n", self.alice.fingerprint, "--name", "../alice")
        self.one_line(result, 1, "is no client's name")

    def test_a_note_before_it_is_asked(self) -> None:
        """Lost: that what is let in is not good yet; and that it stands there already, where there is nothing to ask."""
        early = self.knocked(make_pair("early", begins=timedelta(days=2)))
        result = self.asked(b"y\n", early.fingerprint, "--name", "early")
        self.assertEqual(result.exit_code, 0)
        self.assertIn("is not valid before", result.stderr)
        result = self.asked(b"", early.fingerprint, "--name", "early")
        self.assertEqual((result.exit_code, result.stderr), (0, ""))
        self.assertIn("already", result.stdout)

    def test_no_terminal(self) -> None:
        """Lost: a script that waits for an answer for ever, or is taken to have said yes."""
        self.fails(2, "there is no terminal to ask at: say --yes", "approve", self.alice.fingerprint, "--name", "alice")

    def test_wrong(self) -> None:
        """Lost: the exit statuses that scripts rely on."""
        for status, said, arguments in (
            (2, "16 to 64 hex digits", ["0" * 15, "--name", "alice", "--yes"]),
            (2, "Missing option '--name'", [self.alice.fingerprint, "--yes"]),
            (2, "Missing argument 'FINGERPRINT'", ["--name", "alice"]),
            (1, "mtlsd pending lists", ["0" * 16, "--name", "alice", "--yes"]),
            (1, "is no client's name", [self.alice.fingerprint, "--name", "a/b", "--yes"]),
        ):
            self.fails(status, said, "approve", *arguments)

    def test_two_at_once(self) -> None:
        """Lost: of two operators, both would be told that it was theirs, under two names."""
        done: list[str] = []

        def approve(name: str) -> None:
            with contextlib.suppress(Refused):
                Store(self.certs, lambda: datetime.now(UTC), "x").approve(self.alice.fingerprint, name)
                done.append(name)

        threads = [threading.Thread(target=approve, args=(name,)) for name in ("alice", "bob")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (name,) = done
        self.assertEqual([path.name for path in (self.certs / "authorized").iterdir()], [f"{name}.pem"])


class DismissTests(Base):
    """`mtlsd dismiss`."""

    def setUp(self) -> None:
        super().setUp()
        self.alice = self.knocked(make_pair(), "192.0.2.1")
        self.bob = self.knocked(make_pair("bob"), "2001:db8::7", timedelta(days=8))

    def test_one(self) -> None:
        """Lost: a stranger stays in the list."""
        self.assertEqual(self.done("dismiss", self.alice.fingerprint[:8]), f"dismissed {self.alice.fingerprint[:16]}\n")
        self.assertEqual((self.left(), self.ledger()), ({self.bob.fingerprint}, [("dismissed", self.alice.fingerprint)]))
        self.fails(1, "mtlsd pending lists", "dismiss", self.alice.fingerprint[:8])

    def test_all_from(self) -> None:
        """Lost: a flood, taken off by where it came from; an address in whichever spelling, or a network."""
        for address in ("192.0.2.77", "2001:db8::8", "10.0.0.0/8"):
            self.assertEqual(self.done("dismiss", "--all-from", address), "nothing was dismissed\n")
        self.assertEqual(self.done("dismiss", "--all-from", "2001:DB8:0::7").split()[1], self.bob.fingerprint[:16])
        self.assertEqual(self.done("dismiss", "--all-from", "192.0.2.0/24").split()[1], self.alice.fingerprint[:16])
        self.assertEqual(self.left(), set())

    def test_older_than(self) -> None:
        """Lost: the line for cron, which must not fail on a quiet day."""
        for age in ("30d", "99999d", "200h"):
            self.assertEqual(self.done("dismiss", "--older-than", age), "nothing was dismissed\n")
        self.assertEqual(self.done("dismiss", "--older-than", "7d").split()[1], self.bob.fingerprint[:16])
        self.assertEqual(self.left(), {self.alice.fingerprint})

    def test_wrong(self) -> None:
        """Lost: status 2 for what does not say whom it means; a mistyped time must not dismiss everybody."""
        for said, arguments in (
            ("give one of", []),
            ("give one of", [self.alice.fingerprint, "--older-than", "7d"]),
            ("give one of", ["--all-from", "::1", "--older-than", "7d"]),
            ("8 to 64 hex digits", ["0" * 7]),
            ("a length of time is", ["--older-than", "7"]),
            ("a length of time is", ["--older-than", "-1d"]),
            ("an address like", ["--all-from", "everywhere"]),
        ):
            self.fails(2, said, "dismiss", *arguments)
        self.assertEqual(len(self.left()), 2)

    def test_not_recorded(self) -> None:
        """Lost: status 1 for what stands but is not in the ledger, in JSON too."""
        (self.certs / "ledger.jsonl").mkdir()
        result = self.run_it("dismiss", self.alice.fingerprint, "--json")
        self.assertEqual((result.exit_code, json.loads(result.stdout)["fingerprints"]), (1, [self.alice.fingerprint]))
        self.assertIn("not recorded", result.stderr)
