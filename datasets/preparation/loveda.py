"""LoveDA: 5987 images of 1024 x 1024 pixels of 0.3 m, town and country in three Chinese cities.

From ``Train.zip``, ``Val.zip`` and ``Test.zip``, or the folders they unpack to. The labels of the
test images are hidden: a server scores them. ::

    Train/Urban/images_png/1366.png    8-bit RGB
    Train/Urban/masks_png/1366.png     0 no data, 1 background, 2 building ... 7 agriculture
    Train/Rural/images_png ...         and so on
"""

import argparse
from collections.abc import Callable
from typing import Any

from datasets.preparation.archives import Archives
from datasets.preparation.arguments import add_source, add_tiles, prepare_published
from datasets.preparation.classes import ClassFile
from datasets.preparation.members import Member
from datasets.preparation.pipeline import Plan, Source
from datasets.preparation.tiling import Tiling
from datasets.tile_set import NamedSplit
from utils.errors import MissingDataError

CLASSES = ClassFile(
    names=("background", "building", "road", "water", "barren", "forest", "agriculture"),
    colors=(
        (255, 255, 255),
        (255, 0, 0),
        (255, 255, 0),
        (0, 0, 255),
        (159, 129, 183),
        (0, 255, 0),
        (255, 195, 128),
    ),
    values=(1, 2, 3, 4, 5, 6, 7),
    ignore_colors=(),
    ignore_values=(0,),
)
OFFICIAL_COUNTS = {"train": 2522, "val": 1669, "test": 1796}  # of both domains
_SOURCE = "the authors' own splits of the images (github.com/Junjue-Wang/LoveDA)"
_UNLABELLED = "test"
_DOMAINS = ("urban", "rural")
_NUM_NAMED = 3  # images in an error; the rest is counted


def add_arguments(add: Callable[..., Any]) -> None:
    """Arguments of ``prepare.py loveda``."""
    add_source(add)
    add("--domain", nargs="+", choices=_DOMAINS, default=list(_DOMAINS), help="town, country")
    add_tiles(add, size_px=None, overlap_px=0, whole=())


def run(args: argparse.Namespace) -> None:
    """``prepare.py loveda``."""
    args.domain = sorted(set(args.domain))

    def plan_of(archives: Archives, tiling: Tiling, settings: dict[str, Any]) -> Plan:
        sources = _find_sources(archives, args.domain)
        lists = {split: tuple(s.id for s in members) for split, members in sources.items()}
        whole = len(args.domain) == len(_DOMAINS)
        named = NamedSplit(
            name="official" if whole else f"official-{args.domain[0]}",
            source=_SOURCE,
            lists=lists,
            unlabelled=(_UNLABELLED,) if _UNLABELLED in lists else (),
        )
        return Plan(
            name="loveda",
            origin="LoveDA",
            classes={"full": CLASSES},
            sources=sources,
            split=named,
            tiling=tiling,
            prepared_with=settings,
            mask_kind="index",
            unknown_to_ignore=args.unknown_to_ignore,
            notes=_notes(lists) if whole else (),
        )

    prepare_published(args, "loveda", plan_of)


def _find_sources(archives: Archives, domains: list[str]) -> dict[str, list[Source]]:
    """The images of every split with their masks, in the order of their numbers."""
    images, masks = (_find(archives, domains, what) for what in ("images_png", "masks_png"))
    found: dict[str, list[Source]] = {}
    for split in OFFICIAL_COUNTS:
        numbers = [number for other, number in images if other == split]
        if not numbers and split != _UNLABELLED:
            name = split.capitalize()
            raise MissingDataError(
                f"no image of {name} ({' and '.join(domains)}) is in what --source gives; add "
                f"{name}.zip, or the folder {name} it was unpacked to"
            )
        bare = [number for number in numbers if (split, number) not in masks]
        if bare and split != _UNLABELLED:
            first = ", ".join(bare[:_NUM_NAMED])
            raise MissingDataError(
                f"{len(bare)} of {len(numbers)} images of {split} have no mask (first: {first}); "
                "get the archive again"
            )
        members = [
            Source(
                id=number,
                image=images[split, number],
                labels={} if split == _UNLABELLED else {"full": masks[split, number]},
            )
            for number in sorted(numbers, key=int)
        ]
        if members:
            found[split] = members
    return found


def _find(archives: Archives, domains: list[str], folder: str) -> dict[tuple[str, str], Member]:
    """The files of one kind, by split and number."""
    splits, chosen = "|".join(OFFICIAL_COUNTS), "|".join(domains)
    pattern = rf"({splits})(?:\.zip)?/(?:{chosen})/{folder}/(\d+)\.png"
    found: dict[tuple[str, str], Member] = {}
    for member, match in archives.members(pattern):
        found.setdefault((match[1].lower(), match[2]), member)
    return found


def _notes(lists: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(
        f"warning: {len(lists.get(split, ()))} images of {split}, officially there are {official}"
        for split, official in OFFICIAL_COUNTS.items()
        if len(lists.get(split, ())) != official
    )
