"""Targets and prediction of what is scored at once, put together from its tiles."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from configs.schema import IGNORE_INDEX
from utils.errors import DataError
from utils.evaluation.label_plan import LabelPlan
from utils.evaluation.metrics import confusion_matrix
from utils.evaluation.morphology import RADIUS_PX, erode
from utils.evaluation.sliding_window import Window
from utils.evaluation.stitching import stitch
from utils.evaluation.units import Place, Unit


class StripPredictor(Protocol):
    """What is needed of a ``utils.evaluation.evaluate.Predictor``."""

    def strips(
        self, image: Tensor, maps: dict[str, Tensor], structure_image: Tensor | None = None
    ) -> Iterator[tuple[slice, Tensor]]:
        """Logits of one image from the top down."""


class Canvas:
    """One unit, from the top down: a row is done when no tile and no border can change it.

    Every tile is predicted with its own image and structure maps; their logits are blended where
    they overlap. Eroded labels that the data set lacks are made of the full ones of the whole unit.
    Class indices and targets of the unit are held; images, maps and logits only of the tiles in
    work.

    Args:
        unit: source and places of the tiles.
        labels: kinds of target.
        num_classes: C.
        keep_tiles: for ``finished_tiles``.

    Attributes:
        source: name of the source image.
        targets: ``(H, W)`` uint8 by kind, 255 = ignored, or in no tile.
        prediction: ``(H, W)`` uint8.
        confusions: ``(C, C)`` int64 by kind, of the rows that are done.
    """

    def __init__(
        self, unit: Unit, labels: LabelPlan, num_classes: int, *, keep_tiles: bool = False
    ) -> None:
        self.source = unit.source
        self.targets = {
            kind: torch.full(unit.size, IGNORE_INDEX, dtype=torch.uint8)
            for kind in {*labels.kinds, *labels.read}
        }
        self.prediction = torch.zeros(unit.size, dtype=torch.uint8)
        self.confusions = {
            kind: torch.zeros(num_classes, num_classes, dtype=torch.int64) for kind in labels.kinds
        }
        self._unit, self._labels, self._num_classes = unit, labels, num_classes
        self._windows = unit.windows()
        self._keep_tiles = keep_tiles
        self._waiting: list[tuple[Window, Any]] = []  # tiles that are not done
        self._done = 0

    @property
    def target(self) -> Tensor:
        """Of the headline."""
        return self.targets[self._labels.headline]

    def strips(
        self, predictor: StripPredictor, batches: Iterable[Any]
    ) -> Iterator[tuple[slice, Tensor]]:
        """Rows and their logits; each must be told to ``finish`` before the next is asked for.

        Args:
            predictor: of tiles.
            batches: one of each tile (``datasets.dataset.Batch``), in their order.

        Raises:
            DataError: a tile has another size than its place, or tiles that overlap disagree.
        """

        def predictions() -> Iterator[Iterator[tuple[slice, Tensor]]]:
            places = zip(self._unit.tiles, self._windows, batches, strict=True)
            for tile, window, batch in places:
                self._paste(tile, window, batch)
                if self._keep_tiles:
                    self._waiting.append((window, batch))
                yield predictor.strips(batch.image, batch.maps, batch.structure_image)

        yield from stitch(self._windows, predictions(), RADIUS_PX if self._labels.is_made else 0)

    def _paste(self, tile: Place, window: Window, batch: Any) -> None:
        """Put the targets of a tile into their place. Where tiles overlap, they must agree."""
        expected = (tile.height_px, tile.width_px)
        if (size := tuple(batch.target.shape[1:])) != expected:
            raise DataError(
                f"tile '{tile.id}' is {size} and tiles.csv says {expected} (height, width); "
                "prepare the data set again"
            )
        for kind, target in zip(
            self._labels.read, (batch.target, *batch.more_targets), strict=True
        ):
            place, new = self.targets[kind][window], target[0]
            clash = (place != new) & (place != IGNORE_INDEX) & (new != IGNORE_INDEX)
            if num := int(clash.sum()):
                raise DataError(
                    f"tile '{tile.id}' and others of the source image '{tile.source}' disagree "
                    f"about {num} pixels that they share ({kind} labels); prepare the data set "
                    "again"
                )
            place.copy_(new)

    def finish(self, rows: slice, classes: Tensor) -> None:
        """Take the class indices of rows, and count them."""
        self.prediction[rows] = classes
        self._done = rows.stop
        if self._labels.is_made:
            first = max(0, rows.start - RADIUS_PX)
            around = self.targets["full"][first : rows.stop + RADIUS_PX]
            eroded = torch.from_numpy(erode(around.numpy()))
            self.targets["eroded"][rows] = eroded[rows.start - first : rows.stop - first]
        for kind, confusion in self.confusions.items():
            confusion += confusion_matrix(self.targets[kind][rows], classes, self._num_classes)

    def finished_tiles(self) -> Iterator[tuple[Any, Tensor, Tensor]]:
        """Tiles that are done and were not given before: batch, prediction, confusion matrix.

        They are as the unit is: blended, with the target of the headline.
        """
        tiles, self._waiting = self._waiting, []
        for window, batch in tiles:
            if window[0].stop > self._done:
                self._waiting.append((window, batch))
                continue
            target, prediction = self.target[window], self.prediction[window]
            if self._labels.is_made and self._labels.headline == "eroded":
                batch = replace(batch, target=target.unsqueeze(0))
            if len(self._windows) == 1:
                counts = self.confusions[self._labels.headline]
            else:
                counts = confusion_matrix(target, prediction, self._num_classes)
            yield batch, prediction, counts
