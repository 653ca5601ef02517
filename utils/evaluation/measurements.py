"""All measurements of an evaluation besides its confusion matrix, in one pass over the images.

Integers are counted per image and added over images and ranks, so the result does not depend on how
images are distributed. The tables grow with the numbers of classes and source images only.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from utils.distributed import DistContext
from utils.evaluation.bootstrap import Intervals, bootstrap
from utils.evaluation.boundary import COUNTS as BOUNDARY_COUNTS
from utils.evaluation.boundary import WIDTHS_PX, BoundaryScores, boundary_counts, boundary_scores
from utils.evaluation.calibration import COUNTS as CALIBRATION_COUNTS
from utils.evaluation.calibration import NUM_BINS, Calibration, calibration, calibration_counts
from utils.evaluation.evaluate import TileAssembler
from utils.evaluation.metrics import Scores, scores
from utils.evaluation.objects import COUNTS as OBJECT_COUNTS
from utils.evaluation.objects import SIZE_NAMES, ObjectScores, object_counts, object_scores
from utils.evaluation.protocols import LabelPlan, Protocol, protocols_of, sentence_of


@dataclass(frozen=True, kw_only=True)
class ProtocolScores:
    """Scores under one protocol."""

    protocol: Protocol
    sentence: str  # states the classes and labels that are counted
    scores: Scores
    intervals: Intervals | None


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Results of an evaluation: everything that a report states."""

    confusion: Tensor  # (C, C) int64, rows = target, columns = prediction
    sources: tuple[str, ...]  # names of the S source images, sorted
    source_confusions: Tensor  # (S, C, C) int64, one per source image; their sum is the one above
    left_out: tuple[str, ...]  # classes excluded from the means below
    scores: Scores
    intervals: Intervals | None  # None: fewer than two source images
    boundaries: BoundaryScores | None  # on full labels; None: the data set has none
    objects: ObjectScores
    all_objects: ObjectScores  # one row: all classes together
    calibration: Calibration
    protocols: tuple[ProtocolScores, ...]
    impossible: tuple[Protocol, ...]  # protocols whose labels the data set lacks
    conditions: str  # what all scores depend on: images, unit, windows, augmentation


class Measurements:
    """Counts over the images of this rank.

    Args:
        classes: names of the C classes.
        sources: names of the source images of the split, of all ranks.
        labels: kinds of label. Measurements outside the protocols use those of the headline, except
            that borders are measured on full labels: eroded ones leave them out.
    """

    def __init__(self, classes: Sequence[str], sources: Iterable[str], labels: LabelPlan) -> None:
        num_classes = len(classes)
        self._sources = tuple(sorted({*sources}))
        self._place = {source: number for number, source in enumerate(self._sources)}
        self._classes, self._labels = tuple(classes), labels
        shape = (len(self._sources), num_classes, num_classes)
        self._confusions = {kind: torch.zeros(shape, dtype=torch.int64) for kind in labels.kinds}
        self._boundaries = np.zeros((len(WIDTHS_PX), num_classes, len(BOUNDARY_COUNTS)), np.int64)
        self._objects = np.zeros((num_classes, len(SIZE_NAMES), len(OBJECT_COUNTS)), np.int64)
        self._calibration = np.zeros((NUM_BINS, len(CALIBRATION_COUNTS)), np.int64)

    def add_strip(self, target: Tensor, logits: Tensor, classes: Tensor) -> None:
        """Measure calibration on rows of an image: ``on_strip`` of ``evaluate``."""
        self._calibration += calibration_counts(
            logits.cpu().numpy(), target.numpy(), classes.numpy()
        )

    def add(self, image: TileAssembler) -> None:
        """Measure all else of an image: ``on_image`` of ``evaluate``."""
        predicted, num_classes = image.prediction.numpy(), len(self._classes)
        for kind, confusion in image.confusions.items():
            self._confusions[kind][self._place[image.source]] += confusion
        if "full" in self._labels.kinds:
            full = image.targets["full"].numpy()
            self._boundaries += boundary_counts(full, predicted, num_classes)
        self._objects += object_counts(image.target.numpy(), predicted, num_classes)

    def findings(
        self, dist: DistContext, left_out: Sequence[str] = (), conditions: str = ""
    ) -> Findings:
        """Return the results over all ranks; the means exclude the classes ``left_out``.

        Call on all ranks. ``conditions`` are those of ``utils.evaluation.protocols.conditions_of``.
        """

        def total(counts: Tensor) -> Tensor:
            return dist.sum(counts.to(dist.device)).cpu()

        by_kind = {kind: total(self._confusions[kind]) for kind in self._labels.kinds}
        confusions = by_kind[self._labels.headline]
        boundaries, objects, confidence = (
            total(torch.from_numpy(counts)).numpy()
            for counts in (self._boundaries, self._objects, self._calibration)
        )
        without = [self._classes.index(name) for name in left_out]
        protocols = protocols_of(self._classes)
        return Findings(
            confusion=confusions.sum(0),
            sources=self._sources,
            source_confusions=confusions,
            left_out=tuple(left_out),
            scores=scores(confusions.sum(0), without),
            intervals=bootstrap(confusions.numpy(), without),
            boundaries=boundary_scores(boundaries) if "full" in by_kind else None,
            objects=object_scores(objects),
            all_objects=object_scores(objects.sum(axis=0, keepdims=True)),
            calibration=calibration(confidence),
            protocols=tuple(
                _protocol_scores(by_kind[p.labels], p, self._classes, self._labels)
                for p in protocols
                if p.labels in by_kind
            ),
            impossible=tuple(p for p in protocols if p.labels not in by_kind),
            conditions=conditions,
        )


def _protocol_scores(
    confusions: Tensor, protocol: Protocol, classes: Sequence[str], labels: LabelPlan
) -> ProtocolScores:
    """Return the scores of ``(sources, C, C)`` int64, of the protocol's kind of label."""
    counted = protocol.apply(confusions, classes)
    without = protocol.not_in_mean(classes)
    return ProtocolScores(
        protocol=protocol,
        sentence=sentence_of(protocol, labels),
        scores=scores(counted.sum(0), without),
        intervals=bootstrap(counted.numpy(), without),
    )
