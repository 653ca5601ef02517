"""All that is measured of an evaluation besides its confusion matrix, in one pass over the images.

Whole numbers are counted for each image and added, over images and ranks alike, so the result does
not depend on how images are shared out. The tables grow with classes and source images only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.bootstrap import Intervals, bootstrap
from utils.boundaries import COUNTS as BOUNDARY_COUNTS
from utils.boundaries import WIDTHS_PX, BoundaryScores, boundary_counts, boundary_scores
from utils.calibration import COUNTS as CALIBRATION_COUNTS
from utils.calibration import NUM_BINS, Calibration, calibration, calibration_counts
from utils.distributed import DistContext
from utils.metrics import Scores, scores
from utils.objects import AREAS_PX, ObjectScores, object_counts, object_scores
from utils.objects import COUNTS as OBJECT_COUNTS
from utils.protocols import Protocol, protocols_of


@dataclass(frozen=True, kw_only=True)
class ProtocolScores:
    """What a family of papers would report."""

    protocol: Protocol
    scores: Scores
    intervals: Intervals | None


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Everything that is reported of an evaluation."""

    confusion: Tensor  # (C, C) int64, rows = target, columns = prediction
    sources: tuple[str, ...]  # names of the S source images, sorted
    source_confusions: Tensor  # (S, C, C) int64, of each of them; their sum is the one above
    left_out: tuple[str, ...]  # classes that the means below do not count
    scores: Scores
    intervals: Intervals | None  # None: fewer than two source images
    boundaries: BoundaryScores | None  # None: the labels hold no borders
    objects: ObjectScores
    all_objects: ObjectScores  # of all classes together: one row
    calibration: Calibration
    protocols: tuple[ProtocolScores, ...]


class Measurements:
    """Counts of the images of this rank.

    Args:
        classes: names of the C classes.
        source_of: the source image of every tile of the split, of all ranks.
        has_borders: whether the labels go up to the borders of objects; eroded ones do not.
    """

    def __init__(
        self, classes: Sequence[str], source_of: Mapping[str, str], *, has_borders: bool
    ) -> None:
        num_classes = len(classes)
        self._sources = tuple(sorted({*source_of.values()}))
        place = {source: number for number, source in enumerate(self._sources)}
        self._classes = tuple(classes)
        self._place = {tile: place[source] for tile, source in source_of.items()}
        self._has_borders = has_borders
        self._confusions = torch.zeros(len(place), num_classes, num_classes, dtype=torch.int64)
        self._boundaries = np.zeros(
            (len(WIDTHS_PX), num_classes, len(BOUNDARY_COUNTS)), dtype=np.int64
        )
        self._objects = np.zeros((num_classes, len(AREAS_PX) + 1, len(OBJECT_COUNTS)), np.int64)
        self._calibration = np.zeros((NUM_BINS, len(CALIBRATION_COUNTS)), dtype=np.int64)

    def add_strip(self, batch: Any, rows: slice, logits: Tensor, classes: Tensor) -> None:
        """Measure confidence in rows of an image: ``on_strip`` of ``utils.evaluation.evaluate``.

        Args:
            batch: of one tile (``datasets.samples.Batch``).
            rows: of the tile.
            logits: ``(C, rows, W)`` float32.
            classes: their class indices ``(rows, W)`` uint8.
        """
        target = batch.target[0, rows].numpy()
        self._calibration += calibration_counts(logits.cpu().numpy(), target, classes.numpy())

    def add(self, batch: Any, prediction: Tensor, confusion: Tensor) -> None:
        """Measure all else of an image: ``on_prediction`` of ``utils.evaluation.evaluate``.

        Args:
            batch: of one tile (``datasets.samples.Batch``).
            prediction: class indices ``(H, W)`` uint8.
            confusion: ``(C, C)`` int64.
        """
        target, predicted = batch.target[0].numpy(), prediction.numpy()
        num_classes = len(self._classes)
        self._confusions[self._place[batch.tile_ids[0]]] += confusion
        if self._has_borders:
            self._boundaries += boundary_counts(target, predicted, num_classes)
        self._objects += object_counts(target, predicted, num_classes)

    def findings(self, dist: DistContext, left_out: Sequence[str] = ()) -> Findings:
        """What all ranks found together. Call on all ranks.

        Args:
            dist: this process.
            left_out: names of classes that the means do not count.
        """

        def total(counts: Tensor) -> Tensor:
            return dist.sum(counts.to(dist.device)).cpu()

        confusions = total(self._confusions)
        boundaries, objects, confidence = (
            total(torch.from_numpy(counts)).numpy()
            for counts in (self._boundaries, self._objects, self._calibration)
        )
        without = [self._classes.index(name) for name in left_out]
        return Findings(
            confusion=confusions.sum(0),
            sources=self._sources,
            source_confusions=confusions,
            left_out=tuple(left_out),
            scores=scores(confusions.sum(0), without),
            intervals=bootstrap(confusions.numpy(), without),
            boundaries=boundary_scores(boundaries) if self._has_borders else None,
            objects=object_scores(objects),
            all_objects=object_scores(objects.sum(axis=0, keepdims=True)),
            calibration=calibration(confidence),
            protocols=protocol_scores(confusions, self._classes),
        )


def protocol_scores(confusions: Tensor, classes: Sequence[str]) -> tuple[ProtocolScores, ...]:
    """The scores of every protocol that is usual for these classes.

    Args:
        confusions: ``(sources, C, C)`` int64.
        classes: C names.
    """
    found = []
    for protocol in protocols_of(classes):
        counted, without = protocol.apply(confusions, classes), protocol.not_in_mean(classes)
        found.append(
            ProtocolScores(
                protocol=protocol,
                scores=scores(counted.sum(0), without),
                intervals=bootstrap(counted.numpy(), without),
            )
        )
    return tuple(found)
