"""ISPRS Potsdam: 38 images of 6000 x 6000 pixels of 0.05 m, from the official archives.

``Potsdam.zip`` contains the archives that are named below; they may be given in it, by themselves
or unpacked. ``top_potsdam_2_10_RGB.tif`` is the image of tile 2_10.
"""

import argparse
from collections.abc import Callable
from typing import Any

from datasets.preparation.archives import ArchiveFile, Archives
from datasets.preparation.arguments import add_isprs_arguments, prepare_isprs
from datasets.preparation.classes import LabelRepair
from datasets.preparation.pipeline import Source
from datasets.tile_set import NamedSplit
from utils.rasters.rendering import AS_STORED, Rendering

_TRAIN = (
    *("2_10", "2_11", "2_12", "3_10", "3_11", "3_12", "4_10", "4_11", "4_12", "5_10", "5_11"),
    *("5_12", "6_7", "6_8", "6_9", "6_10", "6_11", "6_12"),
    *("7_7", "7_8", "7_9", "7_10", "7_11", "7_12"),
)
_TEST = (
    *("2_13", "2_14", "3_13", "3_14", "4_13", "4_14", "4_15", "5_13", "5_14", "5_15"),
    *("6_13", "6_14", "6_15", "7_13"),
)
_SSRS_TEST = ("2_11", "3_10", "4_10", "5_11", "6_11", "7_12")


def _without(tiles: tuple[str, ...], *left_out: str) -> tuple[str, ...]:
    return tuple(tile for tile in tiles if tile not in left_out)


SPLITS = {
    split.name: split
    for split in (
        NamedSplit(
            name="official",
            source="the benchmark's own 24 and 14 tiles, no val, as mmsegmentation's converter",
            lists={"train": _TRAIN, "test": _TEST},
        ),
        NamedSplit(
            name="geoseg",
            source="GeoSeg and its descendants: val 2_10, train without 7_10 (wrong labels)",
            lists={"train": _without(_TRAIN, "2_10", "7_10"), "val": ("2_10",), "test": _TEST},
        ),
        NamedSplit(
            name="ssrs",
            source="SSRS (CMFNet to MFNet, EVSR): 18 and 6 of the 24 train tiles, no val",
            lists={"train": _without(_TRAIN, *_SSRS_TEST), "test": _SSRS_TEST},
        ),
    )
}
# Faults of the official files, as reported by independent preparations of the set.
REPAIRS = {
    "4_12": LabelRepair(why="the label was saved with losses", threshold=128),
    "6_7": LabelRepair(why="cars are (252, 255, 0)", colors=(((252, 255, 0), (255, 255, 0)),)),
}
LACKS_COLUMNS_PX = {"3_13": 1}  # of the surface models: 5999 wide
_IMAGES = {"rgb": "2_Ortho_RGB.zip", "irrg": "3_Ortho_IRRG.zip"}  # by bands
_RGBIR, _DSM, _NDSM = "4_Ortho_RGBIR.zip", "1_DSM.zip", "1_DSM_normalisation.zip"
_BANDS = {"rgb": (1, 2, 3), "irrg": (4, 1, 2)}  # of the files with four


def add_arguments(add: Callable[..., Any]) -> None:
    """Add the arguments of ``prepare.py potsdam``."""
    add_isprs_arguments(add, SPLITS)
    add("--bands", choices=tuple(_IMAGES), default="rgb", help="the three bands of the image")
    text = "import the normalised surface model (8 bit, LAStools) as the modality ndsm"
    add("--ndsm", action="store_true", help=text)


def run(args: argparse.Namespace) -> None:
    """Run ``prepare.py potsdam``."""
    skip = [name for bands, name in _IMAGES.items() if bands != args.bands]
    skip += [name for name, asked in ((_DSM, args.dsm), (_NDSM, args.ndsm)) if not asked]
    chosen = {"skip": [name.lower() for name in skip], "in_place": [_RGBIR.lower()]}
    prepare_isprs(args, "potsdam", SPLITS, _find_sources, args.bands, **chosen)


def _find_sources(
    archives: Archives, args: argparse.Namespace, tiles: tuple[str, ...]
) -> tuple[dict[str, Source], Rendering]:
    images, rendering = _find_images(archives, args.bands, tiles)
    full = archives.require(
        "label",
        {tile: f"top_potsdam_{tile}_label.tif" for tile in tiles},
        "5_Labels_all.zip (or 5_Labels_for_participants.zip, which lacks the test tiles)",
    )
    eroded = archives.find({tile: f"top_potsdam_{tile}_label_noBoundary.tif" for tile in tiles})
    rasters: dict[str, dict[str, ArchiveFile]] = {}
    padded = {tile: "_".join(part.zfill(2) for part in tile.split("_")) for tile in tiles}
    if args.dsm:
        names = {tile: f"dsm_potsdam_{padded[tile]}.tif" for tile in tiles}
        rasters["dsm"] = archives.require("surface model", names, _DSM)
    if args.ndsm:
        names = {tile: f"dsm_potsdam_{padded[tile]}_normalized_lastools.jpg" for tile in tiles}
        rasters["ndsm"] = archives.require("normalised surface model", names, _NDSM)
    sources = {
        tile: Source(
            id=tile,
            image=images[tile],
            labels={"full": full[tile], **({"eroded": eroded[tile]} if tile in eroded else {})},
            rasters={name: members[tile] for name, members in rasters.items()},
            repair=REPAIRS.get(tile),
            lacks_columns_px=LACKS_COLUMNS_PX.get(tile, 0),
        )
        for tile in tiles
    }
    return sources, rendering


def _find_images(
    archives: Archives, bands: str, tiles: tuple[str, ...]
) -> tuple[dict[str, ArchiveFile], Rendering]:
    """Return the images, and their bands to read if only those with four bands are complete."""
    four = archives.find({tile: f"top_potsdam_{tile}_RGBIR.tif" for tile in tiles})
    names = {tile: f"top_potsdam_{tile}_{bands.upper()}.tif" for tile in tiles}
    if len(four) == len(tiles) and len(archives.find(names)) < len(tiles):
        return four, Rendering(bands=_BANDS[bands], alpha_is_data=True)
    return archives.require(f"{bands.upper()} image", names, _IMAGES[bands]), AS_STORED
