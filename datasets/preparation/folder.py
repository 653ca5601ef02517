"""Preparation of any folder of images and masks: pairing of the files, and splits.

The meaning of the masks is given by a class file, see ``datasets.preparation.classes``.
"""

import argparse
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from datasets.preparation import sensor
from datasets.preparation.archives import ArchiveFile
from datasets.preparation.arguments import add_tiles, shared_fields
from datasets.preparation.classes import ClassFile, read_class_file
from datasets.preparation.pipeline import Plan, Source, prepare
from datasets.tile_set import SPLITS, NamedSplit, is_prepared, open_tile_set
from utils.arguments import non_negative_int
from utils.errors import ConfigError, DataError, MissingDataError
from utils.files import list_images

_MASK_FOLDERS = ("labels", "masks")
_NUM_NAMED = 3  # names in an error; the rest is counted


def find_splits(args: argparse.Namespace) -> dict[str, list[Source]]:
    """Return the source images of every split, as the command line defines them."""
    paths = {split: getattr(args, f"{split}_list") for split in SPLITS}
    lists = {split: path for split, path in paths.items() if path is not None}
    images, masks = args.images, args.labels
    if args.tree is not None:
        if images or masks:
            raise ConfigError("give --tree, or --images and --labels, not both")
        if has_split_folders(args.tree):
            if lists or args.shares:
                raise ConfigError(
                    f"{args.tree} has its splits in folders; leave out lists and shares"
                )
            return find_split_folders(args.tree)
        images, masks = pair_folders(args.tree)
    if images is None or masks is None:
        raise ConfigError("give --tree, or --images and --labels")
    if bool(lists) == bool(args.shares):
        raise ConfigError("say how to split: give either --train-list and --val-list, or --shares")
    sources = find_pairs(images, masks)
    if args.shares:
        return split_by_shares(sources, tuple(args.shares), args.seed)
    return split_by_lists(sources, lists)


def find_pairs(images: Path, masks: Path) -> list[Source]:
    """Pair every image below one folder with the mask of the same name below another.

    Raises:
        MissingDataError: images without mask or masks without image; they are counted and named.
        DataError: two files of one folder have the same name or id.
    """
    image_of, mask_of = _by_name(images), _by_name(masks)
    problems = []
    for have, lack, one, other in (
        (image_of, mask_of, "image", f"mask of the same name in {masks}"),
        (mask_of, image_of, "mask", f"image of the same name in {images}"),
    ):
        if alone := sorted(have.keys() - lack.keys()):
            problems.append(f"{len(alone)} of {len(have)} {one}s have no {other} ({_first(alone)})")
    if problems:
        raise MissingDataError(
            f"{', and '.join(problems)}; add the missing files or remove the others"
        )
    sources = [
        Source(id=_id(name), image=_file(image_of[name]), labels={"full": _file(mask_of[name])})
        for name in sorted(image_of)
    ]
    _check_ids(sources)
    return sources


def pair_folders(folder: Path) -> tuple[Path, Path]:
    """Return the folders ``images`` and ``labels`` (or ``masks``) of a folder.

    Raises:
        MissingDataError: there is no folder of masks.
        DataError: there are two of them.
    """
    masks = [folder / name for name in _MASK_FOLDERS if (folder / name).is_dir()]
    if not masks:
        raise MissingDataError(f"{folder} has no folder 'labels' or 'masks'; name it with --labels")
    if len(masks) > 1:
        raise DataError(f"{folder} has both 'labels' and 'masks'; give --images and --labels")
    return folder / "images", masks[0]


