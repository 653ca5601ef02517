"""Prepare a data set: published archives, or any folder of images and masks -> data/NAME.

::

    python prepare.py synthetic --output data/synthetic
    python prepare.py folder --tree DIR --classes FILE --output data/NAME --tile-size 512
    python prepare.py folder --images DIR --labels DIR --shares 0.8 0.1 0.1 --classes FILE ...
    python prepare.py sensor --data data/NAME --name dsm --rasters DIR
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from datasets import sensor
from datasets.class_file import ClassFile, read_class_file
from datasets.folder import Tiling, prepare_folder
from datasets.folder_splits import find_splits
from datasets.synthetic import prepare_synthetic, write_images
from datasets.tiles import SPLITS, is_prepared
from utils.errors import run_command

_OVERLAP_HELP = (
    "least overlap of train tiles in pixels; val and test tiles never overlap, because an "
    "evaluated pixel must be counted once"
)
_KIND_HELP = (
    "auto: masks with one channel hold values, RGB and palette masks hold colours; give index "
    "where the numbers of a palette mask are meant"
)
_SENSOR_HELP = "NAME=FOLDER of rasters: import a sensor as well, as 'prepare.py sensor'; repeatable"


def run_synthetic(args: argparse.Namespace) -> None:
    """``prepare.py synthetic``."""
    counts = {"num_train": args.train, "num_val": args.val, "num_test": args.test}
    settings = {"command": "synthetic", "seed": args.seed, **counts, "size_px": args.size}
    if not is_prepared(args.output, settings):
        prepare_synthetic(args.output, seed=args.seed, size_px=args.size, **counts)
    if args.images is not None and args.images.exists():
        print(f"{args.images} exists and is left as it is")
    elif args.images is not None:
        write_images(args.images, seed=args.seed, num_images=args.num_images, size_px=args.size)


def run_folder(args: argparse.Namespace) -> None:
    """``prepare.py folder``."""
    classes = read_class_file(args.classes)
    tiling = Tiling(
        tile_size_px=args.tile_size, overlap_px=args.overlap, keep_whole=tuple(args.keep_whole)
    )
    besides = ("run", "output", "sensor", "no_data")  # a sensor may be added later
    given = {key: value for key, value in vars(args).items() if key not in besides}
    given["classes"] = asdict(classes)  # what the file says, not where it lies
    settings = json.loads(json.dumps(given, default=str))  # as dataset.json gives them back
    if not is_prepared(args.output, settings):
        _prepare_folder(args, classes, tiling, settings)
    for name, rasters in args.sensor:
        sensor.import_and_report(args.output, name, rasters, args.no_data)


def _prepare_folder(
    args: argparse.Namespace, classes: ClassFile, tiling: Tiling, settings: dict[str, Any]
) -> None:
    splits = find_splits(
        tree=args.tree,
        images=args.images,
        masks=args.labels,
        lists={split: getattr(args, f"{split}_list") for split in SPLITS},
        shares=args.shares,
        seed=args.seed,
    )
    summary = prepare_folder(
        args.output,
        splits=splits,
        classes=classes,
        tiling=tiling,
        label_kind=args.label_kind,
        unknown_to_ignore=args.unknown_to_ignore,
        prepared_with=settings,
    )
    print(summary.table(classes.names))


def non_negative_int(text: str) -> int:
    """An argument type."""
    if (number := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, not {number}")
    return number


def _add_synthetic(add: Callable[..., Any]) -> None:
    add("--output", type=Path, required=True, help="data/NAME")
    add("--seed", type=non_negative_int, default=0, help="decides every scene")
    for split, number in (("train", 24), ("val", 8), ("test", 8)):
        add(f"--{split}", type=non_negative_int, default=number, help=f"number of {split} scenes")
    add("--size", type=non_negative_int, default=512, help="side of the scenes in pixels")
    add("--images", type=Path, help="also write images that are in no split to this folder")
    add("--num-images", type=non_negative_int, default=4, help="how many of these")


def _add_folder(add: Callable[..., Any]) -> None:
    add("--output", type=Path, required=True, help="data/NAME")
    add("--classes", type=Path, required=True, help="class file, as configs/dubai.classes.json")
    add("--tree", type=Path, help="folder with images and labels (or masks), or SPLIT/images ...")
    add("--images", type=Path, help="folder of images, searched recursively")
    add("--labels", type=Path, help="folder of masks: the images' names, any suffix")
    for split in SPLITS:
        add(f"--{split}-list", type=Path, help="text file: path without suffix, one image a line")
    add("--shares", type=float, nargs=3, metavar=("TRAIN", "VAL", "TEST"), help="as 0.8 0.1 0.1")
    add("--seed", type=non_negative_int, default=0, help="of the random splits")
    add("--tile-size", type=non_negative_int, help="cut images to at most this side in pixels")
    add("--overlap", type=non_negative_int, default=0, help=_OVERLAP_HELP)
    add("--keep-whole", nargs="+", default=[], choices=SPLITS, help="splits not to cut")
    add("--label-kind", choices=("auto", "color", "index"), default="auto", help=_KIND_HELP)
    add("--unknown-to-ignore", action="store_true", help="count unnamed colours, do not refuse")
    add("--sensor", type=sensor.name_and_folder, action="append", default=[], help=_SENSOR_HELP)
    sensor.add_no_data(add)


def main() -> None:
    """Command line."""
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, what, add_arguments, run in (
        ("synthetic", "procedurally drawn scenes, for the demo", _add_synthetic, run_synthetic),
        ("folder", "any folder of images and masks", _add_folder, run_folder),
        ("sensor", "rasters of a real sensor, as a modality", sensor.add_arguments, sensor.run),
    ):
        command = commands.add_parser(name, help=what, formatter_class=formatter)
        command.set_defaults(run=run)
        add_arguments(command.add_argument)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    run_command(main)
