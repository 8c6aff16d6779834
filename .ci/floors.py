"""Fails when coverage has fallen under its floor.  Reads what `coverage json` wrote: python .ci/floors.py FILE."""

from __future__ import annotations

import json
import sys
from pathlib import Path

#: Where a promise is kept, and how much of it the tests have to have seen, in per cent: of statements and of branches.
FLOORS = {
    "mtlsd/policy.py": 100.0,
    "mtlsd/routing/": 100.0,
    "mtlsd/identity.py": 95.0,
    "mtlsd/registry/": 95.0,
    "mtlsd/tls/": 95.0,
    "mtlsd/proxy/": 95.0,
    "mtlsd/enrol/": 95.0,
}


def share(covered: int, total: int) -> float:
    """Return per cent; where there is nothing to cover, all of it is covered."""
    return 100.0 * covered / total if total else 100.0


def main(report: Path) -> int:
    """Print one line for each floor and return the exit status."""
    files = json.loads(report.read_text("utf-8"))["files"]
    failed = 0
    for place, floor in FLOORS.items():
        found = {name: file for name, file in files.items() if name == place or (place.endswith("/") and name.startswith(place))}
        totals = [file["summary"] for file in found.values()]
        lines = share(sum(t["covered_lines"] for t in totals), sum(t["num_statements"] for t in totals))
        branches = share(sum(t["covered_branches"] for t in totals), sum(t["num_branches"] for t in totals))
        good = bool(found) and min(lines, branches) >= floor
        verdict = "ok" if good else "TOO LOW" if found else "NOT MEASURED"
        print(f"coverage of {place:<18} lines {lines:5.1f} %  branches {branches:5.1f} %  floor {floor:g} %  {verdict}")
        if not good:
            failed = 1
            for name, file in sorted(found.items()):
                gaps = [str(line) for line in file["missing_lines"]] + [f"{a}->{b}" for a, b in file["missing_branches"]]
                if gaps:
                    print(f"    {name}: {', '.join(gaps)}")
    return failed


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