def has_split_folders(tree: Path) -> bool:
    """Return True for the layout ``TREE/SPLIT/images``, False for ``TREE/images``.

    Raises:
        MissingDataError: the layout is neither.
        DataError: it is both, or a folder of images is not named after a split.
    """
    if not tree.is_dir():
        raise MissingDataError(f"{tree} is not a folder")
    groups = sorted(p.name for p in tree.iterdir() if (p / "images").is_dir())
    splits = ", ".join(SPLITS)
    if unknown := [name for name in groups if name not in SPLITS]:
        raise DataError(
            f"{tree} has images in {', '.join(unknown)}, which is not a split; rename it to one of "
            f"{splits}, or move it out"
        )
    is_flat = (tree / "images").is_dir()
    if is_flat and groups:
        raise DataError(f"{tree} has 'images' and {', '.join(groups)}; move one of them out")
    if not is_flat and not groups:
        raise MissingDataError(
            f"{tree} has neither SPLIT/images (SPLIT: {splits}) nor images; see --tree in --help, "
            "or give --images and --labels"
        )
    return not is_flat


def find_split_folders(tree: Path) -> dict[str, list[Source]]:
    """Pair the files of ``TREE/SPLIT/images`` and ``TREE/SPLIT/labels`` (or ``masks``), by split.

    Raises:
        MissingDataError: a split has no folder of masks, or files without their partner.
        DataError: an image name is in two splits.
    """
    found = {
        split: find_pairs(*pair_folders(tree / split))
        for split in SPLITS
        if (tree / split / "images").is_dir()
    }
    _check_ids(source for members in found.values() for source in members)
    return found


def split_by_lists(sources: list[Source], lists: dict[str, Path]) -> dict[str, list[Source]]:
    """Split by text files with one image per line: its path without suffix.

    Raises:
        MissingDataError: a list is missing or empty, or names images that do not exist.
        DataError: an image is listed twice, or not at all.
    """
    by_id = {source.id: source for source in sources}
    found: dict[str, list[Source]] = {}
    split_of: dict[str, str] = {}
    for split, path in lists.items():
        names = _read_names(path)
        if unknown := [name for name in names if _id(name) not in by_id]:
            raise MissingDataError(
                f"{path} names {len(unknown)} images that do not exist ({_first(unknown)}); a "
                "name is the path below --images without suffix"
            )
        for name in names:
            if (key := _id(name)) in split_of:
                raise DataError(
                    f"'{name}' is listed twice, for {split_of[key]} and {split}; list it once"
                )
            split_of[key] = split
        found[split] = [by_id[_id(name)] for name in names]
    if left := [key for key in by_id if key not in split_of]:
        raise DataError(
            f"{len(left)} of {len(sources)} images are in no list ({_first(left)}); list them or "
            "remove the files"
        )
    return found


def split_by_shares(
    sources: list[Source], shares: tuple[float, ...], seed: int
) -> dict[str, list[Source]]:
    """Split the source images at random.

    Args:
        sources: all source images.
        shares: fractions of train, val and test, which sum to 1. A split with a fraction above 0
            gets at least one image.
        seed: 0 or more; the same seed and images give the same splits.

    Raises:
        ConfigError: the fractions do not sum to 1, or the images are too few.
    """
    total_is_one = abs(sum(shares) - 1) <= 1e-6  # false for nan, too
    if not total_is_one or min(shares) < 0 or shares[0] == 0:
        raise ConfigError(
            f"--shares must be three numbers from 0 to 1 that sum to 1, the first (train) above 0, "
            f"not {' '.join(map(str, shares))}"
        )
    counts = [max(1, round(share * len(sources))) if share else 0 for share in shares]
    counts[0] = len(sources) - sum(counts[1:])
    if counts[0] < 1:
        raise ConfigError(
            f"{len(sources)} images are too few for --shares {' '.join(map(str, shares))}; every "
            "split needs one"
        )
    order = np.random.default_rng(seed).permutation(len(sources))
    groups = np.split(order, np.cumsum(counts)[:-1])
    return {
        split: [sources[i] for i in sorted(group)]
        for split, group in zip(SPLITS, groups, strict=True)
        if len(group)
    }


