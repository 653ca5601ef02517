"""ISPRS Vaihingen: 33 images of various sizes, 0.09 m, near infrared, red and green.

Read from the official archives, packed or unpacked. Images and labels share their file names,
``top_mosaic_09cm_area1.tif``, and are distinguished by the folder or the archive::

    ISPRS_semantic_labeling_Vaihingen.zip                          top/, dsm/, gts_for_participants/
    ISPRS_semantic_labeling_Vaihingen_ground_truth_COMPLETE.zip          the labels of all areas
    ISPRS_semantic_labeling_Vaihingen_ground_truth_eroded_COMPLETE.zip   ..._noBoundary.tif
"""

import argparse
from collections.abc import Callable
from typing import Any

from datasets.preparation.archives import Archives
from datasets.preparation.arguments import add_isprs_arguments, prepare_isprs
from datasets.preparation.pipeline import Source
from datasets.tile_set import NamedSplit
from utils.rasters.rendering import AS_STORED, Rendering

_TRAIN = tuple(map(str, (1, 3, 5, 7, 11, 13, 15, 17, 21, 23, 26, 28, 30, 32, 34, 37)))
_TEST = tuple(map(str, (2, 4, 6, 8, 10, 12, 14, 16, 20, 22, 24, 27, 29, 31, 33, 35, 38)))
_SSRS_TEST = ("5", "15", "21", "30")
SPLITS = {
    split.name: split
    for split in (
        NamedSplit(
            name="official",
            source="the benchmark's own 16 and 17 areas, no val, as mmsegmentation's converter",
            lists={"train": _TRAIN, "test": _TEST},
        ),
        NamedSplit(
            name="geoseg",
            source="GeoSeg and its descendants: the official areas, val 30",
            lists={
                "train": tuple(area for area in _TRAIN if area != "30"),
                "val": ("30",),
                "test": _TEST,
            },
        ),
        NamedSplit(
            name="ssrs",
            source="SSRS (CMFNet to MFNet, EVSR): 12 and 4 of the 16 train areas, no val",
            lists={
                "train": tuple(area for area in _TRAIN if area not in _SSRS_TEST),
                "test": _SSRS_TEST,
            },
        ),
    )
}
_ALL = "ISPRS_semantic_labeling_Vaihingen"


def add_arguments(add: Callable[..., Any]) -> None:
    """Add the arguments of ``prepare.py vaihingen``."""
    add_isprs_arguments(add, SPLITS)


def run(args: argparse.Namespace) -> None:
    """Run ``prepare.py vaihingen``."""
    prepare_isprs(args, "vaihingen", SPLITS, _find_sources, "irrg")


def _find_sources(
    archives: Archives, args: argparse.Namespace, areas: tuple[str, ...]
) -> tuple[dict[str, Source], Rendering]:
    names = {area: f"top_mosaic_09cm_area{area}.tif" for area in areas}
    images = archives.require("image", names, f"{_ALL}.zip", ["top"])
    places = [r"[^/]*ground_truth_COMPLETE", r"gts[^/]*"]  # gts_for_participants lacks the test
    full = archives.require("label", names, f"{_ALL}_ground_truth_COMPLETE.zip", places)
    bordered = {area: f"top_mosaic_09cm_area{area}_noBoundary.tif" for area in areas}
    eroded = archives.find(bordered)
    heights = {area: f"dsm_09cm_matching_area{area}.tif" for area in areas}
    rasters = archives.require("surface model", heights, f"{_ALL}.zip") if args.dsm else {}
    sources = {
        area: Source(
            id=area,
            image=images[area],
            labels={"full": full[area], **({"eroded": eroded[area]} if area in eroded else {})},
            rasters={"dsm": rasters[area]} if args.dsm else {},
        )
        for area in areas
    }
    return sources, AS_STORED
