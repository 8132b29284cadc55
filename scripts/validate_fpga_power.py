"""How well is the power of FPGA designs known? The published boards, the fit to them, and rows that it has not seen.

    python scripts/validate_fpga_power.py --out docs/results

`--out` writes fpga_power.md. Takes seconds.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import shrinkboard as sb

NAME = "fpga_power"
COMMAND = "python scripts/validate_fpga_power.py --out docs/results"
PICO = 1e12
BY_FRAME_RATE = 1 / 60757.09
"""Seconds by fps-comp of the row whose lat-comp says twice as much: 2 bits, an eighth of the channels."""


MEASURED = ["row", "interval, µs", "busy LUT", "busy BRAM18", "idle, W", "measured, W"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="DIR", help="write DIR/fpga_power.md")
    arguments = parser.parse_args()
    found = page()
    print(found)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        title = f"# Power of FPGA designs beside published boards\n\nMade by `{COMMAND}`.\n\n"
        (arguments.out / f"{NAME}.md").write_text(title + found + "\n", encoding="utf-8")


def page() -> str:
    """All tables, with what they say."""
    rows = sb.power_measurements()
    fitted = tuple(row for row in rows if row.fitted)
    held = tuple(row for row in rows if not row.fitted)
    return "\n\n".join(
        [*about(), *fit_section(fitted), *coefficient_section(fitted), *blind_section(held), *use(fitted)]
    )


def about() -> list[str]:
    return [
        text(
            """P = P_board + f·Σ N_r·a_r·e_r, with a_r the share of the initiation interval in which a block's lanes
            step. The rows are QuTiBench's CNV on a ZCU104 (FINN), W2A2, channels pruned; the source stands in
            `cost_models/fpga/power.toml`. The folding of those designs is not published: each is modelled as the
            smallest design, without DSPs, that keeps up with the measured interval. Two coefficients, four rows:
            weakly identified, and the intervals say so."""
        )
    ]


def fit_section(fitted: tuple[Any, ...]) -> list[str]:
    model = sb.power_model()
    errors = left_out(fitted)
    bare = left_out(tuple(replace(row, idle=model.bare) for row in fitted))
    lines = []
    for row, error in zip(fitted, errors, strict=True):
        watts = model.watts(sb.measured_activity(row))[1]
        ours = [watts, watts - row.watts, error + row.watts, error]
        lines.append([*measured(row), *(f"{number:.1f}" for number in ours)])
    return [
        "## Fitted rows",
        table([*MEASURED, "fitted, W", "residual, W", "left out, W", "error, W"], lines),
        text(
            f"""Busy LUTs and BRAM18 are N·a, a URAM as 16 BRAM18. Left out: predicted from the other three rows.
            Mean absolute error then: {size(errors):.1f} W of {mean_watts(fitted):.1f} W, of which {model.idle:.1f} W
            are drawn while waiting. With the bare board's {model.bare:.1f} W as P_board it would be {size(bare):.1f}
            W: what a loaded design draws while it waits is no matter of busy lanes."""
        ),
    ]


def coefficient_section(fitted: tuple[Any, ...]) -> list[str]:
    model, other = sb.power_model(), sb.power_model(tuple(by_frame_rate(row) for row in fitted))
    idle = [row.idle for row in fitted]
    lines = [
        ["bare board, W", f"{model.bare:.1f}", "as published", f"{other.bare:.1f}"],
        ["P_board: design loaded, waiting, W", f"{model.idle:.1f}", f"{min(idle)} to {max(idle)}", f"{other.idle:.1f}"],
    ]
    for i, name in enumerate(("LUT", "BRAM18")):
        joules, low, high = (end[i] * PICO for end in (model.fit.joules, model.fit.low, model.fit.high))
        lines.append(
            [
                f"e of a busy {name} cycle, pJ",
                f"{joules:.3g}",
                f"{low:.3g} … {high:.3g}",
                f"{other.fit.joules[i] * PICO:.3g}",
            ]
        )
    lines.append(["scatter of the residuals, W", f"{model.fit.scatter:.2f}", "", f"{other.fit.scatter:.2f}"])
    return [
        "## Coefficients",
        table(["", "value", "interval", "by fps-comp*"], lines),
        text(
            f"""Values by non-negative least squares; intervals are 95 % t intervals of plain least squares from the
            residuals, with {model.fit.freedom} degrees of freedom, cut off at 0 (of P_board: what was measured). A
            DSP is in no row: it draws between nothing and what the LUTs draw that would multiply in its place, and a
            URAM between nothing and what 16 BRAM18 draw; the value takes the upper bound, the interval reaches to
            the lower."""
        ),
        text(
            """\\* In the row of an eighth of the channels the source's two columns of time contradict each other by
            a factor of two. The fit takes lat-comp; the last column takes fps-comp for that row."""
        ),
    ]


def blind_section(held: tuple[Any, ...]) -> list[str]:
    model = sb.power_model()
    found = [model.watts(sb.measured_activity(row)) for row in held]
    misses = [watts - row.watts for row, (_, watts, _) in zip(held, found, strict=True)]
    inside = sum(low <= row.watts <= high for row, (low, _, high) in zip(held, found, strict=True))
    more = sum(miss < 0 for miss in misses)
    lines = [
        [*measured(row), f"{watts:.1f}", f"{low:.1f} … {high:.1f}", f"{watts - row.watts:.1f}"]
        for row, (low, watts, high) in zip(held, found, strict=True)
    ]
    return [
        "## Rows that the fit has not seen",
        "The same networks in W4A4 on the same board.",
        table([*MEASURED, "predicted, W", "95 % interval, W", "error, W"], lines),
        text(
            f"""{inside} of {len(held)} within the interval; {more} of {len(held)} draw more than predicted. Mean
            absolute error: {size(misses):.1f} W."""
        ),
    ]


def use(fitted: tuple[Any, ...]) -> list[str]:
    percent = 100 * sb.power_model().idle / mean_watts(fitted)
    return [
        "## What this is good for",
        text(
            f"""- The base dominates: {percent:.0f} % of the fitted rows' watts are drawn while waiting, and on small
            boards nearly all (1.6 to 1.75 W on every published small-board design). Rank designs by the power of the
            whole board only."""
        )
        + "\n"
        + text(
            """- Devices without rows of their own get no power: coefficients of one board are not carried to
            another. Whoever measures a board states them in a device file of their own."""
        ),
    ]


def left_out(rows: tuple[Any, ...]) -> list[float]:
    """Of every row, the error in watts of a fit to the others."""
    return [
        sb.power_model(tuple(other for other in rows if other != row)).watts(sb.measured_activity(row))[1] - row.watts
        for row in rows
    ]


def mean_watts(rows: Sequence[Any]) -> float:
    """Of what was measured."""
    return sum(row.watts for row in rows) / len(rows)


def size(errors: Sequence[float]) -> float:
    """Mean absolute error."""
    return sum(map(abs, errors)) / len(errors)


def by_frame_rate(row: Any) -> Any:
    """The row with the interval that the source's frame rate says."""
    return replace(row, interval=BY_FRAME_RATE) if row.bits == 2 and row.channels_kept == 0.125 else row


def measured(row: Any) -> list[str]:
    """What is known of a row, and what was busy in its design."""
    busy = sb.measured_activity(row).most / sb.named_fpga("zcu104").clock.value
    return [
        f"W{row.bits}A{row.bits}, {row.channels_kept * 100:.3g} % of the channels",
        f"{row.interval * 1e6:,.1f}",
        f"{busy[0]:,.0f}",
        f"{busy[1]:,.0f}",
        f"{row.idle:.1f}",
        f"{row.watts:.1f}",
    ]


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---", *["---:"] * (len(head) - 1)], *rows))


def text(paragraph: str) -> str:
    """The paragraph on one line."""
    return " ".join(paragraph.split())


if __name__ == "__main__":
    main()
