"""The class file: which colours or values in a user's masks mean which class.

JSON, for example::

    {"classes": [{"name": "building", "color": "#3C1098", "value": 1}, ...],
     "ignore": {"colors": ["#9B9B9B"], "values": [0]}}

``color`` is what colour masks hold and what pictures are painted with, as ``"#RRGGBB"`` or
``[r, g, b]``. ``value`` is what index masks hold; left out, it is the position in the list.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema import IGNORE_INDEX
from datasets.tile_set import Color
from utils.errors import ConfigError
from utils.files import read_json

UNKNOWN = 254  # class index of a colour or value that the class file does not name
MAX_VALUE = 65535


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
        table = np.full(1 << 24, UNKNOWN, np.uint8)
        for color in self.ignore_colors:
            table[pack(color)] = IGNORE_INDEX
        for index, color in enumerate(self.colors):
            table[pack(color)] = index
        return table

    def value_table(self) -> np.ndarray:
        """Class index of every value in 0..65535, ``(65537,)`` uint8; the last entry is unknown."""
        table = np.full(MAX_VALUE + 2, UNKNOWN, np.uint8)
        table[list(self.ignore_values)] = IGNORE_INDEX
        table[list(self.values)] = np.arange(len(self.values))
        return table


def read_class_file(path: Path) -> ClassFile:
    """Read and check a class file.

    Raises:
        MissingDataError, DataError: the file is missing or not JSON.
        ConfigError: it does not say what it should; names the entry.
    """
    content = _section(read_json(path), ("classes", "ignore"), f"{path}")
    entries = content.get("classes")
    if not isinstance(entries, list) or not 1 <= len(entries) <= UNKNOWN:
        raise ConfigError(f"{path} must have a list 'classes' of 1 to {UNKNOWN} entries")
    for number, entry in enumerate(entries):
        name = _section(entry, ("name", "color", "value"), f"{path}: classes[{number}]").get("name")
        if not isinstance(name, str) or not name.strip():
            raise ConfigError(f"{path}: classes[{number}] needs a 'name' and a 'color'")
    ignore = _section(content.get("ignore", {}), ("colors", "values"), f"{path}: ignore")
    for key, items in ignore.items():
        if not isinstance(items, list):
            raise ConfigError(f"{path}: ignore: '{key}' must be a list, not {items!r}")
    classes = ClassFile(
        names=tuple(entry["name"] for entry in entries),
        colors=tuple(_color(e.get("color"), f"{path}: class '{e['name']}'") for e in entries),
        values=tuple(_value(e.get("value", i), path) for i, e in enumerate(entries)),
        ignore_colors=tuple(_color(c, f"{path}: ignore") for c in ignore.get("colors", [])),
        ignore_values=tuple(_value(value, path) for value in ignore.get("values", [])),
    )
    _check_unique(classes, path)
    return classes


def _section(value: Any, known: tuple[str, ...], where: str) -> dict[str, Any]:
    """``value`` as a dictionary with no key but the known ones."""
    if not isinstance(value, dict):
        raise ConfigError(f"{where} must be an object with {', '.join(known)}, not {value!r}")
    for key in value:
        if key not in known:
            raise ConfigError(f"{where} has the unknown key '{key}'; known are {', '.join(known)}")
    return value


def _check_unique(classes: ClassFile, path: Path) -> None:
    groups: dict[str, tuple[Any, ...]] = {
        "name": classes.names,
        "color": (*classes.colors, *classes.ignore_colors),
        "value": (*classes.values, *classes.ignore_values),
    }
    for what, group in groups.items():
        twice = [item for item in group if group.count(item) > 1]
        if twice:
            raise ConfigError(
                f"{path} gives the {what} {twice[0]} to two entries"
                + (" (a class without 'value' has its position)" if what == "value" else "")
            )


def pack(color: Color) -> int:
    """The 24-bit number of a colour."""
    return color[0] << 16 | color[1] << 8 | color[2]


def _color(value: Any, where: str) -> Color:
    if isinstance(value, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        packed = int(value[1:], 16)
        return packed >> 16, packed >> 8 & 255, packed & 255
    if isinstance(value, list) and len(value) == 3:
        if all(type(channel) is int and 0 <= channel <= 255 for channel in value):
            return value[0], value[1], value[2]
    raise ConfigError(f"{where}: the color must be '#RRGGBB' or [r, g, b] in 0..255, not {value!r}")


def _value(value: Any, path: Path) -> int:
    if type(value) is not int or not 0 <= value <= MAX_VALUE:
        raise ConfigError(
            f"{path}: a value must be a whole number in 0..{MAX_VALUE}, not {value!r}"
        )
    return value
