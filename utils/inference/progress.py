"""Done markers: one small file for every finished image, so that the next run skips it."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from configs.schema import Config
from datasets.structure_maps import map_settings
from utils.errors import UserError
from utils.files import read_json, sha256_of, write_json
from utils.inference.inputs import Input
from utils.inference.results import result_path
from utils.training.checkpoint import Checkpoint

FOLDER = "done"
# Keys of ``model`` that act in training only, or that the checkpoint's hash already covers.
_NOT_IN_RESULT = ("drop_path", "head_dropout", "recompute", "rgb_vit", "structure_vit")


@dataclass(frozen=True, kw_only=True)
class DoneMarker:
    """The record of a finished image, written after all of its results."""

    image: str  # path of the image file
    file: tuple[int, int]  # its size in bytes and modification time in ns
    digest: str  # of everything that decides the results, see ``settings_digest``
    result: str  # name of the results
    kinds: tuple[str, ...]
    size: tuple[int, int]  # height and width
    pixels: tuple[int, ...]  # of each class
    pixel_area_m2: float | None  # None: unknown
    thumbnail: str  # of the overlay, a JPEG in base64


def settings_digest(
    checkpoint: Checkpoint, config: Config, stretch: Sequence[float] | None, map_source: str
) -> str:
    """Return a hash of the checkpoint and of the settings that decide its results, nothing else.

    Args:
        checkpoint: its file is hashed.
        config: its recipe, possibly overridden.
        stretch: see ``--stretch``.
        map_source: ``kind`` of the structure maps' source; generated maps of a large image differ
            from stored ones at the borders of chunks.
    """
    structure, evaluation = config.structure, config.eval
    generators = {
        name: [settings.encodings, map_settings(settings)]
        for name, settings in structure.selected().items()
    }
    model = {k: v for k, v in asdict(config.model).items() if k not in _NOT_IN_RESULT}
    vits = (config.model.rgb_vit, config.model.structure_vit)
    windows = [evaluation.window_px, evaluation.overlap_px, evaluation.scales, evaluation.turns]
    settings = [
        [structure.control, structure.modalities, structure.absent, generators],
        [model, [(vit.name, vit.num_layers, vit.join) for vit in vits]],
        windows,
        config.run.precision,
        stretch,
        map_source,
    ]
    text = json.dumps([sha256_of(checkpoint.path), settings])
    return hashlib.sha256(text.encode()).hexdigest()


def file_state(image: Path) -> tuple[int, int]:
    """Return the size of an image file in bytes and its modification time in ns."""
    status = image.stat()
    return status.st_size, status.st_mtime_ns


def write_marker(output: Path, marker: DoneMarker) -> None:
    """Mark an image as done."""
    write_json(marker_path(output, Path(marker.result)), asdict(marker))


def remove_marker(output: Path, result: Path) -> None:
    """Mark an image as not done, before its results are replaced one by one."""
    marker_path(output, result).unlink(missing_ok=True)


def read_marker(output: Path, result: Path) -> DoneMarker | None:
    """Return the marker of an image; None if there is none, or an unreadable one."""
    try:
        value: dict[str, Any] = read_json(marker_path(output, result))
        lists = {key: tuple(value[key]) for key in ("file", "kinds", "size", "pixels")}
        return DoneMarker(**{**value, **lists})
    except (UserError, TypeError, KeyError):
        return None


def is_done(output: Path, image: Input, digest: str, kinds: Sequence[str]) -> bool:
    """Return True if all results of an image exist, made from this file with these settings."""
    marker = read_marker(output, image.result)
    if marker is None or marker.digest != digest or not set(kinds) <= set(marker.kinds):
        return False
    try:
        unchanged = marker.file == file_state(image.path)
    except OSError:
        return False
    return unchanged and all(result_path(output, kind, image.result).is_file() for kind in kinds)


def marker_path(output: Path, result: Path) -> Path:
    """Return the file of a marker; its name is a hash, because that of the result may be long."""
    return output / FOLDER / f"{hashlib.sha256(str(result).encode()).hexdigest()[:24]}.json"
