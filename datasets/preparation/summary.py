"""What a preparation prints when it is done."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from configs.schema import IGNORE_INDEX

_NUM_LISTED = 20  # unknown colours in an error; a lossy mask has thousands
Record = dict[str, Any]  # what is known of a source image once it is done: plain values


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What was prepared. Pixels are those of the source images: overlaps count once."""

    num_sources: dict[str, int]  # by split
    num_tiles: dict[str, int]  # by split
    num_pixels: dict[str, np.ndarray]  # by split: (num_classes + 1,) int64, the last is ignored
    unknown: Counter[str]  # pixels of every unknown colour or value, turned to ignore
    num_hidden: dict[str, int] = field(default_factory=dict)  # pixels of splits without labels
    notes: tuple[str, ...] = ()  # lines that the table has no room for

    def table(self, names: tuple[str, ...]) -> str:
        """Lay it out with the splits across, numbers and class shares down; notes below."""
        splits = list(self.num_sources)
        labelled = {split: int(self.num_pixels[split].sum()) for split in splits}
        totals = {split: labelled[split] or self.num_hidden.get(split, 0) for split in splits}
        rows = [
            ("", splits),
            ("images", [str(self.num_sources[split]) for split in splits]),
            ("tiles", [str(self.num_tiles[split]) for split in splits]),
            ("megapixels", [f"{totals[split] / 1e6:.1f}" for split in splits]),
        ]
        for index, name in enumerate((*names, "ignored")):
            cells = [
                f"{100 * self.num_pixels[split][index] / labelled[split]:.1f} %"
                if labelled[split]
                else "hidden"
                for split in splits
            ]
            rows.append((name, cells))
        width = max(len(name) for name, _ in rows)
        lines = [
            name.ljust(width) + "".join(f"{cell:>12}" for cell in cells) for name, cells in rows
        ]
        for index, name in enumerate(names):
            if "train" in splits and self.num_pixels["train"][index] == 0:
                lines.append(f"warning: no training pixel is of class '{name}'")
        for key, count in self.unknown.most_common():
            lines.append(f"ignored: {count:,} pixels of the unknown {key}")
        return "\n".join([*lines, *self.notes])


def summarize(
    *, splits: list[str], records: list[Record], num_classes: int, notes: tuple[str, ...]
) -> Summary:
    """Sum up the records of all sources, each in the split of the same place."""
    num_tiles: Counter[str] = Counter()
    num_hidden: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    pixels = {split: np.zeros(IGNORE_INDEX + 1, np.int64) for split in splits}
    for split, record in zip(splits, records, strict=True):
        num_tiles[split] += len(record["tiles"])
        if record["pixels"] is None:
            num_hidden[split] += record["num_pixels"]
        else:
            pixels[split] += np.array(record["pixels"])
        for found in record["unknown"].values():
            unknown.update(found["counts"])
    kept = [*range(num_classes), IGNORE_INDEX]
    return Summary(
        num_sources=dict(Counter(splits)),
        num_tiles=dict(num_tiles),
        num_pixels={split: counts[kept] for split, counts in pixels.items()},
        unknown=unknown,
        num_hidden=dict(num_hidden),
        notes=notes,
    )


def describe_unknown(records: list[Record], text: tuple[str, str]) -> str:
    """The error for colours and values that no class has: all of them, counted.

    Args:
        records: of all sources.
        text: who does not know these colours, and what to do.
    """
    unknown: Counter[str] = Counter()
    example: dict[str, str] = {}
    total = 0
    for record in records:
        total += record["num_label_pixels"]
        for found in record["unknown"].values():
            unknown.update(found["counts"])
            for key in found["counts"]:
                example.setdefault(key, found["in"])
    lines = "".join(
        f"\n  {key}: {count:,} pixels ({count / total:.3%}), e.g. in {example[key]}"
        for key, count in unknown.most_common(_NUM_LISTED)
    )
    more = len(unknown) - _NUM_LISTED
    lines += f"\n  and {more} more" if more > 0 else ""
    suffixes = {PurePosixPath(name).suffix.lower() for name in example.values()}
    lossy = "; JPEG blurs colours, masks should be PNG" if suffixes & {".jpg", ".jpeg"} else ""
    return (
        f"the masks hold {len(unknown)} colours or values that {text[0]} "
        f"({unknown.total() / total:.3%} of all pixels{lossy}); {text[1]}:{lines}"
    )
