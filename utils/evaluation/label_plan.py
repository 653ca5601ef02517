"""Which kinds of label an evaluation scores on, and where it takes them from."""

from collections.abc import Collection
from dataclasses import dataclass

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
