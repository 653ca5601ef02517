"""Remarks on the images of a run, which are printed once, with a count, not once an image."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

_NUM_NAMED = 3  # images whose warnings are printed in full
_TEXTS = {
    "bands": (
        "with more than three bands, of which neither the file nor --bands names red, green and "
        "blue: the bands 1,2,3 were taken"
    ),
    "alpha": (
        "with an alpha band of many values, whose zeros were taken as no data; if the band is "
        "data, such as near infrared, add --alpha-is-data"
    ),
    "pixels": "without a transform to the earth: polygons are in pixels, rows downwards",
    "empty": "without any pixel that holds data: no class, no area, no polygon",
}


@dataclass
class Remarks:
    """Remarks of one rank.

    Attributes:
        images: kind of remark (of ``_TEXTS``) -> image files.
        warnings: image file -> a sentence of its own.
        is_shown: warnings are printed at once, up to three.
        num_dropped: number of polygons left out because they are small.
    """

    is_shown: bool
    num_dropped: int = 0
    images: dict[str, dict[Path, None]] = field(default_factory=dict)
    warnings: dict[Path, str] = field(default_factory=dict)

    def add(self, kind: str, image: Path) -> None:
        """Remember a remark."""
        self.images.setdefault(kind, {})[image] = None

    def warn(self, image: Path, sentence: str) -> None:
        """Remember a warning, and print it unless there have been many."""
        if self.is_shown and len(self.warnings) < _NUM_NAMED:
            tqdm.write(f"warning: {sentence}")
        self.warnings[image] = sentence


def remaining_lines(ranks: Iterable[Remarks]) -> list[str]:
    """Return what is left to be printed of the remarks of all ranks, the main one first."""
    ranks = [*ranks]
    warnings = {path: text for rank in ranks for path, text in rank.warnings.items()}
    num_shown = min(_NUM_NAMED, len(ranks[0].warnings))
    lines = [f"warning: {text}" for text in [*warnings.values()][num_shown:_NUM_NAMED]]
    if (num := len(warnings) - _NUM_NAMED) > 0:
        lines.append(f"warning: the same holds for {num} more image{'s' * (num > 1)}")
    if num := sum(rank.num_dropped for rank in ranks):
        plural = "s" * (num > 1)
        lines.append(f"{num:,} polygon{plural} smaller than --min-area left out")
    for kind, text in _TEXTS.items():
        images = [*{path: None for rank in ranks for path in rank.images.get(kind, ())}]
        if images:
            plural = "s" * (len(images) > 1)
            lines.append(f"{len(images)} image{plural} {text} (first: {images[0]})")
    return lines
