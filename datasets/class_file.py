"""The class file: which colours or values in a user's masks mean which class.

JSON, for example::

    {"classes": [{"name": "building", "color": "#3C1098", "value": 1}, ...],
     "ignore": {"colors": ["#9B9B9B"], "values": [0]}}

``color`` is what colour masks hold and what pictures are painted with, as ``"#RRGGBB"`` or
``[r, g, b]``. ``value`` is what index masks hold; left out, it is the position in the list.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from configs.schema import IGNORE_INDEX
from datasets.tiles import Color
from utils.errors import ConfigError, DataError
from utils.files import open_image, read_json

_UNKNOWN = 254  # class index of a colour or value that the class file does not name
Counts = dict[str, int]


@dataclass(frozen=True, kw_only=True)
class ClassFile:
    """Names, colours and raw values of the classes, in the order of their indices."""

    names: tuple[str, ...]
    colors: tuple[Color, ...]
    values: tuple[int, ...]
    ignore_colors: tuple[Color, ...]
    ignore_values: tuple[int, ...]

    def color_table(self) -> np.ndarray:
        """Class index of every 24-bit RGB colour, ``(2**24,)`` uint8."""
        table = np.full(1 << 24, _UNKNOWN, np.uint8)
        for color in self.ignore_colors:
            table[_pack(color)] = IGNORE_INDEX
        for index, color in enumerate(self.colors):
            table[_pack(color)] = index
        return table

    def value_table(self) -> np.ndarray:
        """Class index of every 8-bit value, ``(256,)`` uint8."""
        table = np.full(256, _UNKNOWN, np.uint8)
        table[list(self.ignore_values)] = IGNORE_INDEX
        table[list(self.values)] = np.arange(len(self.values))
        return table


class MaskDecoder:
    """Mask files -> class indices; whatever is unknown is counted, not guessed.

    Args:
        classes: the class file.
        kind: ``color``, ``index``, or ``auto``: greyscale files are indices, all others (also
            palette files) are colours.
    """

    def __init__(self, classes: ClassFile, kind: str = "auto") -> None:
        self._kind = kind
        self._colors, self._values = classes.color_table(), classes.value_table()

    def read(self, path: Path) -> tuple[np.ndarray, Counts]:
        """Read a mask.

        Returns:
            ``(H, W)`` uint8 class indices, 255 = ignore or unknown; pixels of each unknown colour
            (as ``#RRGGBB``) or value.

        Raises:
            DataError: it has more than 8 bits a channel, or not the kind asked for.
        """
        image = open_image(path)
        if image.mode not in ("1", "L", "P", "RGB", "RGBA"):
            raise DataError(
                f"{path} has mode {image.mode}; masks must be 8-bit greyscale, palette or RGB files"
            )
        is_index = image.mode in ("1", "L") if self._kind == "auto" else self._kind == "index"
        if is_index and image.mode in ("RGB", "RGBA"):
            raise DataError(
                f"{path} has mode {image.mode}, not class values; use --label-kind color"
            )
        return self._decode_values(image) if is_index else self._decode_colors(image)

    def _decode_values(self, image: Image.Image) -> tuple[np.ndarray, Counts]:
        raw = np.array(image).astype(np.uint8)
        target = self._values[raw]
        values, counts = np.unique(raw[target == _UNKNOWN], return_counts=True)
        unknown = {str(value): int(n) for value, n in zip(values, counts, strict=True)}
        target[target == _UNKNOWN] = IGNORE_INDEX
        return target, unknown

    def _decode_colors(self, image: Image.Image) -> tuple[np.ndarray, Counts]:
        rgb = np.array(image.convert("RGB")).astype(np.int32)
        packed = rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]
        target = self._colors[packed]
        colors, counts = np.unique(packed[target == _UNKNOWN], return_counts=True)
        unknown = {f"#{color:06X}": int(n) for color, n in zip(colors, counts, strict=True)}
        target[target == _UNKNOWN] = IGNORE_INDEX
        return target, unknown


def read_class_file(path: Path) -> ClassFile:
    """Read and check a class file.

    Raises:
        MissingDataError, DataError: the file is missing or not JSON.
        ConfigError: it does not say what it should; names the entry.
    """
    content = read_json(path)
    entries = content.get("classes") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not 1 <= len(entries) <= _UNKNOWN:
        raise ConfigError(f"{path} must have a list 'classes' of 1 to {_UNKNOWN} entries")
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise ConfigError(f"{path}: classes[{number}] needs a 'name' and a 'color'")
    ignore = content.get("ignore", {})
    classes = ClassFile(
        names=tuple(entry["name"] for entry in entries),
        colors=tuple(_color(e.get("color"), f"{path}: class '{e['name']}'") for e in entries),
        values=tuple(_value(e.get("value", i), path) for i, e in enumerate(entries)),
        ignore_colors=tuple(_color(c, f"{path}: ignore") for c in ignore.get("colors", [])),
        ignore_values=tuple(_value(value, path) for value in ignore.get("values", [])),
    )
    groups: dict[str, tuple[Any, ...]] = {
        "name": classes.names,
        "color": (*classes.colors, *classes.ignore_colors),
        "value": (*classes.values, *classes.ignore_values),
    }
    for what, group in groups.items():
        twice = [item for item in group if group.count(item) > 1]
        if twice:
            raise ConfigError(f"{path} gives the {what} {twice[0]} to two entries")
    return classes


def _pack(color: Color) -> int:
    return color[0] << 16 | color[1] << 8 | color[2]


def _color(value: Any, where: str) -> Color:
    if isinstance(value, str) and len(value) == 7 and value[0] == "#":
        try:
            packed = int(value[1:], 16)
        except ValueError:
            packed = -1
        if packed >= 0:
            return packed >> 16, packed >> 8 & 255, packed & 255
    if isinstance(value, list) and len(value) == 3:
        if all(type(channel) is int and 0 <= channel <= 255 for channel in value):
            return value[0], value[1], value[2]
    raise ConfigError(f"{where}: the color must be '#RRGGBB' or [r, g, b] in 0..255, not {value!r}")


def _value(value: Any, path: Path) -> int:
    if type(value) is not int or not 0 <= value <= 255:
        raise ConfigError(f"{path}: a value must be a whole number in 0..255, not {value!r}")
    return value
