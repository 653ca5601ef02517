"""Command-line arguments shared by several commands of prepare.py, and the preparation they run."""

import argparse
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets.preparation.archives import Archives
from datasets.preparation.pipeline import Plan, prepare
from datasets.preparation.writer import Tiling
from datasets.tile_set import SPLITS, NamedSplit, is_prepared
from utils.arguments import add_workers, non_negative_int
from utils.errors import ConfigError

_SOURCE_HELP = (
    "archive as published, or a folder of such archives or of their content, with the official "
    "names; repeatable"
)
_SIZE_HELP = "cut images to at most this side in pixels"
_OVERLAP_HELP = (
    "least overlap of train tiles in pixels; val and test tiles never overlap, because an "
    "evaluated pixel must be counted once"
)
_UNKNOWN_HELP = "count and ignore pixels whose colour belongs to no class, instead of refusing them"
_DSM_HELP = "import the surface model as the modality dsm"
_RANGE_HELP = (
    "range of the dsm in metres, instead of that of its values; take the range of the set that a "
    "checkpoint was trained on"
)
_NO_SETTINGS = ("run", "output", "source", "workers")  # they do not affect the prepared set


def add_source(add: Callable[..., Any]) -> None:
    """Add ``--source`` and ``--output``."""
    add("--source", type=Path, action="append", required=True, help=_SOURCE_HELP)
    add("--output", type=Path, required=True, help="data/NAME")


def add_tiles(
    add: Callable[..., Any], size_px: int | None, overlap_px: int, whole: Sequence[str]
) -> None:
    """Add the arguments about tiles, with the defaults of a data set, and ``--workers``."""
    add("--tile-size", type=non_negative_int, default=size_px, help=_SIZE_HELP)
    add("--overlap", type=non_negative_int, default=overlap_px, help=_OVERLAP_HELP)
    add("--keep-whole", nargs="*", default=list(whole), choices=SPLITS, help="splits not to cut")
    add("--unknown-to-ignore", action="store_true", help=_UNKNOWN_HELP)
    add_workers(add)


def tiling_of(args: argparse.Namespace) -> Tiling:
    """Return the tiling that the arguments define."""
    return Tiling(
        tile_size_px=args.tile_size, overlap_px=args.overlap, keep_whole=tuple(args.keep_whole)
    )


def add_isprs_arguments(add: Callable[..., Any], splits: Mapping[str, NamedSplit]) -> None:
    """Add the arguments of the two ISPRS sets, Potsdam and Vaihingen."""
    add_source(add)
    names = "; ".join(f"{name}: {split.source}" for name, split in splits.items())
    add("--split", default="geoseg", help=f"published split. {names}")
    add("--dsm", action="store_true", help=_DSM_HELP)
    add("--range", type=float, nargs=2, metavar=("LOW", "HIGH"), help=_RANGE_HELP)
    add_tiles(add, size_px=1024, overlap_px=128, whole=("val", "test"))


def dsm_range(args: argparse.Namespace) -> tuple[float, float] | None:
    """Return the range of the DSM in metres; None: that of its values.

    Raises:
        ConfigError: the range is empty, or no DSM is imported.
    """
    if args.range is None:
        return None
    low, high = args.range
    if not args.dsm:
        raise ConfigError("--range needs --dsm")
    if not low < high:
        raise ConfigError(f"--range is {low:g} {high:g}; the first must be the smaller")
    return low, high


def prepare_published(
    args: argparse.Namespace,
    command: str,
    plan_of: Callable[[Archives, Tiling, dict[str, Any]], Plan],
    skip: Collection[str] = (),
    in_place: Collection[str] = (),
) -> None:
    """Prepare a published data set, unless that was done with the same settings.

    Args:
        args: parsed arguments of the command.
        command: its name.
        plan_of: makes the plan from the files found, the tiling and the settings to record.
        skip: as in ``Archives``.
        in_place: as in ``Archives``.
    """
    cut = tiling_of(args)
    given = {key: value for key, value in vars(args).items() if key not in _NO_SETTINGS}
    settings = json.loads(json.dumps({"command": command, **given}, default=str))
    if is_prepared(args.output, settings):
        return
    scratch = args.output.parent / f".{args.output.name}.unpacked"
    with Archives(args.source, scratch, skip, in_place) as archives:
        plan = plan_of(archives, cut, settings)
        summary = prepare(args.output, plan, args.workers)
    print(summary.table(next(iter(plan.classes.values())).names))
