"""Evaluation protocols of the field as named objects: which classes and labels a score counts.

A protocol needs one confusion matrix of its kind of labels. Everything else that a score depends on
(unit, windows, test-time augmentation, split) is the same for all protocols of an evaluation and is
stated by ``conditions_of``.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from configs.schema import EvalConfig, Labels
from datasets.tile_set import TileSet
from utils.errors import ConfigError
from utils.evaluation.morphology import RADIUS_PX


@dataclass(frozen=True, kw_only=True)
class LabelPlan:
    """Kinds of label that an evaluation scores on, by name."""

    headline: str  # kind of all scores outside the protocols
    kinds: tuple[str, ...]  # all kinds that are scored on
    read: tuple[str, ...]  # kinds read from the data set; the first is the target of a batch

    @property
    def is_made(self) -> bool:
        """Return True if eroded labels are computed from the full ones."""
        return "eroded" in self.kinds and "eroded" not in self.read

    def phrase(self, kind: str) -> str:
        """Describe a kind of label, e.g. ``full``."""
        if kind == "full":
            return kind
        if self.is_made:
            return f"eroded, computed from the full ones with a disc of {RADIUS_PX} px"
        return "eroded, as published with the data set"


def plan_labels(available: Collection[str], headline: str, also: Collection[str] = ()) -> LabelPlan:
    """Plan to score on the headline, and ``also`` on kinds that protocols need where possible.

    ``available`` are the kinds that the data set has; eroded labels are computed from full ones.
    """
    possible = {*available, *(("eroded",) if "full" in available else ())}
    kinds = tuple(kind for kind in ("full", "eroded") if kind in possible & {headline, *also})
    assert headline in kinds
    read = {kind if kind in available else "full" for kind in kinds}
    first = headline if headline in read else "full"
    return LabelPlan(headline=headline, kinds=kinds, read=(first, *sorted(read - {first})))


def plan_split_labels(
    tile_set: TileSet, split: str, headline: str, also: Collection[str] = ()
) -> LabelPlan:
    """Plan the labels of a split, as ``plan_labels`` does.

    Raises:
        MissingDataError: the labels of the split are hidden, or the set has none of the kind.
    """
    kinds = tile_set.kinds_of(split)
    tile_set.require_labels(split, headline if headline in kinds else "full")
    return plan_labels(kinds, headline, also)


_TURNS = {1: "", 2: ", each also mirrored", 8: ", each in all flips and quarter turns"}


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Classes and labels that a family of papers counts."""

    name: str
    labels: Labels  # kind of label that is scored on
    left_out: tuple[str, ...] = ()  # classes excluded from the means, kept in the confusion matrix
    removed: tuple[str, ...] = ()  # classes whose target pixels are ignored
    sentence: str  # states the classes that are counted

    def not_in_mean(self, classes: Sequence[str]) -> list[int]:
        """Return the indices of the classes excluded from the means."""
        return [classes.index(name) for name in (*self.left_out, *self.removed)]

    def apply(self, confusion: Tensor, classes: Sequence[str]) -> Tensor:
        """Return confusion matrices ``(..., C, C)`` without target pixels of removed classes."""
        rows = torch.tensor([classes.index(name) for name in self.removed], dtype=torch.long)
        return confusion.index_fill(-2, rows, 0)


_ALL = "means over all classes that occur; OA over all pixels that are not ignored"
# For data sets with the class clutter: those of ISPRS, and data sets modelled on them.
WITH_CLUTTER = (
    Protocol(name="mmsegmentation", labels="eroded", sentence=_ALL),
    Protocol(
        name="GeoSeg, SSRS",
        labels="eroded",
        left_out=("clutter",),
        sentence=(
            "means over all classes but clutter, whose pixels stay in the confusion matrix: "
            "predicting a class on clutter costs that class, and OA counts clutter"
        ),
    ),
    Protocol(
        name="VSGNet config",
        labels="full",
        removed=("clutter",),
        sentence=(
            "target pixels of clutter are ignored, in the means and in OA; predicting clutter "
            "elsewhere is an error, because this network has the class"
        ),
    ),
    Protocol(name="all classes", labels="full", sentence=_ALL),
)
# For all others, such as LoveDA, whose labels are not eroded: both kinds of label.
WITHOUT_CLUTTER = (
    Protocol(name="mmsegmentation", labels="full", sentence=_ALL),
    Protocol(name="without borders", labels="eroded", sentence=_ALL),
)


def protocols_of(classes: Sequence[str]) -> tuple[Protocol, ...]:
    """Return the protocols in use for a data set with these classes."""
    return WITH_CLUTTER if "clutter" in classes and len(classes) > 1 else WITHOUT_CLUTTER


def conditions_of(config: EvalConfig, data: str) -> str:
    """Describe what a score depends on besides network, classes and labels: enough to repeat it.

    ``data`` describes the images.
    """
    unit = "each tile on its own"
    if config.unit == "source":
        unit = (
            "whole source images; the logits of overlapping tiles are averaged with weights that "
            "fall linearly over the overlap"
        )
    windows = f"windows of {config.window_px} px"
    if config.overlap_px:
        windows += (
            f" overlapping by at least {config.overlap_px} px, logits averaged with weights that "
            "fall linearly over the overlap"
        )
    views = "no test-time augmentation"
    if config.scales != (1.0,) or config.turns > 1:
        scales = ", ".join(f"{scale:g}" for scale in config.scales)
        views = f"softmax averaged over the scales {scales}{_TURNS[config.turns]}"
    return f"{data}; {unit}; {windows}; {views}; one confusion matrix of all pixels"


def sentence_of(protocol: Protocol, labels: LabelPlan) -> str:
    """State the classes and labels that a protocol counts."""
    return f"labels {labels.phrase(protocol.labels)}; {protocol.sentence}"


def indices_left_out(names: Sequence[str], classes: Sequence[str]) -> list[int]:
    """Return the class indices of ``eval.mean_without``.

    Raises:
        ConfigError: the data set has no such class, or no class would be left.
    """
    if unknown := [name for name in names if name not in classes]:
        raise ConfigError(
            f"eval.mean_without names {', '.join(unknown)}; the data set has {', '.join(classes)}"
        )
    if len(set(names)) == len(classes):
        raise ConfigError("eval.mean_without names every class; keep one in the mean")
    return [classes.index(name) for name in names]
