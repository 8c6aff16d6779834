"""Lengths of time, as people write them."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mtlsd.durations import read_duration, written


class ReadDurationTests(SynchronousTestCase):
    def test_units(self) -> None:
        """An operator who says 30d would be understood to mean something else."""
        for text, length in (
            ("30d", timedelta(days=30)),
            ("12h", timedelta(hours=12)),
            ("30m", timedelta(minutes=30)),
            ("45s", timedelta(seconds=45)),
            ("0d", timedelta()),
            ("99999d", timedelta(days=99_999)),
        ):
            self.assertEqual(read_duration(text), length)

    def test_nothing_else(self) -> None:
        """A bare number would be days to one and seconds to another."""
        for text in ("30", "d", "", "30 d", "-1d", "1.5d", "30D", "1d12h", "100000d", "\u0667d", "30d\n"):
            self.assertIn("30d, 12h, 30m or 45s", str(self.assertRaises(ValueError, read_duration, text)))


class WrittenTests(SynchronousTestCase):
    def test_units(self) -> None:
        """A default would be shown in a form that cannot be given."""
        for text in ("30d", "12h", "30m", "45s", "0", "400d", "25h", "90m", "61s"):
            self.assertEqual(written(timedelta() if text == "0" else read_duration(text)), text)
        self.assertEqual(written(timedelta(hours=48)), "2d")

    @settings(deadline=None, database=None)
    @given(st.integers(1, 99_999), st.sampled_from("dhms"))
    def test_back(self, number: int, unit: str) -> None:
        """What is written would be read as another time."""
        length = read_duration(f"{number}{unit}")
        self.assertEqual(read_duration(written(length)), length)
