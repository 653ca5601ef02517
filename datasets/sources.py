"""Sources of a prepared set: identity and place of the images that its tiles were cut from."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

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


def pixel_hash(size: tuple[int, int]) -> "hashlib._Hash":
    """Return the SHA-256 of an image of a height and width, to be updated with its RGB rows.

    It depends on the pixels alone: not on names, formats or tiles.
    """
    return hashlib.sha256(f"{size[0]} x {size[1]} RGB\n".encode())


def write_sources(root: Path, sources: Mapping[str, SourceFacts]) -> None:
    """Write ``sources.json`` of a set."""
    plain = {}
    for source, facts in sorted(sources.items()):
        box = facts.box
        place = [box.top_px, box.left_px, box.height_px, box.width_px]
        plain[source] = asdict(facts) | {"box": place}
    write_json(root / _FILE, plain)


def read_sources(root: Path) -> dict[str, SourceFacts]:
    """Read ``sources.json`` of a set."""
    return {
        source: SourceFacts(
            image=facts["image"],
            size=(facts["size"][0], facts["size"][1]),
            box=Box(*facts["box"]),
            sha256=facts["sha256"],
            crs=facts["crs"],
            transform=tuple(facts["transform"]) if facts["transform"] else None,
        )
        for source, facts in read_json(root / _FILE).items()
    }
