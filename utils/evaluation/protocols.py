"""What a published number counts: the conventions of this field as named objects.

A protocol names classes and labels; it needs one confusion matrix of these labels. Everything else
that a number depends on (unit, windows, test-time augmentation, split) is the same for all
protocols of an evaluation, and told by ``conditions_of``.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from configs.schema import EvalConfig, Labels
from utils.errors import ConfigError
from utils.evaluation.morphology import RADIUS_PX

KINDS = ("full", "eroded")


@dataclass(frozen=True, kw_only=True)
class LabelPlan:
    """Kinds of label, by name."""

    headline: str  # of the figures that are not a protocol's
    kinds: tuple[str, ...]  # that are scored on
    read: tuple[str, ...]  # from the data set; the first is the target of a batch

    @property
    def is_made(self) -> bool:
        """Whether eroded labels are made of the full ones."""
        return "eroded" in self.kinds and "eroded" not in self.read

    def phrase(self, kind: str) -> str:
        """What labels these are, such as ``full``."""
        if kind == "full":
            return kind
        if self.is_made:
            return f"eroded, made of the full ones with a disc of {RADIUS_PX} px"
        return "eroded, as the data set has them"


def plan_labels(available: Collection[str], headline: str, also: Collection[str] = ()) -> LabelPlan:
    """Plan to score on one kind, and on others where that is possible.

    Args:
        available: what the data set has. Of full labels, eroded ones can be made.
        headline: must be available, or made.
        also: kinds that other figures need.
    """
    has_full = "full" in available
    kinds = tuple(
        kind
        for kind in KINDS
        if kind in {headline, *also} and (kind in available or (kind == "eroded" and has_full))
    )
    assert headline in kinds
    read = {kind if kind in available else "full" for kind in kinds}
    first = headline if headline in read else "full"
    return LabelPlan(headline=headline, kinds=kinds, read=(first, *sorted(read - {first})))


_TURNS = {1: "", 2: ", each also mirrored", 8: ", each in all flips and quarter turns"}


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Which classes and labels a family of papers counts, and how that is told."""

    name: str
    labels: Labels  # that are scored on
    left_out: tuple[str, ...] = ()  # of the means; in the confusion matrix all the same
    removed: tuple[str, ...] = ()  # target pixels of these classes are ignored
    sentence: str  # about the classes

    def not_in_mean(self, classes: Sequence[str]) -> list[int]:
        """Indices of the classes that the means do not count."""
        return [classes.index(name) for name in (*self.left_out, *self.removed)]

    def apply(self, confusion: Tensor, classes: Sequence[str]) -> Tensor:
        """The confusion matrix, or several ``(..., C, C)``, without removed target pixels."""
        rows = torch.tensor([classes.index(name) for name in self.removed], dtype=torch.long)
        return confusion.index_fill(-2, rows, 0)


_ALL = "means over all classes that occur; OA over all pixels that are not ignored"
# Of data sets with the class clutter: those of ISPRS, and whoever takes them for a model.
WITH_CLUTTER = (
    Protocol(name="mmsegmentation", labels="eroded", sentence=_ALL),
    Protocol(
        name="GeoSeg, SSRS",
        labels="eroded",
        left_out=("clutter",),
        sentence=(
            "means over all classes but clutter, whose pixels stay in the confusion matrix: taking "
            "clutter for a class costs that class, and OA counts clutter"
        ),
    ),
    Protocol(
        name="VSGNet config",
        labels="full",
        removed=("clutter",),
        sentence=(
            "target pixels of clutter are ignored, in the means and in OA; predicting clutter "
            "elsewhere is an error, for this network knows the class"
        ),
    ),
    Protocol(name="all classes", labels="full", sentence=_ALL),
)
# Of all others, such as LoveDA, where nothing is eroded: what another choice of labels would give.
WITHOUT_CLUTTER = (
    Protocol(name="mmsegmentation", labels="full", sentence=_ALL),
    Protocol(name="without borders", labels="eroded", sentence=_ALL),
)


def protocols_of(classes: Sequence[str]) -> tuple[Protocol, ...]:
    """The protocols that are usual for a data set of these classes."""
    return WITH_CLUTTER if "clutter" in classes and len(classes) > 1 else WITHOUT_CLUTTER


def conditions_of(config: EvalConfig, data: str) -> str:
    """What a figure depends on besides network, classes and labels: enough to repeat it.

    Args:
        config: how the images are predicted and scored.
        data: which ones.
    """
    unit = "every tile by itself"
    if config.unit == "source":
        unit = (
            "whole source images; where they lie in tiles that overlap, the logits are averaged "
            "with weights that fall linearly over the overlap"
        )
    windows = f"windows of {config.window_px} px"
    if config.overlap_px:
        windows += (
            f" that share {config.overlap_px} px or more, logits averaged with weights that fall "
            "linearly over the overlap"
        )
    views = "no test-time augmentation"
    if config.scales != (1.0,) or config.turns > 1:
        scales = ", ".join(f"{scale:g}" for scale in config.scales)
        views = f"softmax averaged over the scales {scales}{_TURNS[config.turns]}"
    return f"{data}; {unit}; {windows}; {views}; one confusion matrix of all pixels"


def sentence_of(protocol: Protocol, labels: LabelPlan) -> str:
    """Which classes and labels a protocol counts."""
    return f"labels {labels.phrase(protocol.labels)}; {protocol.sentence}"


def indices_left_out(names: Sequence[str], classes: Sequence[str]) -> list[int]:
    """Class indices of ``eval.mean_without``.

    Raises:
        ConfigError: the data set has no such class, or no other.
    """
    if unknown := [name for name in names if name not in classes]:
        raise ConfigError(
            f"eval.mean_without names {', '.join(unknown)}; the data set has {', '.join(classes)}"
        )
    if len(set(names)) == len(classes):
        raise ConfigError("eval.mean_without names every class; one at least must stay in the mean")
    return [classes.index(name) for name in names]
