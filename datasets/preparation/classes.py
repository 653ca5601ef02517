"""Class files, and the decoding of masks to class indices.

A class file maps the colours or values of a user's masks to classes. It is JSON, for example::

    {"classes": [{"name": "building", "color": "#3C1098", "value": 1}, ...],
     "ignore": {"colors": ["#9B9B9B"], "values": [0]}}

``color`` is the colour in RGB masks and in the pictures of reports, as ``"#RRGGBB"`` or
``[r, g, b]``. ``value`` is the value in index masks; its default is the position in the list.
"""

import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema import IGNORE_INDEX
from datasets.preparation.archives import strips
from datasets.tile_set import Color, count_values
from utils.errors import ConfigError, DataError
from utils.files import read_json
from utils.rasters.reading import Raster

UNKNOWN = 254  # class index of a colour or value that the class file does not name
MAX_VALUE = 65535
Counts = dict[str, int]


@dataclass(frozen=True, kw_only=True)
class ClassFile:
    """Names, colours and raw values of the classes, in the order of their indices."""

    names: tuple[str, ...]
    colors: tuple[Color, ...]
    values: tuple[int, ...]
    ignore_colors: tuple[Color, ...]
    ignore_values: tuple[int, ...]


_ISPRS = ClassFile(
    names=("impervious surface", "building", "low vegetation", "tree", "car", "clutter"),
    colors=(
        *((255, 255, 255), (0, 0, 255), (0, 255, 255)),
        *((0, 255, 0), (255, 255, 0), (255, 0, 0)),
    ),
    values=tuple(range(6)),
    ignore_colors=(),
    ignore_values=(),
)
# Of ISPRS Potsdam and Vaihingen, by label kind. Eroded labels, which most papers score against,
# have a black border of 3 pixels around every object. Clutter is last, so that means over the first
# five classes, as many papers report them, are easily computed.
ISPRS_CLASSES = {"full": _ISPRS, "eroded": replace(_ISPRS, ignore_colors=((0, 0, 0),))}


def read_class_file(path: Path) -> ClassFile:
    """Read and check a class file.

    Raises:
        MissingDataError, DataError: the file is missing or not JSON.
        ConfigError: its content is invalid; the error names the entry.
    """
    content = _section(read_json(path), f"{path}", "classes", "ignore")
    entries = content.get("classes")
    if not isinstance(entries, list) or not 1 <= len(entries) <= UNKNOWN:
        raise ConfigError(f"{path} must have a list 'classes' of 1 to {UNKNOWN} entries")
    for number, entry in enumerate(entries):
        where = f"{path}: classes[{number}]"
        name = _section(entry, where, "name", "color", "value").get("name")
        if not isinstance(name, str) or not name.strip():
            raise ConfigError(f"{where} needs a 'name' and a 'color'")
    ignore = _section(content.get("ignore", {}), f"{path}: ignore", "colors", "values")
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
    groups: dict[str, tuple[Any, ...]] = {
        "name": classes.names,
        "color": classes.colors + classes.ignore_colors,
        "value": classes.values + classes.ignore_values,
    }
    for what, group in groups.items():
        if twice := [item for item in group if group.count(item) > 1]:
            hint = " (a class without 'value' has its position)" if what == "value" else ""
            raise ConfigError(f"{path} gives the {what} {twice[0]} to two entries{hint}")
    return classes


def _section(value: Any, where: str, *known: str) -> dict[str, Any]:
    """Return ``value`` after checking that it is a dictionary with known keys only."""
    if not isinstance(value, dict):
        raise ConfigError(f"{where} must be an object with {', '.join(known)}, not {value!r}")
    for key in value:
        if key not in known:
            raise ConfigError(f"{where} has the unknown key '{key}'; known are {', '.join(known)}")
    return value


def pack(color: Any) -> Any:
    """Return a colour, or three planes of integers, as 24-bit numbers."""
    red, green, blue = color
    return red << 16 | green << 8 | blue


