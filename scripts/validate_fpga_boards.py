"""How far is the FPGA model from boards that others measured, and from the estimates of other tools?

    python scripts/validate_fpga_boards.py --data-dir DIR --out docs/results
    python scripts/validate_fpga_boards.py FILE --measured 1234.5 --clock 143e6 --dsp 200

DIR holds the layer files of the boards whose figures come with the tool (the message about a missing one says where
they are published). Any other layer file of fpgaConvNet can be named beside DIR or instead of it; `--measured`
(inferences a second, one image at a time), `--clock` (Hz) and `--dsp` are then given once a file, in their order.
`--out` writes fpga_boards.md and fpga_boards.json. No time in the model is fitted to a board.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import shrinkboard as sb

NAME = "fpga_boards"


@dataclass(frozen=True)
class Case:
    """A layer file and what is known of the board that it ran on."""

    name: str
    file: Path
    device: str
    clock: float | None = None
    cycles: float | None = None
    dsp: int | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="layer files of fpgaConvNet")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="folder with the files of the known boards")
    parser.add_argument("--measured", type=float, action="append", default=[], help="inferences a second, once a file")
    parser.add_argument("--clock", type=float, action="append", default=[], help="Hz, once a file")
    parser.add_argument("--dsp", type=int, action="append", default=[], help="DSPs reported, once a file")
    parser.add_argument("--device", default="z7020", help="part whose external memory FILE's board has (default z7020)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write DIR/fpga_boards.md and .json")
    arguments = parser.parse_args()
    rows = [row(case) for case in cases(arguments)]
    peers = beside_peers()
    text = page(rows, peers, explained=arguments.data_dir is not None)
    print(text)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        command = " ".join(["python scripts/validate_fpga_boards.py", *used_options(arguments)])
        data = {"command": command, "boards": rows, "peers": peers}
        (arguments.out / f"{NAME}.json").write_text(json.dumps(data, indent=1) + "\n")
        (arguments.out / f"{NAME}.md").write_text(
            f"# The FPGA model beside measured boards and other tools\n\nMade by `{command}`; the same figures stand "
            f"in `{NAME}.json`.\n\n{text}\n"
        )


def used_options(arguments: argparse.Namespace) -> list[str]:
    """The command line without the places where this machine keeps its files."""
    given = ["--data-dir DIR"] if arguments.data_dir else []
    given += [file.name for file in arguments.files]
    for option in ("measured", "clock", "dsp"):
        given += [f"--{option} {value:g}" for value in getattr(arguments, option)]
    return [*given, "--out docs/results"]


def cases(arguments: argparse.Namespace) -> list[Case]:
    """What is to be compared, as the command line says."""
    boards = sb.measured_boards()
    found = []
    if arguments.data_dir is not None:
        missing = [board.name for board in boards if not (arguments.data_dir / f"{board.name}.json").is_file()]
        if missing:
            raise sb.InputError(
                f"{arguments.data_dir} has no {', '.join(f'{name}.json' for name in missing)}; they are published in "
                f"{boards[0].source}"
            )
        for board in boards:
            file = arguments.data_dir / f"{board.name}.json"
            found.append(Case(board.summary, file, board.device, board.clock, board.cycles, board.dsp))
    elif not arguments.files:
        wanted = ", ".join(f"{board.name}.json" for board in boards)
        raise sb.InputError(f"give --data-dir DIR, a folder with {wanted} ({boards[0].source}), or layer files")
    for option in ("measured", "clock", "dsp"):
        given = getattr(arguments, option)
        if given and len(given) != len(arguments.files):
            raise sb.InputError(
                f"--{option} is given {len(given)} times for {len(arguments.files)} files; give it once a file"
            )
        if any(not 0 < value < float("inf") for value in given):
            raise sb.InputError(f"--{option} is {given}; it must be above 0 and finite")
    if arguments.measured and not arguments.clock:
        raise sb.InputError("--measured needs --clock, the Hz at which the board ran")
    for i, file in enumerate(arguments.files):
        clock = arguments.clock[i] if arguments.clock else None
        cycles = clock / arguments.measured[i] if clock and arguments.measured else None
        dsp = arguments.dsp[i] if arguments.dsp else None
        found.append(Case(file.stem, file, arguments.device, clock, cycles, dsp))
    return found


def row(case: Case) -> dict[str, Any]:
    """One board: predicted and measured cycles of an image, DSPs and what they are for."""
    published = sb.read_fpgaconvnet(case.file)
    design = sb.estimate(published.network, sb.named_fpga(case.device), published.folding, clock=case.clock)
    optimistic, pessimistic, mean = (
        float(getattr(design.latency, which)) for which in ("optimistic", "pessimistic", "mean")
    )
    dsps: Counter[str] = Counter()
    for block, used in zip(design.blocks, design.resources, strict=True):
        dsps[published.types[block.name]] += int(used[sb.RESOURCES.index("dsp")])
    return {
        **{key: value for key, value in asdict(case).items() if key in ("name", "clock")},
        "layers": len(published.network.layers),
        "interval": design.interval,
        "optimistic": optimistic,
        "pessimistic": pessimistic,
        "mean": mean,
        "measured": case.cycles,
        "error": mean / case.cycles - 1 if case.cycles else None,
        "dsp": dsps.total(),
        "dsp_reported": case.dsp,
        "dsp_by_type": {kind: count for kind, count in dsps.items() if count},
    }


def beside_peers() -> list[dict[str, Any]]:
    """The dense path beside what FINN and fpgaConvNet say of one layer: 64→64, 3×3, 32×32, 128 products a cycle."""
    device = sb.named_fpga("zcu102")
    finn = sb.LayerFolding(filters=16, nonzeros=8)
    venieris = sb.ConvFolding(coarse_in=8, coarse_out=16)
    eight, four = convolution(8), convolution(4)
    memory = sb.estimate(eight, device, {"0": finn})
    depth = int(memory.costs[-1].steps[0])
    width = round(8 * memory.weight_bytes / depth)

    def used(network: Any, folding: Any, resource: str) -> int:
        return round(float(sb.estimate(network, device, {"0": folding}).resources[-1][sb.RESOURCES.index(resource)]))

    def peer(tool: str, figure: str, theirs: int, ours: int, equal: bool = True) -> dict[str, Any]:
        return {"tool": tool, "figure": figure, "theirs": theirs, "ours": ours, "must_be_equal": equal}

    fabric = finn.model_copy(update={"multiplier": "lut"})
    return [
        peer("FINN", "cycles", 294_912, int(memory.cycles[-1])),
        peer("fpgaConvNet", "cycles", 294_912, int(sb.estimate(eight, device, {"0": venieris}).cycles[-1])),
        peer("FINN", f"BRAM18 of the weights, W8: {depth} words of {width:,} bits", 29, int(sb.bram18(depth, width))),
        peer("fpgaConvNet", "DSP, W8", 64, used(eight, venieris, "dsp")),
        peer("fpgaConvNet", "DSP, W4", 32, used(four, venieris, "dsp")),
        *(
            peer(
                "FINN", f"LUT without DSP, W{bits}A{bits}", theirs, used(convolution(bits), fabric, "lut"), equal=False
            )
            for bits, theirs in ((8, 16_140), (4, 6_020), (2, 2_077))
        ),
    ]


def convolution(bits: int) -> Any:
    """The peers' layer with weights and activations of `bits`."""
    form = sb.Format("int", bits)
    module = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1, bias=False))
    return sb.trace(module, torch.zeros(1, 64, 32, 32), formats={"0": sb.LayerFormats(form, form)})