def _by_name(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in list_images(folder):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise DataError(
                f"{found[name]} and {path} have the same name; rename or remove one of them"
            )
        found[name] = path
    return found


def _id(name: str) -> str:
    """Return the id of an image from its path below the image folder, without suffix."""
    return name.replace("/", "__")


def _file(path: Path) -> ArchiveFile:
    return ArchiveFile(name=str(path), path=path)


def _check_ids(sources: Iterable[Source]) -> None:
    found: dict[str, str] = {}
    for source in sources:
        if source.id in found:
            raise DataError(
                f"{found[source.id]} and {source.image.name} would both be named '{source.id}'; "
                "rename one of them"
            )
        found[source.id] = source.image.name


def _read_names(path: Path) -> list[str]:
    if not path.is_file():
        raise MissingDataError(f"the split list {path} does not exist")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"the split list {path} is not UTF-8 text; save it as such") from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise MissingDataError(f"the split list {path} is empty; leave it out or name images in it")
    return names


def _first(names: list[str]) -> str:
    return f"first: {', '.join(names[:_NUM_NAMED])}"


# Arguments that do not affect the set, or that may be added later.
_NO_SETTINGS = ("run", "output", "workers", "sensor", "no_data")


def add_arguments(add: Callable[..., Any]) -> None:
    """Add the arguments of ``prepare.py folder``."""
    add("--output", type=Path, required=True, help="data/NAME")
    add("--classes", type=Path, required=True, help="class file, as configs/dubai.classes.json")
    add("--tree", type=Path, help="folder with images and labels (or masks), or SPLIT/images ...")
    add("--images", type=Path, help="folder of images, searched recursively")
    add("--labels", type=Path, help="folder of masks: the images' names, any suffix")
    for split in SPLITS:
        add(f"--{split}-list", type=Path, help="text file: one image per line, path without suffix")
    add("--shares", type=float, nargs=3, metavar=("TRAIN", "VAL", "TEST"), help="as 0.8 0.1 0.1")
    add("--seed", type=non_negative_int, default=0, help="of the random splits")
    add_mask_arguments(add)
    text = "NAME=FOLDER of rasters: import a sensor as well, as 'prepare.py sensor'; repeatable"
    add("--sensor", type=sensor.name_and_folder, action="append", default=[], help=text)
    sensor.add_no_data(add)


def add_mask_arguments(add: Callable[..., Any]) -> None:
    """Add the arguments about tiles and masks."""
    add_tiles(add, size_px=None, overlap_px=0, whole=())
    text = "auto: masks with one channel hold values, RGB and palette masks hold colours; index "
    text += "reads the indices of palette masks"
    add("--label-kind", choices=("auto", "color", "index"), default="auto", help=text)


def run(args: argparse.Namespace) -> None:
    """Run ``prepare.py folder``."""
    prepare_from_arguments(args, read_class_file(args.classes))
    for name, rasters in args.sensor:
        sensor.import_sensor(open_tile_set(args.output), name, rasters, args.no_data)


def prepare_from_arguments(args: argparse.Namespace, classes: ClassFile) -> None:
    """Prepare a data set from parsed arguments, unless that was done with the same settings.

    Raises:
        ConfigError: arguments are missing or contradict each other.
        MissingDataError, DataError: as ``prepare``, and of the functions above.
    """
    # The content of the class file, not its path.
    shared = shared_fields(args, _NO_SETTINGS, classes=asdict(classes))
    if is_prepared(args.output, shared["prepared_with"]):
        return
    sources = find_splits(args)
    name, source = "folders", "the folders that the images lie in"
    if args.shares:
        shares = " ".join(map(str, args.shares))
        name, source = "shares", f"random shares {shares} of the images, seed {args.seed}"
    elif given := [str(path) for split in SPLITS if (path := getattr(args, f"{split}_list"))]:
        name, source = "lists", f"the lists {', '.join(given)}"
    lists = {split: tuple(source.id for source in found) for split, found in sources.items()}
    plan = Plan(
        name=args.output.name,
        origin="folder",
        classes={"full": classes},
        sources=sources,
        split=NamedSplit(name=name, source=source, lists=lists),
        mask_kind=args.label_kind,
        unknown_text=(
            "the class file does not name",
            "add them to it, check --label-kind, or give --unknown-to-ignore",
        ),
        **shared,
    )
    print(prepare(args.output, plan, args.workers))
