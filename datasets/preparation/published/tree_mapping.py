"""Tree mapping: the forest set of the paper, which was never published.

There is no archive to read. Expected is the layout ::

    TREE/train/images/NAME.tif    8-bit RGB, any size, any image format
    TREE/train/labels/NAME.tif    the mask of the same name and size, any lossless format
    TREE/val/images ...           and test, if there is one

Masks with one channel hold 0 for background, 1 for tree and 255 for ignore; RGB and palette masks
hold black for background and green (0, 255, 0) for tree. The rest is as in ``prepare.py folder``.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets.preparation.classes import ClassFile
from datasets.preparation.folder import add_file_arguments, prepare_from_arguments
from datasets.preparation.pairing.pairs import split_folders
from datasets.tile_set import SPLITS
from utils.errors import DataError

CLASSES = ClassFile(
    names=("background", "tree"),
    colors=((0, 0, 0), (0, 255, 0)),
    values=(0, 1),
    ignore_colors=(),
    ignore_values=(255,),
)
_TREE_HELP = "folder with train/images, train/labels, val/images ...; see docs/data.md"


def add_arguments(add: Callable[..., Any]) -> None:
    """Add the arguments of ``prepare.py tree_mapping``."""
    add("--output", type=Path, required=True, help="data/NAME")
    add("--tree", type=Path, required=True, help=_TREE_HELP)
    add_file_arguments(add)


def run(args: argparse.Namespace) -> None:
    """Run ``prepare.py tree_mapping``."""
    if not split_folders(args.tree):
        raise DataError(
            f"{args.tree} has no splits; lay it out as TREE/SPLIT/images and TREE/SPLIT/labels, or "
            "give a class file and lists or shares to 'prepare.py folder'"
        )
    absent: dict[str, Any] = dict.fromkeys(
        ("images", "labels", "shares", "group_by", "blocks", "gap", "background", "attribute")
    )
    absent |= {"seed": 0, "image_suffix": "", "mask_suffix": ""}
    lists = {f"{split}_list": None for split in SPLITS}
    prepare_from_arguments(argparse.Namespace(**vars(args), **absent, **lists), CLASSES)
