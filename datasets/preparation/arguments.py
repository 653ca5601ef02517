"""Command-line arguments shared by several commands of prepare.py, and the preparation they run."""

import argparse
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets.preparation.archives import Archives, open_archives
from datasets.preparation.classes import ISPRS_CLASSES
from datasets.preparation.pipeline import Plan, Source, prepare
from datasets.preparation.sensor import add_range, value_range
from datasets.preparation.writer import Tiling
from datasets.tile_set import SPLITS, NamedSplit, find_split, is_prepared
from utils.arguments import default_workers, non_negative_int, positive_int
from utils.errors import ConfigError
from utils.rasters.rendering import Rendering

FindSources = Callable[
    [Archives, argparse.Namespace, tuple[str, ...]], tuple[dict[str, Source], Rendering]
]
_NO_SETTINGS = ("run", "output", "source", "workers")  # they do not affect the prepared set


def add_source(add: Callable[..., Any]) -> None:
    """Add ``--source`` and ``--output``."""
    text = "archive as published, or a folder of such archives or of their content, with the "
    text += "official names; repeatable"
    add("--source", type=Path, action="append", required=True, help=text)
    add("--output", type=Path, required=True, help="data/NAME")


def add_tiles(
    add: Callable[..., Any], size_px: int | None, overlap_px: int, whole: Sequence[str]
) -> None:
    """Add the arguments about tiles, with the defaults of a data set, and ``--workers``."""
    text = "cut images to at most this side in pixels"
    add("--tile-size", type=non_negative_int, default=size_px, help=text)
    text = "least overlap of train tiles in pixels; val and test tiles never overlap, because an "
    text += "evaluated pixel must be counted once"
    add("--overlap", type=non_negative_int, default=overlap_px, help=text)
    add("--keep-whole", nargs="*", default=list(whole), choices=SPLITS, help="splits not to cut")
    text = "count and ignore pixels whose colour belongs to no class, instead of refusing them"
    add("--unknown-to-ignore", action="store_true", help=text)
    add("--workers", type=positive_int, default=default_workers(), help="images at a time")


def add_isprs_arguments(add: Callable[..., Any], splits: Mapping[str, NamedSplit]) -> None:
    """Add the arguments of the two ISPRS sets, Potsdam and Vaihingen."""
    add_source(add)
    names = "; ".join(f"{name}: {split.source}" for name, split in splits.items())
    add("--split", default="geoseg", help=f"published split. {names}")
    add("--dsm", action="store_true", help="import the surface model as the modality dsm")
    add_range(add, "dsm in metres")
    add_tiles(add, size_px=1024, overlap_px=128, whole=("val", "test"))


def prepare_isprs(
    args: argparse.Namespace,
    name: str,
    splits: Mapping[str, NamedSplit],
    find_sources: FindSources,
    channels: str,
    **chosen: Collection[str],
) -> None:
    """Prepare one of the two ISPRS sets, unless that was done with the same settings.

    Args:
        args: parsed arguments of the command.
        name: its name: potsdam or vaihingen.
        splits: published splits of the set, by name.
        find_sources: finds the files of the source images with the given ids, and the bands of
            them to read.
        channels: of the images.
        **chosen: ``skip`` and ``in_place`` of ``open_archives``.
    """
    split = find_split(args.split, splits, name)
    ranges = {"dsm": value_range(args)}
    if args.range and not args.dsm:
        raise ConfigError("--range needs --dsm")

    def plan_of(archives: Archives, shared: dict[str, Any]) -> Plan:
        sources, rendering = find_sources(archives, args, split.sources())
        return Plan(
            name=name,
            origin=f"ISPRS 2D semantic labelling, {name.capitalize()}",
            classes=ISPRS_CLASSES,
            sources={key: [sources[i] for i in ids] for key, ids in split.lists.items()},
            split=split,
            channels=channels,
            rendering=rendering,
            mask_kind="color",
            ranges=ranges,
            **shared,
        )

    prepare_published(args, name, plan_of, **chosen)


def prepare_published(
    args: argparse.Namespace,
    command: str,
    plan_of: Callable[[Archives, dict[str, Any]], Plan],
    **chosen: Collection[str],
) -> None:
    """Prepare a published data set, unless that was done with the same settings.

    Args:
        args: parsed arguments of the command.
        command: its name.
        plan_of: makes the plan from the files found and the fields that ``shared_fields`` returns.
        **chosen: ``skip`` and ``in_place`` of ``open_archives``.
    """
    shared = shared_fields(args, _NO_SETTINGS, command=command)
    if is_prepared(args.output, shared["prepared_with"]):
        return
    scratch = args.output.parent / f".{args.output.name}.unpacked"
    with open_archives(args.source, scratch, **chosen) as archives:
        plan = plan_of(archives, shared)
        summary = prepare(args.output, plan, args.workers)
    print(summary)


def shared_fields(
    args: argparse.Namespace, left_out: Collection[str], **more: Any
) -> dict[str, Any]:
    """Return the fields of a ``Plan`` that every set takes from its arguments.

    ``dataset.json`` records the arguments, without those left out, and the further settings.
    """
    given = {key: value for key, value in vars(args).items() if key not in left_out}
    return {
        "tiling": Tiling(
            tile_size_px=args.tile_size, overlap_px=args.overlap, keep_whole=tuple(args.keep_whole)
        ),
        "unknown_to_ignore": args.unknown_to_ignore,
        "prepared_with": json.loads(json.dumps(given | more, default=str)),
    }
