"""What the two ISPRS sets, Potsdam and Vaihingen, have in common.

Labels are colours. In the eroded ones, which most papers score against, a border of 3 pixels around
every object is black: ignored. Clutter comes last, so that means over the first five classes, as
many papers give them, are easily told.
"""

import argparse
from collections.abc import Callable, Mapping
from typing import Any

from datasets.preparation.arguments import add_source, add_tiles
from datasets.preparation.classes import ClassFile
from datasets.tile_set import NamedSplit
from utils.errors import ConfigError

_NAMES = ("impervious surface", "building", "low vegetation", "tree", "car", "clutter")
_COLORS = (
    (255, 255, 255),
    (0, 0, 255),
    (0, 255, 255),
    (0, 255, 0),
    (255, 255, 0),
    (255, 0, 0),
)
_BOUNDARY = (0, 0, 0)
CLASSES = {
    kind: ClassFile(
        names=_NAMES,
        colors=_COLORS,
        values=tuple(range(len(_NAMES))),
        ignore_colors=ignored,
        ignore_values=(),
    )
    for kind, ignored in (("full", ()), ("eroded", (_BOUNDARY,)))
}
_DSM_HELP = "import the surface model as the modality dsm"
_RANGE_HELP = "range of the dsm to store instead of its own, in metres: that of a checkpoint's set"


def add_arguments(add: Callable[..., Any], splits: Mapping[str, NamedSplit]) -> None:
    """Arguments of both commands."""
    add_source(add)
    names = "; ".join(f"{name}: {split.source}" for name, split in splits.items())
    add("--split", default="geoseg", help=f"whose split. {names}")
    add("--dsm", action="store_true", help=_DSM_HELP)
    add("--range", type=float, nargs=2, metavar=("LOW", "HIGH"), help=_RANGE_HELP)
    add_tiles(add, size_px=1024, overlap_px=128, whole=("val", "test"))


def dsm_range(args: argparse.Namespace) -> tuple[float, float] | None:
    """What ``--range`` says.

    Raises:
        ConfigError: it is empty, or there is no DSM.
    """
    if args.range is None:
        return None
    low, high = args.range
    if not args.dsm:
        raise ConfigError("--range needs --dsm")
    if not low < high:
        raise ConfigError(f"--range is {low:g} {high:g}; the first must be the smaller")
    return low, high
