"""Any folder of images and masks -> a prepared data set.

Which image is in which split is decided in ``datasets.preparation.folder_splits``, what the masks
mean in ``datasets.preparation.classes``.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from datasets.preparation import sensor, tiling
from datasets.preparation.classes import ClassFile, read_class_file
from datasets.preparation.folder_splits import Pair, find_splits
from datasets.preparation.members import file_member
from datasets.preparation.pipeline import Plan, Source, prepare
from datasets.preparation.summary import Summary
from datasets.preparation.tiling import Tiling, tiling_of
from datasets.splits import NamedSplit
from datasets.tile_set import SPLITS, is_prepared
from utils.arguments import add_workers, default_workers, non_negative_int

_KIND_HELP = (
    "auto: masks with one channel hold values, RGB and palette masks hold colours; give index "
    "where the numbers of a palette mask are meant"
)
_SENSOR_HELP = "NAME=FOLDER of rasters: import a sensor as well, as 'prepare.py sensor'; repeatable"
# Arguments that change nothing in the set, or that may be added later.
_NO_SETTINGS = ("run", "output", "workers", "sensor", "no_data")


def add_arguments(add: Callable[..., Any]) -> None:
    """Arguments of ``prepare.py folder``."""
    add("--output", type=Path, required=True, help="data/NAME")
    add("--classes", type=Path, required=True, help="class file, as configs/dubai.classes.json")
    add("--tree", type=Path, help="folder with images and labels (or masks), or SPLIT/images ...")
    add("--images", type=Path, help="folder of images, searched recursively")
    add("--labels", type=Path, help="folder of masks: the images' names, any suffix")
    for split in SPLITS:
        add(f"--{split}-list", type=Path, help="text file: path without suffix, one image a line")
    add("--shares", type=float, nargs=3, metavar=("TRAIN", "VAL", "TEST"), help="as 0.8 0.1 0.1")
    add("--seed", type=non_negative_int, default=0, help="of the random splits")
    add_mask_arguments(add)
    add("--sensor", type=sensor.name_and_folder, action="append", default=[], help=_SENSOR_HELP)
    sensor.add_no_data(add)


def add_mask_arguments(add: Callable[..., Any]) -> None:
    """Arguments about tiles and masks."""
    tiling.add_arguments(add, size_px=None, overlap_px=0, whole=())
    add("--label-kind", choices=("auto", "color", "index"), default="auto", help=_KIND_HELP)
    add("--unknown-to-ignore", action="store_true", help="count unnamed colours, do not refuse")
    add_workers(add)


def run(args: argparse.Namespace) -> None:
    """``prepare.py folder``."""
    prepare_from_arguments(args, read_class_file(args.classes))
    for name, rasters in args.sensor:
        sensor.import_and_report(args.output, name, rasters, args.no_data)


def prepare_from_arguments(args: argparse.Namespace, classes: ClassFile) -> None:
    """Prepare what the arguments of ``prepare.py folder`` say, unless that is done."""
    cut = tiling_of(args)
    given = {key: value for key, value in vars(args).items() if key not in _NO_SETTINGS}
    given["classes"] = asdict(classes)  # what the file says, not where it lies
    settings = json.loads(json.dumps(given, default=str))  # as dataset.json gives them back
    if is_prepared(args.output, settings):
        return
    lists = {split: getattr(args, f"{split}_list") for split in SPLITS}
    splits = find_splits(
        tree=args.tree,
        images=args.images,
        masks=args.labels,
        lists=lists,
        shares=args.shares,
        seed=args.seed,
    )
    name, source = "folders", "the folders that the images lie in"
    if args.shares:
        shares = " ".join(map(str, args.shares))
        name, source = "shares", f"random shares {shares} of the images, seed {args.seed}"
    elif any(lists.values()):
        name, source = "lists", f"the lists {', '.join(str(p) for p in lists.values() if p)}"
    summary = prepare_folder(
        args.output,
        splits=splits,
        classes=classes,
        tiling=cut,
        label_kind=args.label_kind,
        unknown_to_ignore=args.unknown_to_ignore,
        prepared_with=settings,
        split_name=name,
        split_source=source,
        num_workers=args.workers,
    )
    print(summary.table(classes.names))


def prepare_folder(
    root: Path,
    *,
    splits: dict[str, list[Pair]],
    classes: ClassFile,
    tiling: Tiling,
    label_kind: str,
    unknown_to_ignore: bool,
    prepared_with: dict[str, Any],
    split_name: str = "folders",
    split_source: str = "the folders that the images lie in",
    num_workers: int | None = None,
) -> Summary:
    """Read every image and mask once, cut them and write the data set.

    Raises:
        DataError: a file cannot be read, sizes differ, or masks hold colours or values that the
            class file does not name (all of them, counted). Nothing is left at ``root``.
    """
    lists = {split: tuple(pair.id for pair in pairs) for split, pairs in splits.items()}
    plan = Plan(
        name=root.name,
        origin="folder",
        classes={"full": classes},
        sources={split: [_source(pair) for pair in pairs] for split, pairs in splits.items()},
        split=NamedSplit(name=split_name, source=split_source, lists=lists),
        tiling=tiling,
        mask_kind=label_kind,
        unknown_to_ignore=unknown_to_ignore,
        unknown_text=(
            "the class file does not name",
            "add them to it, check --label-kind, or give --unknown-to-ignore",
        ),
        prepared_with=prepared_with,
    )
    return prepare(root, plan, num_workers or default_workers())


def _source(pair: Pair) -> Source:
    labels = {"full": file_member(pair.mask_path)}
    return Source(id=pair.id, image=file_member(pair.image_path), labels=labels)
