"""Done markers: one small file for every finished image, so that the next run skips it."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from configs.schema import Config
from datasets.structure_maps import map_settings
from utils.errors import UserError
from utils.files import read_json, sha256_of
from utils.inference.inputs import Input
from utils.inference.results import OutputSettings
from utils.rasters.rendering import Rendering
from utils.rasters.sources import files_of
from utils.training.checkpoint import Checkpoint

# Keys of ``model`` that act in training only, or that the checkpoint's hash already covers.
_NOT_IN_RESULT = ("drop_path", "head_dropout", "recompute", "rgb_vit", "structure_vit")


@dataclass(frozen=True, kw_only=True)
class DoneMarker:
    """The record of a finished image, written after all of its results."""

    image: str  # path of the image file
    file: tuple[int, ...]  # see ``input_state``
    digest: str  # of everything that decides the results, see ``settings_digest``
    result: str  # name of the results
    kinds: tuple[str, ...]
    size: tuple[int, int]  # height and width
    pixels: tuple[int, ...]  # of each class
    pixel_area_m2: float | None  # None: unknown
    thumbnail: str  # of the overlay, a JPEG in base64


def settings_digest(
    checkpoint: Checkpoint,
    config: Config,
    rendering: Rendering,
    output: OutputSettings,
    map_source: str,
) -> str:
    """Return a hash of the checkpoint and of the settings that decide its results, nothing else.

    Args:
        checkpoint: its file is hashed.
        config: its recipe, possibly overridden.
        rendering: of the images.
        output: its options of polygons decide; its kinds do not, see ``is_done``.
        map_source: ``kind`` of the structure maps' source; generated maps of a large image differ
            from stored ones at the borders of chunks.
    """
    structure, model, evaluation = config.structure, config.model, config.eval
    decisive = [
        sha256_of(checkpoint.path),
        [structure.control, structure.modalities, structure.absent],
        {name: [of.encodings, map_settings(of)] for name, of in structure.selected().items()},
        {key: value for key, value in asdict(model).items() if key not in _NOT_IN_RESULT},
        [(vit.name, vit.layers, vit.input_scale) for vit in (model.rgb_vit, model.structure_vit)],
        [evaluation.window_px, evaluation.overlap_px, evaluation.scales, evaluation.turns],
        config.run.precision,
        rendering.to_plain(),
        [output.min_area, output.simplify_m],
        map_source,
    ]
    return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()


def file_state(image: Path) -> tuple[int, ...]:
    """Return sizes in bytes and modification times in ns of an image file and its side files."""
    found = [file.stat() for file in files_of(image) if file.is_file()]
    return tuple(number for each in found for number in (each.st_size, each.st_mtime_ns))


def input_state(image: Input) -> tuple[int, ...]:
    """Return the states of an image, and of the pixels of a tile that hold data."""
    return file_state(image.path) + (file_state(image.valid) if image.valid is not None else ())


def read_marker(output: OutputSettings, result: Path) -> DoneMarker | None:
    """Return the marker of an image; None if there is none, or an unreadable one."""
    try:
        value: dict[str, Any] = read_json(output.marker(result))
        lists = {key: tuple(value[key]) for key in ("file", "kinds", "size", "pixels")}
        return DoneMarker(**{**value, **lists})
    except (UserError, TypeError, KeyError):
        return None


def is_done(output: OutputSettings, image: Input, digest: str) -> bool:
    """Return True if all results of an image exist, made from this file with these settings."""
    marker = read_marker(output, image.result)
    if marker is None or marker.digest != digest or not {*output.kinds} <= {*marker.kinds}:
        return False
    if not image.path.is_file() or marker.file != input_state(image):
        return False
    return all(output.path(kind, image.result).is_file() for kind in output.kinds)
