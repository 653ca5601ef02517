"""Preparation of any folder of images and masks: their splits, and the command.

The meaning of the masks is given by a class file, see ``datasets.preparation.classes``.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from datasets.preparation import sensor
from datasets.preparation.arguments import add_tiles, shared_fields
from datasets.preparation.blocks import split_by_blocks
from datasets.preparation.classes import ClassFile, read_class_file
from datasets.preparation.pairing.pairs import (
    Folders,
    check_ids,
    find_pairs,
    flat_folders,
    split_folders,
)
from datasets.preparation.pairing.splits import crop_note, split_by_lists, split_by_shares
from datasets.preparation.pipeline import Plan, Source, prepare
from datasets.preparation.stretching import PERCENTILES, auto_stretch
from datasets.sensors import SensorFiles, files_by_name, named_sensor
from datasets.tile_set import SPLITS, NamedSplit, is_prepared, open_tile_set
from utils.arguments import non_negative_int, positive_int
from utils.errors import ConfigError
from utils.rasters.rendering import Range, Rendering, bands_of, stretch_of, stretch_text
from utils.rasters.vectors import is_polygons

_BLOCKS_PER_GAP = 16  # default of --gap
_ATTRIBUTE = "class"  # default of --attribute
AUTO = "auto"  # of --stretch, and of --label-kind
ALL = "all"  # in place of a split: images that are in none yet


def find_splits(args: argparse.Namespace) -> dict[str, list[Source]]:
    """Return the source images of every split, as the command line defines them."""
    folders = find_folders(args)
    lists = _given_lists(args)
    if args.blocks and not (ALL in folders and args.shares):
        raise ConfigError("--blocks needs --shares, and images that are in no split yet")
    if ALL in folders and bool(lists) == bool(args.shares):
        raise ConfigError("say how to split: give either --train-list and --val-list, or --shares")
    if ALL not in folders and (lists or args.shares):
        raise ConfigError(
            f"{args.tree} has its splits in folders; leave out lists and shares, or give --images "
            "and --labels instead of --tree"
        )
    if args.group_by is not None and (args.blocks or not args.shares):
        raise ConfigError("--group-by is about --shares of whole images; leave it out")
    if args.gap is not None and not args.blocks:
        raise ConfigError("--gap is about --blocks; leave it out")
    sources = find_sources(folders)
    return split_sources(args, sources[ALL], folders[ALL]) if ALL in sources else sources


def find_folders(args: argparse.Namespace) -> dict[str, Folders]:
    """Return the folders of every split, or those of images that are in no split, as ``ALL``.

    Raises:
        ConfigError: the arguments name no folders, or contradict each other.
        MissingDataError, DataError: a tree has none of the known layouts.
    """
    if args.tree is not None:
        if args.images or args.labels:
            raise ConfigError("give --tree, or --images and --labels, not both")
        found = split_folders(args.tree) or {ALL: flat_folders(args.tree)}
    elif args.images is None or args.labels is None:
        raise ConfigError("give --tree, or --images and --labels")
    else:
        found = {ALL: Folders(images=args.images, masks=args.labels)}
    endings = {"image_suffix": args.image_suffix, "mask_suffix": args.mask_suffix}
    return {split: replace(folders, **endings) for split, folders in found.items()}


def find_sources(
    folders: dict[str, Folders], say: Callable[[str], None] = print
) -> dict[str, list[Source]]:
    """Pair the files of every split, or of ``ALL``; say what was passed over, or has no labels.

    Raises:
        MissingDataError: files without their partner.
        DataError: an image name is in two splits.
    """
    found = {}
    for split, own in folders.items():
        found[split] = find_pairs(own, say)
        if own.masks is None:
            say(f"{own.images} has no folder of masks: the split {split} is without labels")
    check_ids(source for members in found.values() for source in members)
    return found


def split_sources(
    args: argparse.Namespace, sources: list[Source], folders: Folders
) -> dict[str, list[Source]]:
    """Split images by blocks, shares or lists; print a line if they look like crops of scenes."""
    if args.blocks:
        shares, gap_px = tuple(args.shares), _gap_of(args)
        return split_by_blocks(sources, args.blocks, gap_px, shares, args.seed)
    if not args.shares:
        return split_by_lists(sources, _given_lists(args), folders)
    note = crop_note([source.id for source in sources], sum(share > 0 for share in args.shares))
    if note and args.group_by is None:
        print(note)
    return split_by_shares(sources, tuple(args.shares), args.seed, args.group_by)


def _gap_of(args: argparse.Namespace) -> int:
    return args.blocks // _BLOCKS_PER_GAP if args.gap is None else args.gap


def _given_lists(args: argparse.Namespace) -> dict[str, Path]:
    paths = {split: getattr(args, f"{split}_list") for split in SPLITS}
    return {split: path for split, path in paths.items() if path is not None}


# Arguments that do not affect the set, or that may be added later.
_NO_SETTINGS = ("run", "output", "workers", "sensor", "no_data")


def add_arguments(add: Callable[..., Any]) -> None:
    """Add the arguments of ``prepare.py folder``."""
    add("--output", type=Path, required=True, help="data/NAME")
    add("--classes", type=Path, required=True, help="class file, as configs/dubai.classes.json")
    text = "folder with images and labels (or masks), or with SPLIT/images and SPLIT/labels, or "
    text += "with img_dir/SPLIT and ann_dir/SPLIT; val and test may be without labels"
    add("--tree", type=Path, help=text)
    add("--images", type=Path, help="folder of images, searched recursively, or an image")
    text = "folder of masks or of polygons (.geojson) with the images' names, or the mask of the "
    text += "one image, or a file of polygons for all images"
    add("--labels", type=Path, help=text)
    for kind in ("image", "mask"):
        text = f"ending of all {kind} names that is no part of the name, as _{kind}"
        add(f"--{kind}-suffix", default="", help=text)
    for split in SPLITS:
        text = "text file: one image per line, its path below --images, with or without suffix"
        add(f"--{split}-list", type=Path, help=text)
    add("--shares", type=float, nargs=3, metavar=("TRAIN", "VAL", "TEST"), help="as 0.8 0.1 0.1")
    text = "regular expression that is searched in the names of images; those with the same first "
    text += "group, e.g. the crops of a scene, stay in one split of --shares"
    add("--group-by", metavar="REGEX", help=text)
    text = "cut the images into blocks of about this side in pixels, which --shares distributes: a "
    text += "spatial split of one or few large images"
    add("--blocks", type=positive_int, metavar="PX", help=text)
    text = "least distance of blocks of different splits in pixels (default: 1/16 of --blocks)"
    add("--gap", type=non_negative_int, metavar="PX", help=text)
    add("--seed", type=non_negative_int, default=0, help="of the random splits")
    text = "of labels as polygons: the property that holds the name, or a value, of the class"
    add("--attribute", help=f"{text} (default: {_ATTRIBUTE})")
    add("--background", metavar="CLASS", help="class of pixels outside all polygons")
    add_file_arguments(add)
    text = "NAME=FOLDER of rasters, or NAME=band:N of the images: import a sensor as well, as "
    text += "'prepare.py sensor'; repeatable"
    add("--sensor", type=named_sensor, action="append", default=[], help=text)
    sensor.add_no_data(add)


def add_file_arguments(add: Callable[..., Any]) -> None:
    """Add the arguments about tiles, and about values of images and masks."""
    add_tiles(add, size_px=None, overlap_px=0, whole=())
    text = "bands that are red, green and blue, as 3,2,1, or the one that is grey (default: as the "
    text += "file names them, else the first three)"
    add("--bands", type=bands_of, default=(), metavar="R,G,B", help=text)
    text = "values that become 0 and 255, one pair or one for each band, which values of more than "
    text += "8 bits need; auto: the percentiles 2 and 98 of each band of the training images"
    add("--stretch", type=_stretch, default=(), metavar="LOW,HIGH", help=text)
    text = "a band that files declare as alpha, e.g. near infrared, is no mask"
    add("--alpha-is-data", action="store_true", help=text)
    text = "auto: masks with one channel hold values, RGB and palette masks hold colours; index "
    text += "reads the indices of palette masks"
    add("--label-kind", choices=(AUTO, "color", "index"), default=AUTO, help=text)


def _stretch(text: str) -> tuple[Range, ...] | str:
    return AUTO if text == AUTO else stretch_of(text)


def run(args: argparse.Namespace) -> None:
    """Run ``prepare.py folder``."""
    if args.no_data is not None and not args.sensor:
        raise ConfigError("--no-data is about --sensor; leave it out")
    sensors = files_by_name(args.sensor)
    prepare_from_arguments(args, read_class_file(args.classes))
    for name, where in sensors.items():
        _import_sensor(args, name, where)


def _import_sensor(args: argparse.Namespace, name: str, where: SensorFiles) -> None:
    """Import a sensor into the prepared set: rasters beside the images, or a band of the images."""
    tile_set, is_of_images = open_tile_set(args.output), where.path is None
    if where.path is None:
        found = find_sources(find_folders(args), say=lambda _: None)  # it was said before
        files = {source.id: source.image for sources in found.values() for source in sources}
    else:
        files = sensor.rasters_of(tile_set, where.path)
    sensor.import_sensor(tile_set, name, files, where.band, is_of_images, args.no_data)


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
    _check_labels(args, sources)
    name, source = "folders", "the folders that the images lie in"
    if args.shares:
        shares = " ".join(map(str, args.shares))
        name, source = "shares", f"random shares {shares} of the images, seed {args.seed}"
        if args.group_by is not None:
            source += f", in groups by {args.group_by}"
        if args.blocks:
            name, gap = "blocks", f"at least {_gap_of(args)} px between splits"
            source = (
                f"random shares {shares} of blocks of {args.blocks} px, seed {args.seed}, {gap}"
            )
    elif given := _given_lists(args):
        name, source = "lists", f"the lists {', '.join(map(str, given.values()))}"
    lists = {split: tuple(source.id for source in found) for split, found in sources.items()}
    hidden = [split for split, found in sources.items() if not any(s.labels for s in found)]
    rendering, notes = _rendering(args, sources["train"] if "train" in sources else [])
    plan = Plan(
        name=args.output.name,
        origin="folder",
        classes={"full": classes},
        sources=sources,
        split=NamedSplit(name=name, source=source, lists=lists, unlabelled=tuple(hidden)),
        rendering=rendering,
        attribute=args.attribute or _ATTRIBUTE,
        background=args.background,
        mask_kind=args.label_kind,
        unknown_text=(
            "the class file does not name",
            "add them to it, check --label-kind, or give --unknown-to-ignore",
        ),
        notes=notes,
        **shared,
    )
    print(prepare(args.output, plan, args.workers))


def _check_labels(args: argparse.Namespace, sources: dict[str, list[Source]]) -> None:
    """Refuse arguments about labels of a kind that no source has."""
    members = (source for own in sources.values() for source in own)
    kinds = {is_polygons(file.name) for source in members for file in source.labels.values()}
    for option, is_given, needed, are in (
        ("--attribute", args.attribute is not None, True, "polygons"),
        ("--background", args.background is not None, True, "polygons"),
        ("--label-kind", args.label_kind != AUTO, False, "masks"),
    ):
        if is_given and needed not in kinds:
            raise ConfigError(f"{option} is about labels that are {are}; leave it out")


def _rendering(
    args: argparse.Namespace, training: list[Source]
) -> tuple[Rendering, tuple[str, ...]]:
    """Return the rendering that the arguments ask for, and a line on a stretch that was found."""
    rendering = Rendering(bands=args.bands, alpha_is_data=args.alpha_is_data)
    if args.stretch != AUTO:
        return replace(rendering, stretch=args.stretch), ()
    if not training:
        raise ConfigError("--stretch auto needs training images; give --stretch LOW,HIGH")
    rendering = replace(rendering, stretch=auto_stretch(training, rendering, args.workers))
    low, high = PERCENTILES
    return rendering, (
        f"stretch: {stretch_text(rendering.stretch)} (percentiles {low:g} and {high:g} of the "
        "training images)",
    )
