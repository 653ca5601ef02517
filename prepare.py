"""Prepare a data set: published archives, or any folder of images and masks -> data/NAME.

::

    python prepare.py synthetic --output data/synthetic
    python prepare.py folder --tree DIR --classes FILE --output data/NAME --tile-size 512
    python prepare.py folder --images DIR --labels DIR --shares 0.8 0.1 0.1 --classes FILE ...
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from datasets.class_file import read_class_file
from datasets.folder import (
    Source,
    Summary,
    Tiling,
    find_pairs,
    find_split_folders,
    prepare_folder,
    split_by_lists,
    split_by_shares,
)
from datasets.synthetic import prepare_synthetic, write_images
from datasets.tiles import SPLITS
from utils.config import differences
from utils.errors import ConfigError, DataError, run_command
from utils.files import read_json


def is_prepared(root: Path, settings: dict[str, Any]) -> bool:
    """Whether ``root`` holds a set made with these settings.

    Raises:
        DataError: it holds something else; both sides are named.
    """
    if not root.exists():
        return False
    if not (root / "dataset.json").is_file():
        raise DataError(f"{root} exists and is not a prepared data set; choose another --output")
    found = read_json(root / "dataset.json")["prepared_with"]
    if lines := differences(settings, found):
        raise DataError(
            f"{root} was prepared with other settings (wanted | found): {'; '.join(lines)}. Delete "
            "it or choose another --output"
        )
    print(f"{root} is already prepared with these settings")
    return True


def run_synthetic(args: argparse.Namespace) -> None:
    """``prepare.py synthetic``."""
    counts = {"num_train": args.train, "num_val": args.val, "num_test": args.test}
    settings = {"command": "synthetic", "seed": args.seed, **counts, "size_px": args.size}
    if not is_prepared(args.output, settings):
        prepare_synthetic(args.output, seed=args.seed, size_px=args.size, **counts)
    if args.images is not None and not args.images.exists():
        write_images(args.images, seed=args.seed, num_images=args.num_images, size_px=args.size)


def run_folder(args: argparse.Namespace) -> None:
    """``prepare.py folder``."""
    classes = read_class_file(args.classes)
    tiling = Tiling(
        tile_size_px=args.tile_size, overlap_px=args.overlap, keep_whole=tuple(args.keep_whole)
    )
    given = {key: value for key, value in vars(args).items() if key not in ("run", "output")}
    settings = {
        key: str(value) if isinstance(value, Path) else value for key, value in given.items()
    }
    settings["classes"] = {key: _lists(value) for key, value in asdict(classes).items()}
    if is_prepared(args.output, settings):
        return
    summary = prepare_folder(
        args.output,
        splits=find_splits(args),
        classes=classes,
        tiling=tiling,
        label_kind=args.label_kind,
        unknown_to_ignore=args.unknown_to_ignore,
        prepared_with=settings,
    )
    print(summary_table(summary, classes.names))


def find_splits(args: argparse.Namespace) -> dict[str, list[Source]]:
    """The source images of every split, from folders, lists or shares."""
    lists = {split: getattr(args, f"{split}_list") for split in SPLITS}
    lists = {split: path for split, path in lists.items() if path is not None}
    if args.tree is not None:
        if args.images or args.labels or lists or args.shares:
            raise ConfigError("--tree has its splits in folders; leave out the other sources")
        return find_split_folders(args.tree)
    if args.images is None or args.labels is None:
        raise ConfigError("give --tree, or --images and --labels")
    if bool(lists) == bool(args.shares):
        raise ConfigError("with --images, give either --train-list and --val-list, or --shares")
    sources = find_pairs(args.images, args.labels)
    if lists:
        return split_by_lists(sources, lists)
    return split_by_shares(sources, tuple(args.shares), args.seed)


def summary_table(summary: Summary, names: tuple[str, ...]) -> str:
    """Splits across, numbers and class shares down."""
    splits = list(summary.num_sources)
    width = max(len(name) for name in (*names, "megapixels"))
    lines = ["".join([" " * width, *(f"{split:>12}" for split in splits)])]

    def add(name: str, cells: list[str]) -> None:
        lines.append("".join([name.ljust(width), *(f"{cell:>12}" for cell in cells)]))

    add("images", [str(summary.num_sources[split]) for split in splits])
    add("tiles", [str(summary.num_tiles[split]) for split in splits])
    totals = {split: summary.num_pixels[split].sum() for split in splits}
    add("megapixels", [f"{totals[split] / 1e6:.1f}" for split in splits])
    for index, name in enumerate((*names, "ignored")):
        shares = [100 * summary.num_pixels[split][index] / totals[split] for split in splits]
        add(name, [f"{share:.1f} %" for share in shares])
    for index, name in enumerate(names):
        if "train" in splits and summary.num_pixels["train"][index] == 0:
            lines.append(f"warning: no training pixel is of class '{name}'")
    for key, count in summary.unknown.items():
        lines.append(f"ignored: {count:,} pixels of the unknown {key}")
    return "\n".join(lines)


def _lists(value: Any) -> Any:
    return [_lists(item) for item in value] if isinstance(value, (tuple, list)) else value


def main() -> None:
    """Command line."""
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    synthetic = commands.add_parser(
        "synthetic", help="procedurally drawn scenes, for the demo", formatter_class=formatter
    )
    synthetic.set_defaults(run=run_synthetic)
    synthetic.add_argument("--output", type=Path, required=True, help="data/NAME")
    synthetic.add_argument("--seed", type=int, default=0, help="decides every scene")
    for split, number in (("train", 24), ("val", 8), ("test", 8)):
        synthetic.add_argument(f"--{split}", type=int, default=number, help="scenes")
    synthetic.add_argument("--size", type=int, default=512, help="side of the scenes in pixels")
    synthetic.add_argument("--images", type=Path, help="also write held-back images here")
    synthetic.add_argument("--num-images", type=int, default=4, help="how many of these")

    folder = commands.add_parser(
        "folder", help="any folder of images and masks", formatter_class=formatter
    )
    folder.set_defaults(run=run_folder)
    folder.add_argument("--output", type=Path, required=True, help="data/NAME")
    folder.add_argument("--classes", type=Path, required=True, help="class file (JSON)")
    folder.add_argument("--tree", type=Path, help="has SPLIT/images and SPLIT/labels or masks")
    folder.add_argument("--images", type=Path, help="folder of images, searched recursively")
    folder.add_argument("--labels", type=Path, help="folder of masks with the images' names")
    for split in SPLITS:
        folder.add_argument(f"--{split}-list", type=Path, help=f"text file of {split} images")
    folder.add_argument("--shares", type=float, nargs=3, metavar=tuple(map(str.upper, SPLITS)))
    folder.add_argument("--seed", type=int, default=0, help="of the random splits")
    folder.add_argument("--tile-size", type=int, help="cut images to this side in pixels")
    folder.add_argument("--overlap", type=int, default=0, help="of training tiles, in pixels")
    folder.add_argument("--keep-whole", nargs="*", default=[], choices=SPLITS, help="not cut")
    folder.add_argument("--label-kind", choices=("auto", "color", "index"), default="auto")
    folder.add_argument("--unknown-to-ignore", action="store_true", help="instead of an error")
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    run_command(main)