def page(rows: Sequence[dict[str, Any]], peers: Sequence[dict[str, Any]], explained: bool) -> str:
    """Both tables and what they say; `explained`: with the known boards' DSPs."""
    lines = [
        "## Boards",
        "",
        "Cycles of one image through the idle pipeline, from its first word in to its last word out, under the "
        "published folding; nothing is fitted. Measured: clock ÷ inferences a second, one image at a time, with "
        "whatever the host adds. The error is that of the mean of both recurrences.",
        "",
        "| board | MHz | II | optimistic | pessimistic | mean | measured | error | DSP | reported | what for |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for one in rows:
        purposes = " + ".join(f"{count} {kind}" for kind, count in one["dsp_by_type"].items())
        clock = "" if one["clock"] is None else f"{one['clock'] / 1e6:g}"
        lines.append(
            f"| {one['name']} | {clock} | {one['interval']:,} | {one['optimistic']:,.0f} | {one['pessimistic']:,.0f} "
            f"| {one['mean']:,.0f} | {whole(one['measured'])} | {percent(one['error'])} | {one['dsp']} "
            f"| {whole(one['dsp_reported'])} | {purposes} |"
        )
    errors = [abs(one["error"]) for one in rows if one["error"] is not None]
    if errors:
        inside = sum(
            one["optimistic"] <= one["measured"] <= one["pessimistic"] for one in rows if one["measured"] is not None
        )
        lines += [
            "",
            f"Mean absolute error of latency: **{sum(errors) / len(errors):.1%}**; {inside} of {len(errors)} measured "
            "figures lie between both recurrences.",
        ]
    return "\n".join([*lines, "", *([*DSPS, ""] if explained else []), *peer_lines(peers)])


DSPS = (
    "Where the DSPs come from:",
    "",
    "- CONVOLUTION and INNER_PRODUCT: a lane each (coarse_in · coarse_out · coarse_group · fine) unless the file says "
    "`use_dsp: false`. 8-bit weights meet 9-bit activations, so no two products share a DSP.",
    "- BATCH_NORM: a 24-bit sum times a 24-bit scale is wider than the 25 × 18 of a DSP48E1 and takes 2. Scales "
    "are in memory, not wired in: those that are powers of two take 2 as well.",
    "- ELTWISE: a scale for each of two inputs and one for the sum. At the width of the sum (`acc_t`, 24 bits) each "
    "takes 2, together 6. That the inputs of 9 bits are brought to that width before they are scaled is not "
    "written in the file; scaled as they come they would take 1 each, and ResNet-8 would count 519.",
    "- AVERAGE_POOLING: 1 for the product with 1/n (n = 125 in DS-CNN); a mean of 64 pixels is a shift, so none "
    "in ResNet-8. fpgaConvNet's own model counts 1 whatever n is; the reported count has no room for it beside "
    "3 × 6 of the ELTWISE layers.",
    "",
    "On the boards above these rules name every DSP that was reported. Those of BATCH_NORM and of the lanes follow "
    "from widths that the file states; those of ELTWISE and AVERAGE_POOLING also need the two assumptions above. They "
    "were chosen because they agree with the reported counts, and one ResNet is all that tells them from others.",
)


def peer_lines(peers: Sequence[dict[str, Any]]) -> list[str]:
    """The table beside other tools."""
    lines = [
        "## Other tools",
        "",
        "One dense convolution, 64→64, 3×3 on 32×32, 128 products a cycle. LUTs need not agree: theirs are the "
        "estimate of FINN's formula, of which only the width of the weights is stated (activations are taken to be as "
        "wide), ours rest on synthesis with Yosys and hold the whole block, its line buffer included.",
        "",
        "| tool | figure | theirs | ours | |",
        "|---|---|---:|---:|---|",
    ]
    for one in peers:
        verdict = "" if not one["must_be_equal"] else "equal" if one["theirs"] == one["ours"] else "**differs**"
        lines.append(f"| {one['tool']} | {one['figure']} | {one['theirs']:,} | {one['ours']:,} | {verdict} |")
    return lines


def whole(value: float | None) -> str:
    """A count, or nothing where none was published."""
    return "" if value is None else f"{value:,.0f}"


def percent(value: float | None) -> str:
    """A signed share."""
    return "" if value is None else f"{value:+.1%}"


if __name__ == "__main__":
    try:
        main()
    except sb.InputError as error:
        sys.exit(f"validate_fpga_boards.py: {error}")
