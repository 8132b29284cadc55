"""The state of studies as text for a terminal, and as plain data for JSON."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table as Grid
from rich.text import Text

from .drivers import Driver
from .render import duration
from .status import Status


def status_view(status: Status) -> RenderableType:
    """The whole of it, for a table that is drawn anew again and again."""
    grid = Grid("strategy", title=status.study, title_justify="left")
    for column in ("finished", "running", "waiting", "let go", "failed", "lost"):
        grid.add_column(column, justify="right")
    for one in status.strategies:
        wanted = "?" if one.wanted is None else str(one.wanted)
        let_go = sum(one.let_go.values())
        counts = (one.running, one.waiting, let_go, one.failed, one.lost)
        grid.add_row(one.strategy, f"{one.finished}/{wanted}", *map(str, counts))
    lines = [_drivers_line(status.drivers)]
    if status.rate is not None:
        lines.append(f"{60 * status.rate:.3g} evaluations a minute")
    if status.done:
        lines.append("all trials done")
    elif status.left is not None and status.drivers:
        lines.append(f"about {duration(status.left)} left")
    for best in status.fronts:
        told = "" if best.speedup is None else f", at most 1 point lost: {best.speedup:.2f}×"
        lines.append(f"front on {best.target}: {best.size} networks{told}")
    failures = [f"failed: {lease.strategy} #{lease.trial}: {lease.reason}" for lease in status.failures]
    return Group(grid, *(Text(line) for line in lines), *(Text(line, style="red") for line in failures))


def status_json(status: Status) -> dict[str, Any]:
    """Plain data."""
    return {
        "study": status.study,
        "done": status.done,
        "rate": status.rate,
        "left": status.left,
        "strategies": [
            {
                "strategy": one.strategy,
                "wanted": one.wanted,
                "finished": one.finished,
                "running": one.running,
                "waiting": one.waiting,
                "let_go": dict(one.let_go),
                "failed": one.failed,
                "lost": one.lost,
            }
            for one in status.strategies
        ],
        "fronts": [{"target": b.target, "size": b.size, "speedup": b.speedup} for b in status.fronts],
        "failures": [
            {"strategy": f.strategy, "trial": f.trial, "reason": f.reason, "knobs": dict(f.knobs)}
            for f in status.failures
        ],
        "drivers": workers_json(status.drivers),
    }


def workers_grid(drivers: Sequence[Driver]) -> Grid:
    """A row for every worker."""
    grid = Grid()
    for column in ("study", "driver", "machine", "executor", "heard", "worker", "does"):
        grid.add_column(column, justify="right" if column in ("heard", "worker") else "left")
    now = time.time()
    for driver in drivers:
        heard = f"{max(0.0, now - driver.beat):.0f} s ago" + (", stopping" if driver.stop else "")
        for place in range(driver.workers):
            told = (driver.study, driver.id[:8], driver.machine, driver.executor, heard) if place == 0 else ("",) * 5
            grid.add_row(*told, str(place + 1), _doing(driver, place, now))
    return grid


def workers_json(drivers: Sequence[Driver]) -> list[dict[str, Any]]:
    """Plain data."""
    return [
        {
            "study": driver.study,
            "driver": driver.id,
            "machine": driver.machine,
            "executor": driver.executor,
            "workers": driver.workers,
            "began": driver.began,
            "beat": driver.beat,
            "stop": driver.stop,
            "jobs": list(driver.jobs),
        }
        for driver in drivers
    ]


def _doing(driver: Driver, place: int, now: float) -> str:
    if place >= len(driver.jobs):
        return "nothing"
    job = driver.jobs[place]
    return f"{job['strategy']} #{job['trial']}, {job['stage']}, for {duration(max(0.0, now - job['since']))}"


def _drivers_line(drivers: Sequence[Driver]) -> str:
    if not drivers:
        return "no driver is at work"
    busy, workers = sum(len(driver.jobs) for driver in drivers), sum(driver.workers for driver in drivers)
    stopping = sum(bool(driver.stop) for driver in drivers)
    told = f"{len(drivers)} driver{'s' if len(drivers) > 1 else ''}, {busy} of {workers} workers busy"
    return told + (f", {stopping} stopping" if stopping else "")
