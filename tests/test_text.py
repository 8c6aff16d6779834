"""What strangers write into their certificates must not act on an operator's terminal."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mtlsd.text import columns, cut, days_left, printable, shortened


class PrintableTests(SynchronousTestCase):
    def test_keeps_what_can_be_read(self) -> None:
        """A client named in any script stays readable."""
        for text in ("alice", "Zoë Müller", "名前", "a = b, c", ""):
            self.assertEqual(printable(text), text)

    def test_escapes_what_acts(self) -> None:
        """A name with an ESC, a line end or a direction override would repaint or forge a line of output."""
        for hostile, harmless in (
            ("a\nb", r"a\nb"),
            ("a\r\tb", r"a\r\tb"),
            ("\x1b[2Jgone", r"\x1b[2Jgone"),
            ("nul\0", r"nul\x00"),
            ("evil\u202egnp.exe", r"evil\u202egnp.exe"),
            ("\x9b31m", r"\x9b31m"),
            ("\u2028", r"\u2028"),
            ("\U000e0041", r"\U000e0041"),
            ("\ud800", r"\ud800"),
        ):
            self.assertEqual(printable(hostile), harmless)

    @settings(deadline=None, database=None)
    @given(st.text())
    def test_is_always_printable(self, text: str) -> None:
        """One character that gets through is enough to forge a line."""
        self.assertTrue(printable(text).isprintable())

    @settings(deadline=None, database=None)
    @given(st.text())
    def test_is_done_once(self, text: str) -> None:
        """Text that passes through two layers would be escaped twice, and could not be compared any more."""
        self.assertEqual(printable(printable(text)), printable(text))


class ShortenedTests(SynchronousTestCase):
    def test_leaves_what_fits(self) -> None:
        """A column that is just wide enough would lose its last character."""
        self.assertEqual(shortened("alice", 5), "alice")

    def test_cuts_what_does_not_fit(self) -> None:
        """A long subject would break the table; without an ellipsis nobody would see that something is missing."""
        self.assertEqual(shortened("alice and bob", 6), "alice…")
        self.assertEqual(len(shortened("x" * 99, 20)), 20)


class ColumnsTests(SynchronousTestCase):
    def test_as_a_terminal_counts(self) -> None:
        """A table with a name in Chinese, or an emoji in it, would have its columns anywhere."""
        for text, count in (
            ("alice", 5),
            ("\u540d\u524d", 4),
            ("\U0001f600!", 3),
            ("Zoe\u0308", 3),
            ("\u05d0\u05d1", 2),
            ("", 0),
        ):
            self.assertEqual(columns(text), count, text)

    def test_cut(self) -> None:
        """A line that is one column too long breaks, and so does the table."""
        for text, width, kept in (
            ("alice", 5, "alice"),
            ("alice", 4, "ali\u2026"),
            ("\u540d\u524d\u540d", 5, "\u540d\u524d\u2026"),
            ("\u540d\u524d\u540d", 4, "\u540d\u2026"),
            ("Zoe\u0308x", 3, "Zo\u2026"),
        ):
            self.assertEqual(cut(text, width), kept)


class DaysLeftTests(SynchronousTestCase):
    def test_a_day_that_has_begun_counts(self) -> None:
        """A certificate that was made for a year a minute ago would have 364 days."""
        for left, words in (
            (timedelta(0), "1 day left"),
            (timedelta(days=1), "1 day left"),
            (timedelta(days=1, seconds=1), "2 days left"),
            (timedelta(days=365, minutes=-1), "365 days left"),
            (timedelta(days=1200), "1,200 days left"),
        ):
            self.assertEqual(days_left(left), words)
