"""Evaluate a checkpoint on a split: per-class table, report files, confusion matrix, panels.

The checkpoint carries its recipe; ``key.sub=value`` changes parts of it for this evaluation::

    python eval.py --checkpoint runs/synthetic/best.pth --split test [eval.window_px=512 ...]
"""

import argparse
from pathlib import Path

from torch import Tensor

from configs.schema import Config
from datasets.build import absence_note, build_eval_loader, check_structure
from datasets.encodings import StructureEncoder
from datasets.samples import Batch
from datasets.tiles import TileSet, open_tile_set
from models.build import load_network
from utils.checkpoint import Checkpoint, check_split, load_checkpoint
from utils.config import config_from_dict
from utils.distributed import DistContext, distributed_session
from utils.errors import DataError, run_command
from utils.evaluation import Predictor, evaluate
from utils.files import write_png
from utils.measurements import Measurements
from utils.precision import Precision
from utils.protocols import indices_left_out
from utils.report import write_report
from utils.report_tables import summary
from utils.validation_view import panel_row
from utils.visualize import PanelRow, prediction_panel

NUM_PANEL_ROWS = 6


def check_classes(checkpoint: Checkpoint, tile_set: TileSet) -> None:
    """Refuse a data set whose classes are not those of the checkpoint, in their order."""
    if list(tile_set.classes) != checkpoint.identity.classes:
        raise DataError(
            f"{checkpoint.path} knows the classes {', '.join(checkpoint.identity.classes)}; "
            f"{tile_set.root} has {', '.join(tile_set.classes)}"
        )


def evaluate_split(
    checkpoint: Checkpoint, config: Config, split: str, output: Path, dist: DistContext
) -> None:
    """Evaluate and write the report. Call on all ranks."""
    identity = checkpoint.identity
    tile_set = open_tile_set(Path(config.data.root))
    check_classes(checkpoint, tile_set)
    check_split(checkpoint, tile_set.identity(), str(tile_set.root))
    indices_left_out(config.eval.mean_without, tile_set.classes)
    check_structure(tile_set, config.structure, [split], identity.maps)
    encoder = StructureEncoder(config.structure)
    precision = Precision(config.run.precision, dist.device)
    network = load_network(
        checkpoint,
        config.model,
        structure_channels=encoder.num_channels,
        pictures=encoder.pictures,
        frozen_dtype=precision.dtype,
    ).to(dist.device)
    predictor = Predictor(network, encoder, precision, config.eval, dist.device)
    loader = build_eval_loader(config, tile_set, split, dist)
    rows: list[PanelRow] = []

    def look(batch: Batch, prediction: Tensor, confusion: Tensor) -> None:
        measurements.add(batch, prediction, confusion)
        if len(rows) < NUM_PANEL_ROWS and dist.is_main:
            rows.append(panel_row(batch, prediction, encoder))

    measurements = Measurements(
        tile_set.classes,
        {tile_id: tile_set.tiles[tile_id].source for tile_id in tile_set.split(split)},
        has_borders=config.eval.labels == "full",
    )
    evaluate(predictor, loader, len(tile_set.classes), dist, look, measurements.add_strip)
    findings = measurements.findings(dist, config.eval.mean_without)
    if not dist.is_main:
        return
    absent = set(config.structure.modalities) - set(config.structure.present())
    seen = ", ".join(encoder.stores) or "the RGB image"
    if encoder.stores and absent:
        seen += f"; absent: {', '.join(sorted(absent))}"
    scales = ", ".join(f"{scale:g}" for scale in config.eval.scales)
    header = {
        "checkpoint": str(checkpoint.path),
        "epoch": checkpoint.progress["epoch"],
        "selected on": identity.selected_on,
        "data": str(tile_set.root),
        "split": split,
        "lists": f"{tile_set.split_name}, SHA-256 {tile_set.split_sha256}",
        "labels": config.eval.labels,
        "images": len(tile_set.split(split)),
        "structure": f"{config.structure.control}: {seen}",
        "window": f"{config.eval.window_px} px, overlap {config.eval.overlap_px} px",
        "views": f"scales {scales}; turns {config.eval.turns}",
        "precision": precision.name,
    }
    write_report(
        output,
        findings=findings,
        classes=tile_set.classes,
        palette=tile_set.palette,
        header=header,
    )
    panel = prediction_panel(rows, tile_set.classes, tile_set.palette)
    write_png(output / "predictions.png", panel)
    print(summary(findings, tile_set.classes))
    if note := absence_note(config.structure, identity.recipe["structure"]):
        print(note)
    if split == identity.selected_on:
        print(f"note: the checkpoint was chosen on '{split}'; report another split if there is one")
    print(f"report, confusion matrix and predictions in {output}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--checkpoint", type=Path, required=True, help="best.pth or last.pth")
    parser.add_argument("--split", default="val", help="train, val or test (default: val)")
    parser.add_argument("--output", type=Path, help="default: eval_SPLIT beside the checkpoint")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="change the recipe")
    args = parser.parse_args()
    checkpoint = load_checkpoint(args.checkpoint)
    output = args.output or args.checkpoint.parent / f"eval_{args.split}"
    config = config_from_dict(
        checkpoint.identity.recipe, f"the recipe in {args.checkpoint}", args.overrides
    )
    with distributed_session(config.run.device) as dist:
        evaluate_split(checkpoint, config, args.split, output, dist)


if __name__ == "__main__":
    run_command(main)
