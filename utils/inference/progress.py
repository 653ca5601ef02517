"""What is remembered of a segmented image: that it is done, and by what, and what was found."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.files import read_json, write_json
from utils.inference.results import result_path

FOLDER = "records"


@dataclass(frozen=True, kw_only=True)
class Record:
    """One image; written when all of its results are there."""

    image: str  # path of the image file
    file: tuple[int, int]  # its length in bytes, and when it was changed, in ns
    made_by: str  # digest of checkpoint and settings
    result: str  # name of its results
    kinds: tuple[str, ...]
    size: tuple[int, int]  # height and width, in pixels
    pixels: tuple[int, ...]  # of each class
    pixel_area_m2: float | None  # None: not known
    thumbnail: str  # a JPEG of the overlay, base64


def state_of(image: Path) -> tuple[int, int]:
    """What changes when an image file does: its length, and when it was changed."""
    status = image.stat()
    return status.st_size, status.st_mtime_ns


def write_record(output: Path, record: Record) -> None:
    """Remember an image."""
    write_json(_path(output, Path(record.result)), asdict(record))


def drop_record(output: Path, result: Path) -> None:
    """Forget an image that is to be done again: its results may no longer belong together."""
    _path(output, result).unlink(missing_ok=True)


def read_record(output: Path, result: Path) -> Record | None:
    """What is remembered of an image; None: nothing, or nothing of this program."""
    try:
        value: dict[str, Any] = read_json(_path(output, result))
        lists = {key: tuple(value[key]) for key in ("file", "kinds", "size", "pixels")}
        return Record(**{**value, **lists})
    except (UserError, TypeError, KeyError):
        return None


def is_done(output: Path, image: Path, result: Path, made_by: str, kinds: Sequence[str]) -> bool:
    """Whether all wanted results of an image are there, of this file and made like this."""
    record = read_record(output, result)
    if record is None or record.made_by != made_by or not set(kinds) <= set(record.kinds):
        return False
    try:
        same = record.file == state_of(image)
    except OSError:
        return False
    return same and all(result_path(output, kind, result).is_file() for kind in kinds)


def _path(output: Path, result: Path) -> Path:
    """Not under its own name, which may be as long as a file's may be."""
    return output / FOLDER / f"{hashlib.sha256(str(result).encode()).hexdigest()[:24]}.json"
