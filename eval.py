"""Evaluate a checkpoint on a split: per-class table, report files, confusion matrix, panels.

The checkpoint carries its recipe; ``key.sub=value`` changes parts of it for this evaluation::

    python eval.py --checkpoint runs/synthetic/best.pth --split test [eval.window_px=512 ...]

``attribution`` tells what the network makes of its structure maps (docs/attribution.md);
``compare`` puts several evaluations into one table, with differences to the first::

    python eval.py attribution --checkpoint runs/synthetic/best.pth
    python eval.py compare runs/off runs/on [--output DIR]
    python eval.py compare off=runs/off-0,runs/off-1 on=runs/on-0,runs/on-1
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from configs.schema import Config
from datasets.dataset import Batch
from datasets.encodings import StructureEncoder
from datasets.loaders import absence_note, build_eval_loader, check_structure
from datasets.tile_set import TileSet, open_tile_set
from models.build import load_network
from models.structure.build import build_generator
from models.vsgnet import VSGNet
from utils.config import config_from_dict
from utils.distributed import DistContext, distributed_session
from utils.errors import DataError, run_command
from utils.evaluation.attribution import (
    AS_IT_IS,
    ChangeCounts,
    Changed,
    SuperpixelMaps,
    build_attribution_loader,
    changes_of,
    predictions,
)
from utils.evaluation.evaluate import Predictor, evaluate
from utils.evaluation.examples import SpreadRows, WorstRows
from utils.evaluation.measurements import Findings, Measurements
from utils.evaluation.protocols import (
    conditions_of,
    indices_left_out,
    plan_labels,
    plan_split_labels,
    protocols_of,
)
from utils.malloc import keep_freed_memory
from utils.precision import Precision
from utils.reports.attribution_report import attribution_text, write_attribution
from utils.reports.comparison_report import compare_reports
from utils.reports.cost import Cost, measure_cost
from utils.reports.report import write_report
from utils.reports.tables import summary
from utils.training.checkpoint import Checkpoint, check_split, load_checkpoint

NUM_PANEL_ROWS, CELL_PX = 6, 256  # of a panel; side of a picture in it
_ATTRIBUTION = "Tell what a network makes of its structure maps, by changing them."


def check_classes(checkpoint: Checkpoint, tile_set: TileSet) -> None:
    """Refuse a data set whose classes are not those of the checkpoint, in their order."""
    if list(tile_set.classes) != checkpoint.identity.classes:
        raise DataError(
            f"{checkpoint.path} knows the classes {', '.join(checkpoint.identity.classes)}; "
            f"{tile_set.root} has {', '.join(tile_set.classes)}"
        )


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is evaluated: a network with its data set, on one device."""

    checkpoint: Checkpoint
    config: Config
    tile_set: TileSet
    encoder: StructureEncoder
    network: VSGNet
    precision: Precision
    predictor: Predictor


def build_subject(checkpoint: Checkpoint, config: Config, split: str, dist: DistContext) -> Subject:
    """Build the network, after the data set was seen to fit the checkpoint.

    Raises:
        DataError: other classes, lists of images or structure maps than in training.
        ConfigError: ``eval.mean_without`` names a class that the data set does not have.
    """
    tile_set = open_tile_set(Path(config.data.root))
    check_classes(checkpoint, tile_set)
    check_split(checkpoint, tile_set.identity(), str(tile_set.root))
    indices_left_out(config.eval.mean_without, tile_set.classes)
    check_structure(tile_set, config.structure, [split], checkpoint.identity.maps)
    encoder = StructureEncoder(config.structure)
    precision = Precision(config.run.precision, dist.device)
    network = load_network(
        checkpoint,
        config.model,
        structure_channels=encoder.num_channels,
        pictures=encoder.pictures,
        frozen_dtype=precision.dtype,
    ).to(dist.device)
    return Subject(
        checkpoint=checkpoint,
        config=config,
        tile_set=tile_set,
        encoder=encoder,
        network=network,
        precision=precision,
        predictor=Predictor(network, encoder, precision, config.eval, dist.device),
    )


