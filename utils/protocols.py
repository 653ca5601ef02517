"""Which classes a published number counts: the conventions of this field as named objects.

All of them follow from one confusion matrix. Split, labels and window are in a report's header.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from utils.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Which classes a family of papers counts, and how that is told."""

    name: str
    left_out: tuple[str, ...] = ()  # of the means; in the confusion matrix all the same
    removed: tuple[str, ...] = ()  # target pixels of these classes are ignored
    sentence: str

    def applies_to(self, classes: Sequence[str]) -> bool:
        """Whether a data set has the classes that are treated apart, and others."""
        apart = {*self.left_out, *self.removed}
        return apart <= set(classes) and len(classes) > len(apart)

    def not_in_mean(self, classes: Sequence[str]) -> list[int]:
        """Indices of the classes that the means do not count."""
        return [classes.index(name) for name in (*self.left_out, *self.removed)]

    def apply(self, confusion: Tensor, classes: Sequence[str]) -> Tensor:
        """The confusion matrix, or several ``(..., C, C)``, without removed target pixels."""
        rows = torch.tensor([classes.index(name) for name in self.removed], dtype=torch.long)
        return confusion.index_fill(-2, rows, 0)


PROTOCOLS = (
    Protocol(
        name="mmsegmentation",
        sentence="means over all classes that occur; OA over all pixels that are not ignored",
    ),
    Protocol(
        name="GeoSeg, SSRS",
        left_out=("clutter",),
        sentence=(
            "means over all classes but clutter, whose pixels stay in the confusion matrix: taking "
            "clutter for a class costs that class, and OA counts clutter"
        ),
    ),
    Protocol(
        name="VSGNet config",
        removed=("clutter",),
        sentence=(
            "target pixels of clutter are ignored, in the means and in OA; predicting clutter "
            "elsewhere is an error, for this network knows the class"
        ),
    ),
)


def protocols_of(classes: Sequence[str]) -> tuple[Protocol, ...]:
    """The protocols that are usual for a data set of these classes; the first for any."""
    return tuple(protocol for protocol in PROTOCOLS if protocol.applies_to(classes))


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
