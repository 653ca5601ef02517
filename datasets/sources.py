"""Sources of a prepared set: identity and place of the images that its tiles were cut from."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from utils.boxes import Box
from utils.files import read_json, write_json

_FILE = "sources.json"


@dataclass(frozen=True, kw_only=True)
class SourceFacts:
    """Identity and place of a source."""

    image: str  # id of the image that it is, or is a block of
    size: tuple[int, int]  # height and width of the image
    box: Box  # the source in the image
    sha256: str  # of its RGB pixels, see ``pixel_hash``
    crs: str | None = None  # of the image, as WKT
    transform: tuple[float, ...] | None = None  # of the image: (a, b, c, d, e, f) of Affine

    def to_plain(self) -> dict[str, Any]:
        """Return plain values for JSON files."""
        box = self.box
        place = [box.top_px, box.left_px, box.height_px, box.width_px]
        return asdict(self) | {"box": place}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "SourceFacts":
        """Return the facts that ``to_plain`` was made from; ``ValueError`` for a broken place."""
        transform = tuple(map(float, plain["transform"])) if plain["transform"] else None
        if transform is not None:
            a, b, _, d, e, _ = transform
            if not 0 < abs(a * e - b * d) < math.inf:  # NaN neither
                raise ValueError(f"the transform {transform} places no pixel")
        return cls(
            image=plain["image"],
            size=(plain["size"][0], plain["size"][1]),
            box=Box(*plain["box"]),
            sha256=plain["sha256"],
            crs=plain["crs"],
            transform=transform,
        )


def pixel_hash(size: tuple[int, int]) -> "hashlib._Hash":
    """Return the SHA-256 of an image of a height and width, to be updated with its RGB rows.

    It depends on the pixels alone: not on names, formats or tiles.
    """
    return hashlib.sha256(f"{size[0]} x {size[1]} RGB\n".encode())


def write_sources(root: Path, sources: Mapping[str, SourceFacts]) -> None:
    """Write ``sources.json`` of a set."""
    write_json(root / _FILE, {source: sources[source].to_plain() for source in sorted(sources)})


def read_sources(root: Path) -> dict[str, SourceFacts]:
    """Read ``sources.json`` of a set."""
    plain = read_json(root / _FILE)
    return {source: SourceFacts.from_plain(facts) for source, facts in plain.items()}
