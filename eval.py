"""Evaluate a checkpoint on a split, compare evaluations, or ablate a network's structure maps.

The checkpoint carries its recipe; ``key.sub=value`` overrides parts of it::

    python eval.py --checkpoint runs/synthetic/best.pth --split test [eval.window_px=512 ...]

``attribution`` measures how the network uses its structure maps (docs/attribution.md);
``compare`` tabulates several evaluations and their differences to the first::

    python eval.py attribution --checkpoint runs/synthetic/best.pth
    python eval.py compare runs/off runs/on [--output DIR]
    python eval.py compare off=runs/off-0,runs/off-1 on=runs/on-0,runs/on-1
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from configs.schema import Config
from datasets.loaders import absence_note
from utils.config import config_from_dict
from utils.distributed import DistContext, distributed_session
from utils.errors import run_command
from utils.evaluation.attribution import (
    UNCHANGED,
    SuperpixelMaps,
    ablations_of,
    build_attribution_loader,
    measure_ablations,
    measured,
)
from utils.evaluation.compare import read_settings
from utils.evaluation.examples import ExampleTiles
from utils.evaluation.setup import EvaluationSetup, load_setup, measure
from utils.malloc import keep_freed_memory
from utils.reports.attribution_report import attribution_text, write_attribution
from utils.reports.comparison_report import compare, comparison_text, write_comparison
from utils.reports.report import Evaluation, cost_of_split, header_of, write_report
from utils.reports.tables import console_summary
from utils.training.checkpoint import Checkpoint, load_checkpoint

NUM_PANEL_ROWS, CELL_PX = 6, 256  # tiles shown in a report; longer side of their pictures


def evaluate_split(
    checkpoint: Checkpoint, config: Config, split: str, output: Path, dist: DistContext
) -> None:
    """Evaluate a checkpoint and write the report. Call on all ranks."""
    setup = load_setup(checkpoint, config, split, dist)
    tile_set, encoder = setup.tile_set, setup.predictor.encoder
    num_tiles = -(-len(tile_set.split(split)) // dist.world_size)  # of the main rank
    examples = ExampleTiles(encoder, dist, num_tiles, NUM_PANEL_ROWS, CELL_PX, setup.left_out)
    findings, worst = measure(setup, split, dist, examples.add), examples.worst()
    if not dist.is_main:
        return
    evaluation = Evaluation(
        findings=findings,
        classes=tile_set.classes,
        palette=tile_set.palette,
        header=header_of(setup, split),
        cost=cost_of_split(setup, split),
        worst=worst,
        spread=examples.spread,
    )
    write_report(output, evaluation)
    print(console_summary(findings, tile_set.classes))
    print_warnings(setup)
    if note := absence_note(config.structure, checkpoint.identity.recipe["structure"]):
        print(note)
    if split == checkpoint.identity.selected_on:
        print(f"note: the checkpoint was selected on '{split}'; report the score of another split")
    print(f"report: {output / 'report.html'}")


def attribute(
    checkpoint: Checkpoint, config: Config, split: str, output: Path, dist: DistContext
) -> None:
    """Score the network with ablated structure maps and write the report. Call on all ranks."""
    ablations = ablations_of(config.structure, str(checkpoint.path))
    setup = load_setup(checkpoint, config, split, dist)
    tile_set = setup.tile_set
    superpixels = SuperpixelMaps(tile_set, config.structure, split, ablations, dist.device)
    pairs = build_attribution_loader(config, tile_set, split, dist, superpixels.stores)
    sources = {"unchanged": UNCHANGED[config.structure.control], "superpixels": superpixels.origin}
    if dist.is_main:
        num_times = 1 + len(measured(ablations))
        print(f"{len(tile_set.split(split))} tiles, each predicted {num_times} times")
        print("\n".join(f"{name}: {source}" for name, source in sources.items()))
        print_warnings(setup)
    findings = measure_ablations(setup, split, ablations, pairs, superpixels, dist)
    if dist.is_main:
        header, classes = header_of(setup, split) | {"unit": "tile"} | sources, tile_set.classes
        write_attribution(output, findings=findings, classes=classes, header=header)
        print(f"\n{attribution_text(findings, classes)}\n\nreport: {output / 'attribution.json'}")


def print_warnings(setup: EvaluationSetup) -> None:
    """Print the reasons to distrust the scores."""
    for note in setup.notes:
        print(f"warning: {note}")


def run_on_checkpoint(
    command: Callable[[Checkpoint, Config, str, Path, DistContext], None],
    name: str,
    description: str,
    arguments: Sequence[str],
) -> None:
    """Run a command that takes one checkpoint and one split."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="best.pth or last.pth")
    parser.add_argument("--split", default="val", help="train, val or test (default: val)")
    parser.add_argument("--output", type=Path, help=f"default: {name}_SPLIT beside the checkpoint")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="override the recipe")
    args = parser.parse_args(arguments)
    checkpoint = load_checkpoint(args.checkpoint)
    output = args.output or args.checkpoint.parent / f"{name}_{args.split}"
    config = config_from_dict(
        checkpoint.identity.recipe, f"the recipe in {args.checkpoint}", args.overrides
    )
    with distributed_session(config.run.device) as dist:
        if dist.device.type == "cpu":
            keep_freed_memory()
        command(checkpoint, config, args.split, output, dist)


def compare_runs(arguments: Sequence[str]) -> None:
    """Compare several evaluations; the first one is the reference."""
    parser = argparse.ArgumentParser(
        prog="eval.py compare",
        description="Tabulate several evaluations and their differences to the first, with "
        "confidence intervals.",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="a run folder, the folder of an evaluation or its report.json; NAME=A names it, "
        "NAME=A,B,C averages over seeds of one setting",
    )
    parser.add_argument("--output", type=Path, help="default: compare beside the first report")
    args = parser.parse_args(arguments)
    settings = read_settings(args.runs)
    comparison = compare(settings)
    output = args.output or settings[0].reports[0].path.parent / "compare"
    write_comparison(output, comparison)
    print(f"{comparison_text(comparison)}\n\nreport: {output / 'compare.html'}")


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "evaluate": partial(run_on_checkpoint, evaluate_split, "eval", __doc__),
    "attribution": partial(
        run_on_checkpoint,
        attribute,
        "attribution",
        "Measure how a network uses its structure maps, by ablating each of them.",
    ),
    "compare": compare_runs,
}


def main() -> None:
    """Run a command and its arguments; without a command, ``evaluate``."""
    first, *others = sys.argv[1:] or [""]
    if first in COMMANDS:
        COMMANDS[first](others)
    else:
        COMMANDS["evaluate"](sys.argv[1:])


if __name__ == "__main__":
    run_command(main)