def sources_of(tile_set: TileSet, split: str) -> dict[str, str]:
    """The source image of every tile of a split."""
    return {tile_id: tile_set.tiles[tile_id].source for tile_id in tile_set.split(split)}


def measure(
    subject: Subject,
    split: str,
    dist: DistContext,
    look: Callable[[Batch, Tensor, Tensor], None] | None = None,
) -> Findings:
    """Evaluate a split; ``look`` sees every tile, its prediction and its confusion matrix."""
    tile_set, config = subject.tile_set, subject.config
    classes, kinds = tile_set.classes, {p.labels for p in protocols_of(tile_set.classes)}
    labels = plan_split_labels(tile_set, split, config.eval.labels, kinds)
    loader = build_eval_loader(config, tile_set, split, dist, labels.read)
    measurements = Measurements(classes, sources_of(tile_set, split).values(), labels)
    evaluate(
        subject.predictor,
        loader,
        labels,
        len(classes),
        dist,
        look,
        on_image=measurements.add,
        on_strip=measurements.add_strip,
    )
    lists = f"{tile_set.split_name}, SHA-256 {tile_set.split_sha256[:8]}"
    conditions = conditions_of(config.eval, f"{tile_set.name}, split {split} of {lists}")
    return measurements.findings(dist, config.eval.mean_without, conditions)


def header_of(subject: Subject, split: str) -> dict[str, Any]:
    """What was evaluated and how: the head of a report."""
    checkpoint, config, tile_set = subject.checkpoint, subject.config, subject.tile_set
    absent = set(config.structure.modalities) - set(config.structure.present())
    seen = ", ".join(subject.encoder.stores) or "the RGB image"
    if subject.encoder.stores and absent:
        seen += f"; absent: {', '.join(sorted(absent))}"
    scales = ", ".join(f"{scale:g}" for scale in config.eval.scales)
    sources, kinds = sources_of(tile_set, split), tile_set.kinds_of(split)
    labels = plan_labels(kinds, config.eval.labels).phrase(config.eval.labels)
    return {
        "checkpoint": str(checkpoint.path),
        "epoch": checkpoint.progress["epoch"],
        "selected on": checkpoint.identity.selected_on,
        "data": str(tile_set.root),
        "split": split,
        "lists": f"{tile_set.split_name}, SHA-256 {tile_set.split_sha256}",
        "labels": labels,
        "images": len({*sources.values()}),
        "tiles": len(sources),
        "unit": config.eval.unit,
        "structure": f"{config.structure.control}: {seen}",
        "window": f"{config.eval.window_px} px, overlap {config.eval.overlap_px} px",
        "views": f"scales {scales}; turns {config.eval.turns}",
        "precision": subject.precision.name,
    }


def cost_of(subject: Subject, split: str, dist: DistContext) -> Cost:
    """What the largest window of a split costs on this device."""
    config, tile_set = subject.config, subject.tile_set
    most_px = config.eval.window_px
    tiles = (tile_set.tiles[tile_id] for tile_id in tile_set.split(split))
    windows_px = ((min(most_px, t.height_px), min(most_px, t.width_px)) for t in tiles)
    return measure_cost(
        subject.network,
        channels=(3, subject.encoder.num_channels),
        window_px=max(windows_px, key=math.prod),
        batch_size=config.eval.batch_size,
        precision=subject.precision,
        device=dist.device,
    )


