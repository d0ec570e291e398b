"""Plots for docs/performance.md: cost and latency against clients."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt


def plot(results: Sequence[dict[str, Any]], folder: Path) -> None:
    """Draw both pictures.

    Args:
        results: of bench.fanout, each with `baseline`.
        folder: gets `cpu.svg` and `latency.svg`.
    """
    draw(results, lambda r: r["cpu_us"], "CPU a delivered message, µs", folder / "cpu.svg")
    draw(results, lambda r: r["latency_ms"]["p99"], "p99, ms", folder / "latency.svg")


def draw(
    results: Sequence[dict[str, Any]],
    value: Callable[[dict[str, Any]], float],
    label: str,
    path: Path,
) -> None:
    figure, axes = plt.subplots(figsize=(6, 3.2))
    for baseline, name in ((False, "gateway"), (True, "one send a message")):
        rows = [r for r in results if r["baseline"] == baseline]
        axes.plot([r["clients"] for r in rows], [value(r) for r in rows], marker="o", label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("clients")
    axes.set_ylabel(label)
    axes.grid(visible=True, which="both", alpha=0.25)
    axes.legend()
    figure.tight_layout()
    # No date and fixed ids: the same numbers give the same file.
    with mpl.rc_context({"svg.hashsalt": path.stem}):
        figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
