"""What ``prepare.py check`` finds in the splits: their classes, and pixels that are in two."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from configs.schema import IGNORE_INDEX
from datasets.preparation.check_tiles import Finding, TileFacts
from datasets.tile_set import TileSet

_MANY_IGNORED = 0.2  # share of the pixels that is worth a warning


@dataclass(frozen=True, kw_only=True)
class SplitFacts:
    """What a split holds."""

    is_labelled: bool  # False: its labels are hidden
    num_sources: int
    num_tiles: int
    num_pixels: int  # of the images, as all that follow with overlaps as often as they are seen
    class_pixels: tuple[int, ...]
    ignored_pixels: int
    class_weights: tuple[float, ...] | None  # None: no labelled pixel


def median_frequency_weights(class_pixels: np.ndarray) -> tuple[float, ...] | None:
    """Class weights by median frequency balancing.

    The frequency of a class is its pixels divided by the labelled pixels of the tiles that show
    it; its weight is the median of all frequencies divided by its own. A class that no tile shows
    has weight 0, and is left out of the median.

    Source: Eigen and Fergus, "Predicting Depth, Surface Normals and Semantic Labels with a Common
    Multi-Scale Convolutional Architecture", ICCV 2015, section 6.3.

    Args:
        class_pixels: ``(num_tiles, num_classes)`` pixel counts.

    Returns:
        Factors with four significant digits; None if there is no labelled pixel.
    """
    pixels = class_pixels.sum(0).astype(np.float64)
    if not pixels.any():
        return None
    among = ((class_pixels > 0) * class_pixels.sum(1, keepdims=True)).sum(0)
    shown = pixels > 0
    frequency = np.divide(pixels, among, out=np.zeros_like(pixels), where=shown)
    median = np.median(frequency[shown])
    weights = np.divide(median, frequency, out=np.zeros_like(pixels), where=shown)
    return tuple(float(f"{weight:.4g}") for weight in weights)


def split_facts(tile_set: TileSet, split: str, facts: dict[str, TileFacts]) -> SplitFacts:
    """Count the classes of a split."""
    tile_ids, num_classes = tile_set.splits[split], len(tile_set.classes)
    tiles = [tile_set.tiles[tile_id] for tile_id in tile_ids]
    counts = [facts[tile_id].counts for tile_id in tile_ids]
    table = np.array([c for c in counts if c is not None], np.int64).reshape(-1, IGNORE_INDEX + 1)
    return SplitFacts(
        is_labelled=split not in tile_set.unlabelled,
        num_sources=len({tile.source for tile in tiles}),
        num_tiles=len(tiles),
        num_pixels=sum(tile.height_px * tile.width_px for tile in tiles),
        class_pixels=tuple(table[:, :num_classes].sum(0).tolist()),
        ignored_pixels=int(table[:, IGNORE_INDEX].sum()),
        class_weights=median_frequency_weights(table[:, :num_classes]),
    )


def judge_split(tile_set: TileSet, split: str, found: SplitFacts) -> Iterator[Finding]:
    """Warnings about the classes of a labelled split."""
    total = sum(found.class_pixels) + found.ignored_pixels
    for name, pixels in zip(tile_set.classes, found.class_pixels, strict=True):
        if not pixels and total:
            yield Finding(
                "classes without a pixel",
                f"no pixel of {split} is of class '{name}'; its score there cannot be computed",
            )
    if total and found.ignored_pixels > _MANY_IGNORED * total:
        yield Finding(
            "many ignored pixels",
            f"{found.ignored_pixels / total:.1%} of the pixels of {split} are ignored; check the "
            "classes and the masks if you did not expect that",
        )


def find_duplicates(
    tile_set: TileSet, facts: dict[str, TileFacts]
) -> tuple[list[Finding], list[Finding]]:
    """Tiles with the same pixels; those of one colour do not count.

    Returns:
        Faults: in two splits. Warnings: in one.
    """
    groups: dict[Any, list[tuple[str, str]]] = defaultdict(list)
    for split, tile_ids in tile_set.splits.items():
        for tile_id in dict.fromkeys(tile_ids):
            if facts[tile_id].image_sha256 and not facts[tile_id].is_uniform:
                groups[facts[tile_id].image_sha256].append((split, tile_id))
    faults, warnings = [], []
    for members in groups.values():
        named = ", ".join(f"'{tile_id}' ({split})" for split, tile_id in members)
        if len({split for split, _ in members}) > 1:
            text = f"{named} have the same pixels; take the image out of all splits but one"
            faults.append(Finding("same pixels in two splits", text))
        elif len(members) > 1:
            text = f"{named} have the same pixels; they count more than other tiles"
            warnings.append(Finding("same pixels twice in a split", text))
    return faults, warnings