def evaluate_split(
    checkpoint: Checkpoint, config: Config, split: str, output: Path, dist: DistContext
) -> None:
    """Evaluate and write the report. Call on all ranks."""
    subject = build_subject(checkpoint, config, split, dist)
    tile_set, encoder = subject.tile_set, subject.encoder
    left_out = indices_left_out(config.eval.mean_without, tile_set.classes)
    num_tiles = -(-len(tile_set.split(split)) // dist.world_size)  # of the main rank
    spread = SpreadRows(encoder, num_tiles, NUM_PANEL_ROWS if dist.is_main else 0, CELL_PX)
    worst = WorstRows(encoder, NUM_PANEL_ROWS, CELL_PX, left_out)

    def look(batch: Batch, prediction: Tensor, confusion: Tensor) -> None:
        spread.look(batch, prediction)
        worst.look(batch, prediction, confusion)

    findings, worst_rows = measure(subject, split, dist, look), worst.gather(dist)
    if not dist.is_main:
        return
    write_report(
        output,
        findings=findings,
        classes=tile_set.classes,
        palette=tile_set.palette,
        header=header_of(subject, split),
        cost=cost_of(subject, split, dist),
        worst=worst_rows,
        spread=spread.rows,
    )
    print(summary(findings, tile_set.classes))
    identity = checkpoint.identity
    if note := absence_note(config.structure, identity.recipe["structure"]):
        print(note)
    if split == identity.selected_on:
        print(f"note: the checkpoint was chosen on '{split}'; report another split if there is one")
    print(f"report, pictures and all of it on one page, report.html, in {output}")


def attribute(
    checkpoint: Checkpoint, config: Config, split: str, output: Path, dist: DistContext
) -> None:
    """Tell what the network makes of its structure maps, and write it. Call on all ranks."""
    changes = changes_of(config.structure, str(checkpoint.path))
    subject = build_subject(checkpoint, config, split, dist)
    tile_set, classes = subject.tile_set, subject.tile_set.classes
    build = partial(build_generator, "superpixels", config.structure.superpixels, dist.device)
    superpixels = SuperpixelMaps(tile_set, config.structure, split, changes, build)
    loader = build_attribution_loader(config, tile_set, split, dist, superpixels.stores)
    tried = [change for change in changes if change.unmeasured is None]
    plan = {"as it is": AS_IT_IS[config.structure.control], "superpixels": superpixels.origin}
    if dist.is_main:
        print(f"{len(tile_set.split(split))} images, each predicted {1 + len(tried)} times")
        print("\n".join(f"{what}: {how}" for what, how in plan.items()))
    settings = (subject.precision, config.eval, dist.device)
    changed = [
        Predictor(subject.network, Changed(subject.encoder, change), *settings) for change in tried
    ]
    counts = ChangeCounts(classes, sources_of(tile_set, split), changes)
    predicted = predictions(loader, [subject.predictor, *changed], superpixels, dist)
    for batch, found in predicted:
        counts.add(batch.tile_ids[0], batch.target[0], found)
    findings = counts.findings(dist, config.eval.mean_without)
    if dist.is_main:
        header = header_of(subject, split) | {"unit": "tile"} | plan
        write_attribution(output, findings=findings, classes=classes, header=header)
        print(f"\n{attribution_text(findings, classes)}\n\ntable, figures and picture in {output}")


def run_on_checkpoint(
    command: Callable[[Checkpoint, Config, str, Path, DistContext], None],
    name: str,
    description: str,
    arguments: Sequence[str],
) -> None:
    """Read the command line of what takes one checkpoint and one split, and do it."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="best.pth or last.pth")
    parser.add_argument("--split", default="val", help="train, val or test (default: val)")
    parser.add_argument("--output", type=Path, help=f"default: {name}_SPLIT beside the checkpoint")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="change the recipe")
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


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "report": partial(run_on_checkpoint, evaluate_split, "eval", __doc__),
    "attribution": partial(run_on_checkpoint, attribute, "attribution", _ATTRIBUTION),
    "compare": compare_reports,
}


def main() -> None:
    """Command line: a command and its arguments; without a command, ``report``."""
    first, *others = sys.argv[1:] or [""]
    if first in COMMANDS:
        COMMANDS[first](others)
    else:
        COMMANDS["report"](sys.argv[1:])


if __name__ == "__main__":
    run_command(main)
