"""What a network makes of its structure: the same images predicted with changed maps, counted.

Whole numbers are counted for each image and added, over images and ranks alike, so the result does
not depend on how images are shared out. The first prediction of an image is that of its maps as
they are; all others are compared with it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from configs.schema import IGNORE_INDEX
from utils.distributed import DistContext
from utils.evaluation.bootstrap import Intervals, bootstrap
from utils.evaluation.metrics import Scores, confusion_matrix, scores
from utils.evaluation.paired import PairedIntervals, paired_intervals


@dataclass(frozen=True, kw_only=True)
class Change:
    """What the network is shown instead of some modalities."""

    name: str  # zeroed, shuffled ...
    modalities: tuple[str, ...]  # one, or all at once
    unmeasured: str | None = None  # why it is not tried

    @property
    def subject(self) -> str:
        """The modality, or what stands for all of them."""
        return self.modalities[0] if len(self.modalities) == 1 else "all modalities"


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What a change does. Scores are fractions in -1..1, shares in 0..1, nan where unknown."""

    change: Change
    confusion: Tensor  # (C, C) int64, with the change
    differences: PairedIntervals  # changed minus as it is
    moved: float  # share of the counted pixels that are predicted as another class
    moved_by_class: tuple[float, ...]  # the same of the target pixels of every class


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """Everything that is reported of an attribution."""

    num_sources: int  # source images with a counted pixel: what the intervals are over
    left_out: tuple[str, ...]  # classes that the means do not count
    confusion: Tensor  # (C, C) int64, as it is
    scores: Scores  # as it is
    intervals: Intervals | None
    changes: tuple[Change, ...]  # all, in order
    effects: tuple[Effect, ...]  # of those that were tried


class ChangeCounts:
    """Counts of the images of this rank.

    Args:
        classes: names of the C classes.
        source_of: the source image of every tile of the split, of all ranks.
        changes: in the order of the predictions; those that are not tried have none.
    """

    def __init__(
        self, classes: Sequence[str], source_of: Mapping[str, str], changes: Sequence[Change]
    ) -> None:
        place = {source: number for number, source in enumerate(sorted({*source_of.values()}))}
        self._classes = tuple(classes)
        self._place = {tile: place[source] for tile, source in source_of.items()}
        self._changes = tuple(changes)
        tried, size = 1 + sum(change.unmeasured is None for change in changes), len(classes)
        self._confusions = torch.zeros(tried, len(place), size, size, dtype=torch.int64)
        self._moved = torch.zeros(tried, size, dtype=torch.int64)  # pixels, by target class

    def add(self, tile_id: str, target: Tensor, predictions: Sequence[Tensor]) -> None:
        """Count an image.

        Args:
            tile_id: which tile of the split.
            target: ``(H, W)`` uint8 class index, 255 = ignore.
            predictions: class indices ``(H, W)`` uint8 of the maps as they are, then of the maps
                with every change that is tried.
        """
        as_it_is, num_classes = predictions[0], len(self._classes)
        place, counted = self._place[tile_id], target != IGNORE_INDEX
        for number, prediction in enumerate(predictions):
            counts = confusion_matrix(target, prediction, num_classes)
            self._confusions[number, place] += counts
            moved = target[counted & (prediction != as_it_is)]
            self._moved[number] += torch.bincount(moved.long(), minlength=num_classes)

    def findings(self, dist: DistContext, left_out: Sequence[str] = ()) -> Attribution:
        """What all ranks found together. Call on all ranks.

        Args:
            dist: this process.
            left_out: names of classes that the means do not count.
        """
        confusions, moved = (
            dist.sum(counts.to(dist.device)).cpu() for counts in (self._confusions, self._moved)
        )
        moved = moved.double()
        without = [self._classes.index(name) for name in left_out]
        total, support = confusions.sum(1), confusions[0].sum((0, 2))
        tried = [change for change in self._changes if change.unmeasured is None]
        effects = []
        for number, change in enumerate(tried, start=1):
            differences = paired_intervals(
                confusions[0].numpy(), confusions[number].numpy(), without
            )
            effects.append(
                Effect(
                    change=change,
                    confusion=total[number],
                    differences=differences,
                    moved=(moved[number].sum() / support.sum()).item(),
                    moved_by_class=tuple((moved[number] / support).tolist()),
                )
            )
        return Attribution(
            num_sources=int(confusions[0].any(-1).any(-1).sum()),
            left_out=tuple(left_out),
            confusion=total[0],
            scores=scores(total[0], without),
            intervals=bootstrap(confusions[0].numpy(), without),
            changes=self._changes,
            effects=tuple(effects),
        )
