"""`mtlsd history`: the ledger, read back."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import redirect_stdout
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from mtlsd.audit.events import Event, Kind
from mtlsd.cli.commands import mtlsd
from mtlsd.cli.tables import HISTORY_HEADS, history_table
from mtlsd.errors import FolderError
from mtlsd.registry.ledger import MOST_LINE, History
from mtlsd.text import columns
from tests import test_cli
from tests.pki import make_pair

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
PRINT = "0123456789abcdef" * 4


def line(event: str = "authorized", client: str | None = "alice", at: datetime = NOW, **more: object) -> bytes:
    told = Event(at, Kind.AUTHORIZED, client=client, fingerprint=PRINT, actor="ann").as_dict()
    return json.dumps({**told, "event": event, **more}).encode() + b"\n"


class ReadingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()

    def read(self, data: bytes) -> tuple[list[str], int, int]:
        """Return the events in *data*, how many lines are none, and the number of the first."""
        (self.folder / "ledger.jsonl").write_bytes(data)
        history = History(self.folder)
        return [entry.event for entry in history], history.damaged, history.first_damaged

    def test_in_order(self) -> None:
        """Who reads a history backwards takes a revocation for undone."""
        self.assertEqual(self.read(line("authorized") + line("revoked-client")), (["authorized", "revoked-client"], 0, 0))
        self.read(line())
        (entry,) = History(self.folder)
        self.assertEqual((entry.time, entry.text("client"), entry.text("peer")), (NOW, "alice", None))

    def test_torn(self) -> None:
        """After a full disk or a kill, one line would hide all the others."""
        torn = line()[:50]
        self.assertEqual(self.read(line("a") + torn + b"\n" + line("b")), (["a", "b"], 1, 2))
        self.assertEqual(self.read(line("a") + b"\n\n" + line("b") + torn), (["a", "b"], 1, 5))
        self.assertEqual(self.read(line("a") + line("b").rstrip()), (["a", "b"], 0, 0))

    def test_what_is_no_event(self) -> None:
        """A line that is JSON but no event would be a traceback, or a row of nothing."""
        for odd in (
            b"{}",
            b"[]",
            b'"x"',
            b"[" * 100_000,
            b"\xff\xfe\n",
            b'{"event": 1, "time": "2026-11-23T12:00:00.000Z"}',
            b'{"event": "x", "time": 5}',
            b'{"event": "x", "time": "yesterday"}',
            b'{"event": "x", "time": "2026-11-23T12:00:00"}',
            b'{"event": "x", "time": "0001-01-01T00:00:00+23:00"}',
        ):
            self.assertEqual(self.read(odd.rstrip() + b"\n" + line("a"))[:2], (["a"], 1), odd[:40])

    def test_endless_line(self) -> None:
        """A file of one line, or somebody else's file in its place, would be read into memory whole."""
        for length in (MOST_LINE - 1, MOST_LINE, MOST_LINE + 1, 3 * MOST_LINE):
            self.assertEqual(self.read(line("a") + b"x" * length + b"\n" + line("b")), (["a", "b"], 1, 2), length)
        self.assertEqual(self.read(line("a") + b"x" * 3 * MOST_LINE), (["a"], 1, 2))

    def test_any_event(self) -> None:
        """An event that a later version writes would be missing from the history."""
        self.assertEqual(self.read(line("joined", more=[1])), (["joined"], 0, 0))

    def test_none(self) -> None:
        """A folder in which nothing was changed yet, or whose ledger was moved away, would be an error."""
        self.assertEqual(list(History(self.folder)), [])

    def test_no_folder(self) -> None:
        """A mistyped folder would look like one in which nothing happened."""
        error = self.assertRaises(FolderError, list, History(Path("nowhere")))
        self.assertEqual(str(error), "no such folder nowhere: run mtlsd init --certs nowhere")

    def test_no_file(self) -> None:
        """A FIFO would hold the command for ever, and a link lead it elsewhere."""
        path = self.folder / "ledger.jsonl"
        makers: tuple[Callable[[Path], None], ...] = (os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/null", path))
        for make in makers:
            make(path)
            error = self.assertRaises(FolderError, list, History(self.folder))
            self.assertIn("ledger.jsonl: cannot be read: ", str(error))
            path.rmdir() if path.is_dir() else path.unlink()


class CommandTests(test_cli.Base):
    """The verb."""

    def put(self, *lines: bytes) -> None:
        (self.certs / "ledger.jsonl").write_bytes(b"".join(lines))

    def told(self, *arguments: str) -> list[str]:
        """Return the details of the events that are listed."""
        return [event["detail"] for event in json.loads(self.done("history", "--json", *arguments))]

    def test_what_the_command_did(self) -> None:
        """Lost: who let whom in and out, and why."""
        pair = make_pair()
        self.done("authorize", self.file(pair), "--name", "alice")
        self.done("revoke", "alice", "--reason", "laptop lost")
        heads, *rows = self.done("history").splitlines()
        self.assertEqual(heads.split("  ")[0], "TIME (UTC)")
        self.assertEqual(
            [row.split()[2:5] for row in rows],
            [[kind, "alice", pair.fingerprint[:16]] for kind in ("authorized", "revoked-client")],
        )
        self.assertTrue(rows[1].endswith("laptop lost"))

    def test_which(self) -> None:
        """Lost: the few lines that one looks for, in a ledger of years."""
        now = datetime.now(UTC)
        self.put(
            line(at=now - timedelta(days=9), detail="old"),
            line(client="bob", at=now - timedelta(days=2), detail="bob"),
            line("pending", None, now - timedelta(hours=1), fingerprint="f" * 64, detail="knock"),
            line(at=now, detail="new"),
        )
        self.assertEqual(self.told(), ["old", "bob", "knock", "new"])
        self.assertEqual(self.told("alice"), ["old", "new"])
        self.assertEqual(self.told("--since", "7d"), ["bob", "knock", "new"])
        self.assertEqual(self.told("alice", "--since", "7d"), ["new"])
        self.assertEqual(self.told("--fingerprint", "FF:FF:FF:FF"), ["knock"])
        self.assertEqual(self.told("bob", "--fingerprint", PRINT), ["bob"])
        self.assertEqual(self.told("bob", "--fingerprint", "f" * 64), [])

    def test_json(self) -> None:
        """Lost: the very keys that stand in the ledger, and a list where there is nothing."""
        self.assertEqual(self.done("history", "--json"), "[]\n")
        self.put(line(detail="\x1b[31m\u202e"))
        said = self.done("history", "--json")
        self.assertEqual(json.loads(said), [json.loads(line(detail="\x1b[31m\u202e"))])
        self.assertTrue(said.isascii())

    def test_nothing(self) -> None:
        """Lost: the difference between nothing at all and nothing of that."""
        for arguments, said in ((["history"], "nothing is recorded yet"), (["history", "zoe"], "nothing of that is recorded")):
            result = self.run_it(*arguments)
            self.assertEqual((result.exit_code, result.stdout, result.stderr), (0, "", f"mtlsd: {said}\n"))

    def test_torn(self) -> None:
        """Lost: that a line is missing, said once, beside all that can be read."""
        self.put(line(), b'{"torn\n', line(detail="after"), b"{\n" * 1500)
        result = self.run_it("history")
        self.assertEqual((result.exit_code, len(result.stdout.splitlines())), (0, 3))
        self.assertEqual(
            result.stderr, f"mtlsd: {self.certs}/ledger.jsonl: 1,501 lines are no event, the first is line 2; the rest is shown\n"
        )
        self.put(b"x")
        self.assertIn("1 line is no event, the first is line 1; the rest is shown", self.run_it("history").stderr)

    def test_from_where(self) -> None:
        """Lost: that somebody else has renewed with a client's key."""
        self.put(
            line("renewed", detail="renewed from x", peer={"address": "2001:db8::1", "port": 1}),
            line("joined", peer={"address": "192.0.2.1", "port": 1}),
            line("odd", detail="as it is", peer={"address": 7}),
        )
        rows = self.done("history").splitlines()[1:]
        told = ["renewed from x, from 2001:db8::1", "from 192.0.2.1", "as it is"]
        self.assertEqual([row.rpartition("ann    ")[2] for row in rows], told)

    def test_raw_text(self) -> None:
        """Lost: a ledger that somebody has written to could write to the operator's terminal."""
        raw = "\x1b]0;x\x07\n\u202e"
        self.put(line(raw, raw, fingerprint=raw, actor=raw, detail=raw * 100), line(client=["x"], fingerprint=7, detail=None))  # type: ignore[arg-type]
        said = self.done("history")
        self.assertFalse([shown for shown in said.splitlines() if not shown.isprintable()])
        self.assertEqual(len(said.splitlines()), 3)
        self.assertLess(max(map(len, said.splitlines())), 500)

    def test_in_a_terminal(self) -> None:
        """Lost: a table that breaks its lines in a narrow window."""
        self.put(line(client="a" * 64, detail="laptop lost " * 10))
        reader, writer = os.openpty()
        with open(writer, "w") as terminal, patch.dict(os.environ, {"COLUMNS": "60"}), redirect_stdout(terminal):
            error = self.assertRaises(SystemExit, mtlsd, ["history", "--certs", str(self.certs)])
        said = os.read(reader, 4096).decode()
        os.close(reader)
        self.assertEqual(error.code, 0)
        self.assertEqual(max(map(len, said.splitlines())), 60)

    def test_many(self) -> None:
        """Lost: in a ledger of millions, the heads would come again and again, or columns grow narrower and wider."""
        self.put(line(detail="x"), line(client="a" * 30, detail="x") * 1200, line(detail="x") * 900)
        rows = self.done("history").splitlines()
        self.assertEqual(len(rows), 1 + 1 + 1200 + 900)
        self.assertEqual(len({len(row) for row in rows[1:]}), 1)


class TableTests(SynchronousTestCase):
    """The table, at any width."""

    def table(self, width: int | None) -> list[str]:
        return history_table(
            [
                ("2026-11-23 12:00:00", "revoked-client", "alice", PRINT[:16], "ann", "laptop lost, and the bag with it"),
                ("2026-11-23 12:00:01", "authorized", "bob-" + "x" * 60, PRINT[:16], "-", "-"),
            ],
            width,
        )

    def test_widths(self) -> None:
        """Lost: a table that fits any terminal, and gives up what matters least first."""
        for width in range(10, 200):
            rows = self.table(width)
            lines = "\n".join(rows).splitlines()
            self.assertEqual((len(rows), max(map(len, lines)) <= width), (3, True), width)
            self.assertIn("laptoplost,andthebagwithit", "".join(lines).replace(" ", ""))
        self.assertEqual(self.table(180), self.table(None))
        self.assertEqual(self.table(None)[0].split(), " ".join(HISTORY_HEADS).split())
        self.assertEqual(self.table(150)[0].split(), ["TIME", "(UTC)", "EVENT", "CLIENT", "FINGERPRINT", "ACTOR", "DETAIL"])
        self.assertEqual(self.table(80)[0].split(), ["TIME", "(UTC)", "EVENT", "CLIENT", "FINGERPRINT", "ACTOR"])
        self.assertEqual(self.table(70)[0].split(), ["TIME", "(UTC)", "EVENT", "CLIENT", "FINGERPRINT"])
        self.assertEqual(self.table(60)[0].split(), ["DAY", "EVENT", "CLIENT", "FINGERPRINT"])
        self.assertEqual(self.table(52)[0].split(), ["DAY", "EVENT", "CLIENT", "PRINT"])
        self.assertRegex(self.table(48)[1], rf"  alice +{PRINT[:8]}\n")

    def test_details(self) -> None:
        """Lost: of what was renewed and invited, the half that found no room; or what is short, below instead of beside."""
        row = ("2026-11-23 12:00:00", "renewed", "bob", "a" * 16, "mtlsd")
        told = f"renewed from {'b' * 64}"
        self.assertEqual(history_table([(*row, told)], None)[1].split("  ")[-1], f"renewed from {'b' * 16}")
        beside, below = history_table([(*row, "short"), (*row, told)], 75)[1:]
        self.assertTrue(beside.endswith("mtlsd  short"), beside)
        self.assertEqual(below.splitlines()[1:], [f"    renewed from {'b' * 16}"])
        wide = history_table([(*row, "\u540d" * 100)], 75)[1].splitlines()
        self.assertEqual("".join(wide[1:]).replace(" ", ""), "\u540d" * 100)
        self.assertLessEqual(max(map(columns, wide)), 75)
