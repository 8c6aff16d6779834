"""Says what is wrong with the folder: when it begins, once a minute while it lasts, and when it is over."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from twisted.logger import Logger

from mtlsd.registry.problems import Problem, Severity

#: Seconds between two lines about one and the same problem.
REPEAT = 60.0
#: Lines about problems at a time; what is more is counted.
MOST_LINES = 20


class ProblemLog:
    """Turns the problems of each scan into lines of the service's log."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._log = Logger()
        self._said: dict[Problem, float] = {}

    def report(self, problems: Iterable[Problem]) -> None:
        """Take all the problems that there are now."""
        before = self._said
        # A new problem has never been said.
        self._said = {problem: before.get(problem, float("-inf")) for problem in problems}
        self.repeat()
        files = {problem.file for problem in self._said}
        over = [problem for problem in before if problem not in self._said and problem.file not in files]
        for problem in over[:MOST_LINES]:
            self._log.info("{problem}", problem=f"{problem.file}: no longer so: {problem.cause}")
        if len(over) > MOST_LINES:
            self._log.info("{count} more problems of this kind are over", count=len(over) - MOST_LINES)

    def repeat(self) -> None:
        """Say again what has lasted for a minute.  Called once a second or so."""
        now = self._seconds()
        due = [problem for problem, said in self._said.items() if now - said >= REPEAT]
        # An error among a thousand warnings is what has to be seen.
        due.sort(key=lambda problem: problem.severity is not Severity.ERROR)
        for problem in due:
            self._said[problem] = now
        for problem in due[:MOST_LINES]:
            emit = self._log.error if problem.severity is Severity.ERROR else self._log.warn
            emit("{problem}", problem=problem.text)
        if len(due) > MOST_LINES:
            self._log.error("{count} more problems in the folder of certificates", count=len(due) - MOST_LINES)
