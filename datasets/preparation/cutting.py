"""Cutting of one image, read once from the top down, into the tiles of its sources.

Memory holds a strip of rows and the tiles that it touches, however large the image is.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema import IGNORE_INDEX
from datasets.preparation.classes import Counts, Decoded
from datasets.preparation.labels import OpenLabels
from datasets.preparation.writer import write_tile
from datasets.sources import SourceFacts, pixel_hash
from datasets.tile_set import Tile, count_classes, count_values
from utils.boxes import Box
from utils.errors import DataError
from utils.rasters.reading import Raster

_STRIP_ROWS = 512
_STRIP_PX = 1 << 24  # at most: a strip of a wide image has fewer rows
_LARGEST_BYTES = 1 << 32  # of a TIFF file


@dataclass(eq=False)
class _SourceCut:
    """A source of the image in progress."""

    id: str
    box: Box
    tiles: list[Tile]
    counts: np.ndarray = field(default_factory=lambda: np.zeros(IGNORE_INDEX + 1, np.int64))
    num_no_data: int = 0
    written: list[dict[str, Any]] = field(default_factory=list)
    num_empty: int = 0  # tiles without a pixel that holds data

    def __post_init__(self) -> None:
        self.pixels = pixel_hash((self.box.height_px, self.box.width_px))


@dataclass(eq=False)
class _OpenTile:
    """A tile that is filled from strips."""

    tile: Tile
    source: _SourceCut
    image: np.ndarray
    targets: dict[str, np.ndarray]
    valid: np.ndarray | None


@dataclass(eq=False)
class _LabelTally:
    """Findings in the labels of one kind."""

    unknown: Counter[str] = field(default_factory=Counter)
    num_repaired: int = 0
    num_no_data: int = 0
    num_tagged: int = 0
    num_outside: int = 0
    hint: str | None = None

    def add(self, decoded: Decoded) -> None:
        """Add the findings in a strip."""
        self.unknown.update(decoded.unknown)
        self.num_repaired += decoded.num_repaired
        self.num_no_data += decoded.num_no_data
        self.num_tagged += decoded.num_tagged
        self.num_outside += decoded.num_outside
        self.hint = self.hint or decoded.hint


class ImageCutter:
    """Cutter of one open image.

    Args:
        folder: root of the unfinished set.
        image: the open image.
        labels: its labels by kind; empty if they are hidden.
        sources: id, box and tiles of every source in the image.
        num_classes: number of classes.
        goes_on: whether to write on, given that this image has unknown labels or not.
    """

    def __init__(
        self,
        folder: Path,
        image: Raster,
        labels: Mapping[str, OpenLabels],
        sources: Sequence[tuple[str, Box, list[Tile]]],
        num_classes: int,
        goes_on: Callable[[bool], bool],
    ) -> None:
        self._folder, self._image, self._labels = folder, image, labels
        self._sources = [_SourceCut(*source) for source in sources]
        self._num_classes, self._goes_on = num_classes, goes_on
        self._tallies = {kind: _LabelTally() for kind in labels}
        self._waiting = [(tile, source) for source in self._sources for tile in source.tiles]
        self._waiting.sort(key=lambda each: -each[0].top_px)  # the topmost last
        self._open: list[_OpenTile] = []

    def cut(self, image_id: str) -> dict[str, Any]:
        """Read the image to its end, write its tiles, and return plain values about it."""
        image = self._image
        for rows in _strips(image.size):
            pixels = image.read_rgb(rows, slice(None))
            valid = image.read_mask(rows, slice(None)) if image.has_mask else None
            targets = {}
            for kind, labels in self._labels.items():
                decoded = labels.decode(rows)
                self._tallies[kind].add(decoded)
                targets[kind] = decoded.target
                if valid is not None:
                    decoded.target[~valid] = IGNORE_INDEX
            for source in self._sources:
                _count(source, rows, pixels, targets.get("full"), valid)
            if self._goes_on(any(tally.unknown for tally in self._tallies.values())):
                self._fill_tiles(rows, pixels, targets, valid)
        return self._record(image_id)

    def _fill_tiles(
        self,
        rows: slice,
        pixels: np.ndarray,
        targets: Mapping[str, np.ndarray],
        valid: np.ndarray | None,
    ) -> None:
        """Copy a strip to the tiles that it touches, and write those that are complete."""
        while self._waiting and self._waiting[-1][0].top_px < rows.stop:
            self._open.append(self._begin(*self._waiting.pop()))
        still_open = []
        for each in self._open:
            tile = each.tile
            top, bottom = max(rows.start, tile.top_px), min(rows.stop, tile.bottom_px)
            there = slice(top - rows.start, bottom - rows.start), tile.slices[1]
            here = slice(top - tile.top_px, bottom - tile.top_px)
            each.image[here] = pixels[there]
            for kind, target in each.targets.items():
                target[here] = targets[kind][there]
            if each.valid is not None and valid is not None:
                each.valid[here] = valid[there]
            if bottom < tile.bottom_px:
                still_open.append(each)
            else:
                self._write(each)
        self._open = still_open

    def _begin(self, tile: Tile, source: _SourceCut) -> _OpenTile:
        size = tile.height_px, tile.width_px
        if 3 * size[0] * size[1] >= _LARGEST_BYTES:
            raise DataError(
                f"{self._image.path} is {size[0]} x {size[1]} pixels, too large for one tile; cut "
                "it with --tile-size"
            )
        return _OpenTile(
            tile=tile,
            source=source,
            image=np.empty((*size, 3), np.uint8),
            targets={kind: np.empty(size, np.uint8) for kind in self._labels},
            valid=np.empty(size, bool) if self._image.has_mask else None,
        )

    def _write(self, each: _OpenTile) -> None:
        source, valid = each.source, each.valid
        if valid is not None and not valid.any() and len(source.tiles) > 1:
            source.num_empty += 1
            return
        write_tile(self._folder, each.tile, each.image, each.targets, valid)
        full = each.targets.get("full")
        pixels = None if full is None else count_classes(full, self._num_classes)
        source.written.append({"tile": asdict(each.tile), "pixels": pixels})

    def _record(self, image_id: str) -> dict[str, Any]:
        """Return the findings, which a resumed run reads again."""
        image, tallies = self._image, self._tallies
        unknown: dict[str, dict[str, Any]] = {
            kind: {"in": self._labels[kind].name, "counts": _sorted(tally.unknown)}
            for kind, tally in tallies.items()
            if tally.unknown
        }
        hints = {tally.hint for tally in tallies.values() if tally.hint}
        return {
            "image": str(image.path),
            "unknown": unknown,
            "hint": min(hints, default=None),
            "num_label_pixels": len(tallies) * image.size[0] * image.size[1],
            "num_repaired": {k: t.num_repaired for k, t in tallies.items() if t.num_repaired},
            "num_label_no_data": sum(tally.num_no_data for tally in tallies.values()),
            "num_tagged": sum(tally.num_tagged for tally in tallies.values()),
            "num_outside": sum(tally.num_outside for tally in tallies.values()),
            "empty": [labels.name for labels in self._labels.values() if labels.is_empty],
            "apart": {
                labels.name: labels.apart for labels in self._labels.values() if labels.apart
            },
            "num_warped": sum(labels.is_warped for labels in self._labels.values()),
            "assumes_bands": image.assumes_bands,
            "has_busy_alpha": image.has_busy_alpha(),
            "sources": {
                source.id: self._source_record(image_id, source) for source in self._sources
            },
        }

    def _source_record(self, image_id: str, source: _SourceCut) -> dict[str, Any]:
        box, place = source.box, self._image.placement
        crs, transform = (place.crs, place.transform) if place is not None else (None, None)
        facts = SourceFacts(
            image=image_id,
            size=self._image.size,
            box=box,
            sha256=source.pixels.hexdigest(),
            crs=None if crs is None else crs.to_wkt(),
            transform=None if transform is None else tuple(transform[:6]),
        )
        order = {tile.id: number for number, tile in enumerate(source.tiles)}
        return {
            "tiles": sorted(source.written, key=lambda each: order[each["tile"]["id"]]),
            "pixels": source.counts.tolist() if "full" in self._labels else None,
            "num_pixels": box.height_px * box.width_px,
            "num_no_data": source.num_no_data,
            "num_empty": source.num_empty,
            "facts": facts.to_plain(),
        }


def _strips(size: tuple[int, int]) -> Iterator[slice]:
    num_rows = max(1, min(_STRIP_ROWS, _STRIP_PX // size[1]))
    for top in range(0, size[0], num_rows):
        yield slice(top, min(top + num_rows, size[0]))


def _count(
    source: _SourceCut,
    rows: slice,
    pixels: np.ndarray,
    target: np.ndarray | None,
    valid: np.ndarray | None,
) -> None:
    """Count the pixels of a source in a strip, each once: overlapping tiles share some."""
    top, bottom = max(rows.start, source.box.top_px), min(rows.stop, source.box.bottom_px)
    if top >= bottom:
        return
    there = slice(top - rows.start, bottom - rows.start), source.box.slices[1]
    source.pixels.update(np.ascontiguousarray(pixels[there]).data)
    if target is not None:
        source.counts += count_values(target[there])
    if valid is not None:
        source.num_no_data += int(np.count_nonzero(~valid[there]))


def _sorted(counts: Counter[str]) -> Counts:
    return dict(sorted(counts.items()))
