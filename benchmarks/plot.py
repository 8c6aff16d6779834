"""Draw what was measured: docs/performance-servers.svg and docs/performance-clients.svg.

.venv/peers/bin/python benchmarks/plot.py --servers RESULT-OF-side_by_side --clients RESULT-OF-scale --into docs
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

# The same drawing for the same figures, and text that stays text.
mpl.rcParams.update({"svg.hashsalt": "mtlsd", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10})
_OURS, _OTHERS, _SOFT = "#0b6e5f", "#9aa5ab", "#5c6770"
_ROWS = {
    "ec-keep": "keep-alive GET /hello",
    "ec-full": "full handshake, GET, close",
    "ec-resume": "resumed handshake, GET, close",
    "rsa-full": "full handshake, RSA-4096",
    "ec-1m": "1 MiB from a file",
    "ec-idle": "memory for an idle connection",
}


def draw_servers(result: dict[str, Any], to: Path) -> None:
    """Draw a panel for each workload: a bar for each server, the shortest first."""
    rows = {row: result["runs"]["off"][row] for row in _ROWS if row in result["runs"]["off"]}
    figure, grid = plt.subplots(-(-len(rows) // 2), 2, figsize=(9, 2.25 * -(-len(rows) // 2)), layout="constrained")
    for panel, (row, by_server) in zip(grid.flat, rows.items(), strict=False):
        found = {name: statistics.median(run["value"] for run in runs) for name, runs in by_server.items() if runs}
        order = sorted(found, key=found.__getitem__, reverse=True)
        bars = panel.barh(order, [found[name] for name in order], color=[_OURS if name == "mtlsd" else _OTHERS for name in order])
        unit = "KiB" if row == "ec-idle" else "µs of CPU"
        panel.bar_label(bars, [f"{found[name]:,.0f}" for name in order], padding=3, fontsize=9, color=_SOFT)
        panel.set_title(f"{_ROWS[row]} ({unit})", loc="left", fontsize=10, fontweight="bold")
        panel.set_xlim(0, max(found.values()) * 1.15)
        panel.tick_params(left=False, bottom=False, labelbottom=False)
        panel.spines[:].set_visible(False)
    for panel in list(grid.flat)[len(rows) :]:
        panel.remove()
    _save(figure, to)


def draw_clients(result: list[dict[str, Any]], to: Path) -> None:
    """Draw what a handshake costs and what the service weighs, by the number of clients."""
    sizes = [run["clients"] for run in result]
    figure, (cost, memory) = plt.subplots(1, 2, figsize=(9, 2.8), layout="constrained")
    for panel, title, key in (
        (cost, "a handshake, GET and close (ms of CPU)", "handshake"),
        (memory, "memory of the service (MiB)", "memory"),
    ):
        values = [run[key] for run in result]
        panel.plot(sizes, values, color=_OURS, marker="o")
        for size, value in zip(sizes, values, strict=True):
            panel.annotate(
                f"{value:,.3g}", (size, value), (0, 7), textcoords="offset points", ha="center", color=_SOFT, fontsize=9
            )
        panel.set_xscale("log")
        panel.set_xticks(sizes, [f"{size:,}" for size in sizes])
        panel.minorticks_off()
        panel.set_ylim(0, max(values) * 1.25)
        panel.set_xlabel("authorized clients")
        panel.set_title(title, loc="left", fontsize=10, fontweight="bold")
        panel.spines[["top", "right"]].set_visible(False)
    _save(figure, to)


def _save(figure: Any, to: Path) -> None:
    figure.savefig(to, facecolor="white", metadata={"Date": None, "Creator": None})
    # Lines that end in blanks are noise in a repository.
    to.write_text("\n".join(line.rstrip() for line in to.read_text().splitlines()) + "\n")
    print(to)


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", type=Path)
    parser.add_argument("--clients", type=Path)
    parser.add_argument("--into", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.servers:
        draw_servers(json.loads(arguments.servers.read_text()), arguments.into / "performance-servers.svg")
    if arguments.clients:
        draw_clients(json.loads(arguments.clients.read_text()), arguments.into / "performance-clients.svg")


if __name__ == "__main__":
    main()
