"""What the commands for published data sets share: arguments, and the way from them to disk."""

import argparse
import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from datasets.preparation import tiling
from datasets.preparation.archives import Archives
from datasets.preparation.pipeline import Plan, prepare
from datasets.preparation.tiling import Tiling, tiling_of
from datasets.tile_set import is_prepared
from utils.arguments import add_workers

_SOURCE_HELP = (
    "archive as published, or a folder of such archives or of what they hold, with the official "
    "names; repeatable"
)
_UNKNOWN_HELP = "count pixels of colours that no class has and ignore them, do not refuse"
_NO_SETTINGS = ("run", "output", "source", "workers")  # they change nothing in the set


def add_source(add: Callable[..., Any]) -> None:
    """Where from, and where to."""
    add("--source", type=Path, action="append", required=True, help=_SOURCE_HELP)
    add("--output", type=Path, required=True, help="data/NAME")


def add_tiles(
    add: Callable[..., Any], size_px: int | None, overlap_px: int, whole: Sequence[str]
) -> None:
    """How to cut, with the defaults of the data set, and how to work."""
    tiling.add_arguments(add, size_px, overlap_px, whole)
    add("--unknown-to-ignore", action="store_true", help=_UNKNOWN_HELP)
    add_workers(add)


def prepare_published(
    args: argparse.Namespace,
    command: str,
    plan_of: Callable[[Archives, Tiling, dict[str, Any]], Plan],
    skip: Collection[str] = (),
    in_place: Collection[str] = (),
) -> None:
    """Prepare what the arguments say, unless that is done.

    Args:
        args: of the command.
        command: its name.
        plan_of: what to do with what is found; gets the settings to record.
        skip: see ``Archives``, as ``in_place``.
        in_place: archives that are not worth unpacking.
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
