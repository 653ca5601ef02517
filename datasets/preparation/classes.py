"""Class files, and the decoding of masks to class indices.

A class file maps the colours or values of a user's masks to classes. It is JSON, for example::

    {"classes": [{"name": "building", "color": "#3C1098", "values": [1, "257..512"]}, ...],
     "ignore": {"colors": ["#9B9B9B"], "values": [0, "-9999..-1"]}}

``color`` is the colour in the pictures of reports, as ``"#RRGGBB"`` or ``[r, g, b]``, and in RGB
masks unless ``colors`` lists others. ``value`` is the value in index masks, ``values`` lists
several and ranges of them; the default is the position in the list. ``"others"`` in place of such
a list stands for all that no other entry names, e.g. the numbers of instances.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema import IGNORE_INDEX
from datasets.tile_set import Color
from utils.console import counted
from utils.errors import ConfigError, DataError
from utils.files import read_json
from utils.rasters.reading import Raster
from utils.value_table import ValueTable

UNKNOWN = 254  # class index of a colour or value that the class file does not name
OTHERS = "others"  # all values, or colours, that no other entry names
_RANGE = re.compile(r"(-?[0-9]{1,20})\.\.(-?[0-9]{1,20})")
_LOWEST, _HIGHEST = -(1 << 63), (1 << 64) - 1  # of 64-bit whole numbers
_MAX_FRACTIONS = 1000  # unknown values in a strip, from which a file of floats is no mask
Counts = dict[str, int]
Value = int | range  # a range stands for all its values
Values = int | tuple[Value, ...] | str  # one, several, or OTHERS


@dataclass(frozen=True, kw_only=True)
class ClassFile:
    """Meaning of colours and values of masks; the classes are in the order of their indices.

    Attributes:
        names: of the classes.
        colors: in pictures.
        values: in index masks.
        ignore_colors, ignore_values: of pixels of no class.
        mask_colors: in RGB masks; empty: ``colors``.
    """

    names: tuple[str, ...]
    colors: tuple[Color, ...]
    values: tuple[Values, ...]
    ignore_colors: tuple[Color, ...]
    ignore_values: tuple[Value, ...]
    mask_colors: tuple[tuple[Color, ...] | str, ...] = ()

    def named_values(self) -> Iterator[tuple[range, int]]:
        """Yield every range of values that an entry names, and its class index; 255: ignore."""
        for index, values in [*enumerate(self.values), (IGNORE_INDEX, self.ignore_values)]:
            if not isinstance(values, str):
                for value in values if isinstance(values, tuple) else (values,):
                    yield value if isinstance(value, range) else range(value, value + 1), index

    def named_colors(self) -> Iterator[tuple[Color, int]]:
        """Yield every colour of masks that an entry names, and its class index; 255: ignore."""
        of_classes = self.mask_colors or [(color,) for color in self.colors]
        for index, colors in [*enumerate(of_classes), (IGNORE_INDEX, self.ignore_colors)]:
            if not isinstance(colors, str):
                yield from ((color, index) for color in colors)

    def value_table(self) -> ValueTable:
        """Return the class indices of values; 255: ignore, 254: unknown."""
        return ValueTable(self.named_values(), _index_of_others(self.values), UNKNOWN)

    def color_table(self) -> np.ndarray:
        """Return the class indices of all 24-bit colours, uint8; 255: ignore, 254: unknown."""
        table = np.full(1 << 24, _index_of_others(self.mask_colors), np.uint8)
        for color, index in self.named_colors():
            table[pack(color)] = index
        return table


def _index_of_others(items: Sequence[Any]) -> int:
    return items.index(OTHERS) if OTHERS in items else UNKNOWN


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
        name = _section(entry, where, "name", "color", "value", "values", "colors").get("name")
        if not isinstance(name, str) or not name.strip():
            raise ConfigError(f"{where} needs a 'name' and a 'color'")
    ignore = _section(content.get("ignore", {}), f"{path}: ignore", "colors", "values")
    for key, items in ignore.items():
        if not isinstance(items, list):
            raise ConfigError(f"{path}: ignore: '{key}' must be a list, not {items!r}")
    wheres = [f"{path}: class '{entry['name']}'" for entry in entries]
    colors = tuple(_color(e.get("color"), where) for e, where in zip(entries, wheres, strict=True))
    classes = ClassFile(
        names=tuple(entry["name"] for entry in entries),
        colors=colors,
        values=tuple(_values(entry, i, wheres[i]) for i, entry in enumerate(entries)),
        ignore_colors=tuple(_color(c, f"{path}: ignore") for c in ignore.get("colors", [])),
        ignore_values=tuple(_value(v, f"{path}: ignore") for v in ignore.get("values", [])),
    )
    if any("colors" in entry for entry in entries):
        several = (_mask_colors(entry, colors[i], wheres[i]) for i, entry in enumerate(entries))
        classes = replace(classes, mask_colors=tuple(several))
    _check_unique(classes, path)
    return classes


def _check_unique(classes: ClassFile, path: Path) -> None:
    """Refuse names, colours and values that two entries have."""
    owner = dict(enumerate(f"class '{name}'" for name in classes.names))
    owner[IGNORE_INDEX] = "ignore"
    for what, items in (("name", classes.names), ("color", classes.colors)):
        if twice := [item for item in items if items.count(item) > 1]:
            raise ConfigError(f"{path} gives the {what} {_text(twice[0])} to two classes")
    for what, each in (("values", classes.values), ("colors", classes.mask_colors)):
        if len(found := [owner[index] for index, item in enumerate(each) if item == OTHERS]) > 1:
            raise ConfigError(f'{path} gives the {what} "{OTHERS}" to {found[0]} and to {found[1]}')
    seen: dict[Color, int] = {}
    for color, index in classes.named_colors():
        if color in seen:
            both = f"{owner[seen[color]]} and to {owner[index]}"
            raise ConfigError(f"{path} gives the color {_text(color)} to {both}")
        seen[color] = index
    spans = sorted((each.start, each.stop, index) for each, index in classes.named_values())
    for (_, end, one), (start, _, other) in pairwise(spans):
        if start < end:
            raise ConfigError(
                f"{path} gives the value {start} to {owner[one]} and to {owner[other]} (a class "
                "without 'value' and 'values' has its position)"
            )


def _text(item: str | Color) -> str:
    return item if isinstance(item, str) else f"#{pack(item):06X}"


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


def _mask_colors(entry: dict[str, Any], color: Color, where: str) -> tuple[Color, ...] | str:
    if "colors" not in entry:
        return (color,)
    several = _several(entry, "colors", where)
    return several if isinstance(several, str) else tuple(_color(c, where) for c in several)


def _values(entry: dict[str, Any], index: int, where: str) -> Values:
    if "values" not in entry:
        value = _value(entry.get("value", index), where)
        return value if isinstance(value, int) else (value,)
    if "value" in entry:
        raise ConfigError(f"{where} has both 'value' and 'values'; give one of them")
    several = _several(entry, "values", where)
    return several if isinstance(several, str) else tuple(_value(v, where) for v in several)


def _several(entry: dict[str, Any], key: str, where: str) -> list[Any] | str:
    given = entry[key]
    if given == OTHERS or (isinstance(given, list) and given):
        return given
    raise ConfigError(f"{where}: '{key}' must be a list, or \"{OTHERS}\", not {given!r}")


def _value(value: Any, where: str) -> Value:
    """Return a value, or a range for a text such as ``-5..-1``."""
    if type(value) is int and _LOWEST <= value <= _HIGHEST:
        return value
    if isinstance(value, str) and (match := _RANGE.fullmatch(value)):
        first, last = int(match[1]), int(match[2])
        if _LOWEST <= first <= last <= _HIGHEST:
            return range(first, last + 1)
    raise ConfigError(
        f"{where}: a value must be a whole number of 64 bits, or a range of them, the lower one "
        f"first, as \"257..512\", not {value!r}; several go into 'values'"
    )


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
    """Rows of a mask, or of polygons, as class indices.

    Attributes:
        target: ``(h, W)`` uint8 class indices, 255 = ignored, no data or unknown.
        unknown: pixels of each unknown colour (as #RRGGBB), value or attribute.
        num_repaired: pixels whose colour was corrected.
        num_no_data: pixels that the file declares as no data, or that are NaN.
        num_tagged: pixels of a class though the file declares its value as no data.
        num_outside: pixels outside all polygons that are of no class therefore.
        hint: a clause on the cause of unknown pixels, if there is a likely one.
    """

    target: np.ndarray
    unknown: Counts
    num_repaired: int = 0
    num_no_data: int = 0
    num_tagged: int = 0
    num_outside: int = 0
    hint: str | None = None


class MaskDecoder:
    """Decoder of mask files to class indices.

    Args:
        classes: the class file.
        kind: ``color``, ``index``, or ``auto``: files with one channel are indices, all others
            (also palette files) are colours. Alpha does not count.
    """

    def __init__(self, classes: ClassFile, kind: str = "auto") -> None:
        self._classes, self._kind = classes, kind
        self._values, self._colors = classes.value_table(), classes.color_table()

    def decode(
        self, mask: Raster, rows: slice, name: str, repair: LabelRepair | None = None
    ) -> Decoded:
        """Decode rows of a mask.

        A pixel without data is ignored. But where the class file names the no-data value of the
        file, it is right: many label rasters declare 0 as no data although 0 is a class.

        Args:
            mask: the open file.
            rows: to decode, in full width.
            name: of the file, for errors.
            repair: correction of known faults in its colours.

        Raises:
            DataError: the mask is not of the requested kind, has partly transparent pixels, holds
                measurements instead of classes, or is damaged.
        """
        by_value = self._is_by_value(mask, name)
        if by_value:
            raw = mask.read_values(rows, slice(None), [1])[..., 0]
            found = self._values.find(raw)
        else:
            raw = pack(np.moveaxis(mask.read_rgb(rows, slice(None)).astype(np.int32), -1, 0))
            found = self._colors[raw]
        absent, num_tagged = self._find_absent(mask, rows, name, by_value)
        if absent is not None:
            found[absent] = IGNORE_INDEX
        num_repaired, unknown, hint = 0, {}, None
        strange = found == UNKNOWN
        if strange.any() and repair is not None and not by_value:
            found[strange] = self._colors[repair.mend(raw[strange])]
            num_repaired = int(strange.sum()) - int((found == UNKNOWN).sum())
            strange = found == UNKNOWN
        if strange.any():
            keys, counts = np.unique(raw[strange], return_counts=True)
            names = _value_names(keys, name) if by_value else map("#{:06X}".format, keys)
            unknown = dict(zip(names, counts.tolist(), strict=True))
            hint = self._hint(mask, name, keys, by_value)
            found[strange] = IGNORE_INDEX
        return Decoded(
            target=found,
            unknown=unknown,
            num_repaired=num_repaired,
            num_no_data=0 if absent is None else int(absent.sum()),
            num_tagged=num_tagged,
            hint=hint,
        )

    def _find_absent(
        self, mask: Raster, rows: slice, name: str, by_value: bool
    ) -> tuple[np.ndarray | None, int]:
        """Return the pixels without data, and the number of those that are of a class after all."""
        absent = ~mask.read_mask(rows, slice(None)) if mask.has_mask else None
        if alpha_band := mask.alpha_band or (4 if mask.num_bands == 4 else None):
            alpha = mask.read_values(rows, slice(None), [alpha_band])[..., 0]
            is_partly = alpha != np.iinfo(alpha.dtype).max
            if (is_partly if absent is None else is_partly & ~absent).any():
                raise DataError(
                    f"{name} has partly transparent pixels, or a fourth band that is not alpha, "
                    "whose meaning is undefined; save it without transparency"
                )
        if absent is None or not absent.any() or not self._tag_is_class(mask, by_value):
            return absent, 0
        stored = mask.read_values(rows, slice(None), mask.rgb_bands)
        tagged = (stored == mask.no_data).all(axis=-1) & mask.read_inside(rows, slice(None))
        return absent & ~tagged, int((absent & tagged).sum())

    def _tag_is_class(self, mask: Raster, by_value: bool) -> bool:
        """Return True if the class file gives a class to what the file declares as no data."""
        if mask.no_data is None or not float(mask.no_data).is_integer():
            return False
        value = int(mask.no_data)
        if by_value:
            return self._names_class(value)
        if not 0 <= value <= 255:
            return False
        color = (value, value, value) if mask.palette is None else mask.palette[value].tolist()
        return dict(self._classes.named_colors()).get(tuple(color), UNKNOWN) < UNKNOWN

    def _names_class(self, value: int) -> bool:
        """Return True for a value that a class names by itself, not as one of the others."""
        return any(value in span for span, i in self._classes.named_values() if i < UNKNOWN)

    def _hint(self, mask: Raster, name: str, keys: np.ndarray, by_value: bool) -> str | None:
        """Return a clause on the likely cause of unknown colours or values."""
        if mask.bits == 1:
            other = "color reads them as #000000 and #FFFFFF" if by_value else "index reads these"
            values = "its values are 0 and 1, though viewers show 0 and 255"
            return f"{name} has 1 bit a pixel: {values}; --label-kind {other}"
        greys = [] if by_value else [key for key in keys.tolist() if key and key % 0x010101 == 0]
        greys = [key for key in greys if self._names_class(key & 255)]
        if not greys:
            return None
        remedy = "save the masks with one channel instead of three"
        if mask.palette is not None:
            remedy = "give --label-kind index to read the values instead of the palette"
        return f"#{greys[0]:06X} looks like the class value {greys[0] & 255}; {remedy}"

    def _is_by_value(self, mask: Raster, name: str) -> bool:
        """Return True if the mask holds values, False if it holds colours."""
        bands, depth = mask.num_bands, mask.dtype.name
        found = f"{name} has {counted(bands, 'band')} of {depth}"
        has_palette = mask.palette is not None
        num_channels = bands - (mask.alpha_band is not None)
        is_index = num_channels == 1 and mask.dtype.kind in "iuf" and not has_palette
        is_color = depth == "uint8" and (has_palette or num_channels == 3 or bands == 4)
        if not is_index and not is_color:
            raise DataError(
                f"{found}; masks are RGB or palette files, or one band of whole numbers"
            )
        if self._kind == "index" and is_color and not has_palette:
            raise DataError(f"{found}, not class values; use --label-kind color")
        if self._kind == "color" and depth != "uint8":
            raise DataError(f"{found}, not colours; use --label-kind index")
        return self._kind == "index" or (self._kind == "auto" and is_index)


def _value_names(values: np.ndarray, name: str) -> list[str]:
    """Return unknown values as a class file has them; fractions, which it cannot have, as they are.

    Raises:
        DataError: there are so many fractions that the file holds measurements.
    """
    if values.dtype.kind != "f":
        return [str(value) for value in values.tolist()]
    fractions = values[values != np.rint(values)]
    if len(fractions) > _MAX_FRACTIONS:
        raise DataError(
            f"{name} holds numbers with fractions, such as {fractions[0]} and {fractions[-1]}, as "
            "of heights or probabilities; masks hold whole numbers"
        )
    return [str(int(value)) if value.is_integer() else str(value) for value in values]
