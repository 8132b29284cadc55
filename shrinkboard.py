"""The front door: `import shrinkboard as sb` in Python, and the command `shrinkboard`.

Shrinks neural networks, measures what each shrunken network costs, and ranks the ways on an accuracy–speed Pareto
board.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PUBLIC = {
    "workloads": "ArraySplit Dense Format InputError Layer LayerFormats Network Splits calibration_batches "
    "custom_workload dense dense_is_cached epoch_seconds evaluate fold_batch_norm initial "
    "network_from_onnx read_network trace untrained workload workload_names write_network",
    "strategies": "ChannelGroup Choice Compressed Family LayerPlan Plan PruneResult Simulated Space Strategy "
    "best_split channel_groups check_strategy csr_bytes cut on_grid prune_to_drop quantised shrink strategy "
    "strategy_names weight_quantiser",
    "cost_models": "ConvFolding Cost CostModel CpuTarget Deployable Effort Figure LayerFolding MeasuredBoard "
    "MeasuredTarget PIPELINE_DEPTH Program PublishedDesign Quiet RESOURCES Reference RtlBlock "
    "RtlChain Session Telemetry bram18 check_cost_model compare design_power estimate exclusive "
    "export_onnx export_qonnx fingerprint fpga_names layers_in_int8 measured_activity measured_boards "
    "multiplies_int8_exactly named_fpga pinned power_measurements power_model processor quantise_onnx "
    "read_fpgaconvnet rtl_images rtl_reference runs_in_int8 simulate_rtl target target_names "
    "thread_timer weight_bytes",
    "leaderboard": "Benchmark Board Entry Query Ranking Store hypervolume leaderboard rank stored_ranking write_report",
    "search": "Campaign Evaluator Job Own Recreated Subject Summary Verified export_network load recreate run_campaign "
    "verify",
}
_ROOM_OF = {name: room for room, names in _PUBLIC.items() for name in names.split()}
__all__ = sorted(_ROOM_OF)


def __getattr__(name: str) -> Any:
    """Public names, imported from their room on first use."""
    if name not in _ROOM_OF:
        raise AttributeError(f"module 'shrinkboard' has no attribute {name!r}")
    _refuse_shadowed_rooms()
    return getattr(importlib.import_module(_ROOM_OF[name]), name)


def __dir__() -> list[str]:
    return __all__


def main() -> None:
    """The command `shrinkboard`. Bad input ends with one line on stderr and exit code 2."""
    try:
        _refuse_shadowed_rooms()
        sys.exit(_app()(standalone_mode=False))
    except Exception as error:
        import typer

        if isinstance(error, typer.Abort):  # Ctrl-C where no command answers it itself
            sys.exit(130)
        code = getattr(error, "exit_code", None)
        if code is None:
            raise
        # The command line's own errors say more in `format_message` than in `str`.
        line = error.format_message() if hasattr(error, "format_message") else str(error)
        print(f"shrinkboard: {' '.join(line.split())}", file=sys.stderr)
        sys.exit(code)


class ShadowedRoom(ImportError):
    """A folder or file of the user's that Python imports in place of one of ours."""

    exit_code = 2


def _refuse_shadowed_rooms() -> None:
    """Python looks beside the user's script first: a folder named like a room of ours would be imported instead."""
    home = Path(__file__).resolve().parent
    for room in _PUBLIC:
        spec = importlib.util.find_spec(room)
        places = [spec.origin] if spec and spec.origin else list(spec.submodule_search_locations or []) if spec else []
        found = Path(places[0]).resolve() if places else None
        if found is None or home not in found.parents:
            raise ShadowedRoom(
                f"{found.parent if found and found.name == '__init__.py' else found} hides shrinkboard's own package "
                f"{room!r}: rename it, or start from another folder"
            )


def _app() -> Any:
    """The command's tree, each room's part from its own `commands.py`."""
    import typer

    import cost_models.commands as targets
    import leaderboard.commands as board
    import search.commands as search
    import search.entry_commands as entries
    import search.study_commands as studies

    app = typer.Typer(
        name="shrinkboard",
        help="Shrink neural networks, measure what each costs, and rank the ways on a Pareto board.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    commands: list[tuple[str, Callable[..., None]]] = [
        ("search", search.search),
        ("finalists", search.finalists),
        ("leaderboard", board.leaderboard),
        ("rank", board.rank),
        ("show", board.show),
        ("report", board.report),
        ("serve", board.serve),
        ("dump", board.dump),
        ("import", board.import_),
        ("export", entries.export),
        ("verify", entries.verify),
        ("gc", entries.gc),
        ("estimate", targets.estimate),
        ("status", studies.status),
        ("workers", studies.workers),
        ("stop", studies.stop),
        ("replay", studies.replay),
        ("explain", studies.explain),
        ("workloads", search.workloads),
        ("doctor", targets.doctor),
    ]
    for name, function in commands:
        app.command(name)(function)
    app.add_typer(board.benchmarks_app, name="benchmarks")
    app.add_typer(board.plot_app, name="plot")
    app.add_typer(search.strategies_app, name="strategies")
    app.add_typer(targets.targets_app, name="targets")
    return app


if __name__ == "__main__":
    main()