def _color(value: Any, where: str) -> Color:
    if isinstance(value, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        value = list(bytes.fromhex(value[1:]))
    if isinstance(value, list) and len(value) == 3:
        if all(type(channel) is int and 0 <= channel <= 255 for channel in value):
            return value[0], value[1], value[2]
    raise ConfigError(f"{where}: the color must be '#RRGGBB' or [r, g, b] in 0..255, not {value!r}")


def _value(value: Any, path: Path) -> int:
    if type(value) is not int or not 0 <= value <= MAX_VALUE:
        text = f"a value must be a whole number in 0..{MAX_VALUE}, not {value!r}"
        raise ConfigError(f"{path}: {text}")
    return value


@dataclass(frozen=True, kw_only=True)
class LabelRepair:
    """Correction of the known faults of one published mask. Only unknown colours are changed."""

    why: str
    colors: tuple[tuple[Color, Color], ...] = ()  # a wrong colour and the intended one
    threshold: int | None = None  # every channel: 255 from here on, else 0 (a lossy mask)

    def mend(self, packed: np.ndarray) -> np.ndarray:
        """Return the intended colours, ``(N,)`` 24-bit RGB; unchanged where none is known."""
        mended = packed.copy()
        if self.threshold is not None:
            mended[:] = 0
            for shift in (16, 8, 0):
                mended |= np.where((packed >> shift & 255) >= self.threshold, 255 << shift, 0)
        for wrong, meant in self.colors:
            mended[packed == pack(wrong)] = pack(meant)
        return mended


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoded:
    """A mask as class indices."""

    target: np.ndarray  # (H, W) uint8 class indices, 255 = ignore or unknown
    pixels: np.ndarray  # (256,) int64: number of pixels of every class index
    unknown: Counts  # pixels of each unknown colour (as #RRGGBB) or value
    num_repaired: int  # pixels


class MaskDecoder:
    """Decoder of mask files to class indices.

    Args:
        classes: the class file.
        kind: ``color``, ``index``, or ``auto``: files with one channel are indices, all others
            (also palette files) are colours.
    """

    def __init__(self, classes: ClassFile, kind: str = "auto") -> None:
        self._kind = kind
        self._colors = np.full(1 << 24, UNKNOWN, np.uint8)  # class index by 24-bit RGB
        self._values = np.full(MAX_VALUE + 2, UNKNOWN, np.uint8)  # by value; the last: unknown
        for color in classes.ignore_colors:
            self._colors[pack(color)] = IGNORE_INDEX
        for index, color in enumerate(classes.colors):
            self._colors[pack(color)] = index
        self._values[list(classes.ignore_values)] = IGNORE_INDEX
        self._values[list(classes.values)] = np.arange(len(classes.values))

    def decode(self, mask: Raster, name: str, repair: LabelRepair | None = None) -> Decoded:
        """Decode a mask.

        Args:
            mask: the open file.
            name: of the file, for errors.
            repair: correction of known faults in its colours.

        Raises:
            DataError: the mask is not of the requested kind, has transparent pixels, or is damaged.
        """
        by_value = self._is_by_value(mask, name)
        target = np.empty(mask.size, np.uint8)
        pixels, num_repaired = np.zeros(256, np.int64), 0
        unknown: Counter[int] = Counter()
        for rows in strips(mask.size[0]):
            if by_value:
                raw = mask.read_values(rows, slice(None), [1])[..., 0]
                # Values out of range are looked up in the last entry of the table: unknown.
                found = self._values[np.clip(raw.astype(np.int64), -1, MAX_VALUE + 1)]
            else:
                raw = _read_colors(mask, rows, name)
                found = self._colors[raw]
            strange = found == UNKNOWN
            if strange.any():
                if repair is not None and not by_value:
                    found[strange] = self._colors[repair.mend(raw[strange])]
                    num_repaired += int(strange.sum()) - int((found == UNKNOWN).sum())
                    strange = found == UNKNOWN
                keys, counts = np.unique(raw[strange], return_counts=True)
                unknown.update(dict(zip(keys.tolist(), counts.tolist(), strict=True)))
                found[strange] = IGNORE_INDEX
            pixels += count_values(found)
            target[rows] = found
        name_of = str if by_value else "#{:06X}".format
        return Decoded(
            target=target,
            pixels=pixels,
            unknown={name_of(key): number for key, number in sorted(unknown.items())},
            num_repaired=num_repaired,
        )

    def _is_by_value(self, mask: Raster, name: str) -> bool:
        """Return True if the mask holds values, False if it holds colours."""
        bands, depth = mask.num_bands, mask.dtype.name
        found = f"{name} has {bands} band{'s' if bands > 1 else ''} of {depth}"
        has_palette = mask.palette is not None
        is_index = bands == 1 and mask.dtype.kind in "iu" and not has_palette
        is_color = depth == "uint8" and (has_palette or bands in (3, 4))
        if not is_index and not is_color:
            text = "masks must be RGB or palette files, or one band of whole numbers"
            raise DataError(f"{found}; {text}")
        if self._kind == "index" and is_color and not has_palette:
            raise DataError(f"{found}, not class values; use --label-kind color")
        if self._kind == "color" and depth != "uint8":
            raise DataError(f"{found}, not colours; use --label-kind index")
        return self._kind == "index" or (self._kind == "auto" and is_index)


def _read_colors(mask: Raster, rows: slice, name: str) -> np.ndarray:
    """Read colours as 24-bit numbers, ``(h, W)`` int32."""
    if mask.num_bands == 4 and (mask.read_values(rows, slice(None), [4]) != 255).any():
        text = "transparent pixels, whose meaning is undefined; save it without transparency"
        raise DataError(f"{name} has {text}")
    return pack(np.moveaxis(mask.read_rgb(rows, slice(None)).astype(np.int32), -1, 0))
