"""Mask files -> class indices; whatever is unknown is counted, not guessed."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from PIL import Image

from configs.schema import IGNORE_INDEX
from datasets.preparation.classes import MAX_VALUE, UNKNOWN, ClassFile, pack
from datasets.tile_set import Color
from utils.errors import DataError
from utils.files import strips

_INDEX_MODES = ("1", "L", "I", "I;16", "I;16B")  # Pillow's names: one channel, 1 to 32 bits
_COLOR_MODES = ("P", "RGB", "RGBA")
Counts = dict[str, int]


@dataclass(frozen=True, kw_only=True)
class LabelRepair:
    """What is known to be wrong with one published mask. Only unknown colours are touched."""

    why: str
    colors: tuple[tuple[Color, Color], ...] = ()  # a wrong colour and the one that was meant
    threshold: int | None = None  # every channel: 255 from here on, else 0 (a lossy mask)

    def mend(self, packed: np.ndarray) -> np.ndarray:
        """The colours that were meant, ``(N,)`` 24-bit RGB; unchanged where that is not known."""
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
    """A decoded mask."""

    target: np.ndarray  # (H, W) uint8 class indices, 255 = ignore or unknown
    pixels: np.ndarray  # (256,) int64: how many of every class index
    unknown: Counts  # pixels of each unknown colour (as #RRGGBB) or value
    num_repaired: int  # pixels


class MaskDecoder:
    """Mask files -> class indices.

    Args:
        classes: the class file.
        kind: ``color``, ``index``, or ``auto``: files with one channel are indices, all others
            (also palette files) are colours.
    """

    def __init__(self, classes: ClassFile, kind: str = "auto") -> None:
        self._kind = kind
        self._colors, self._values = classes.color_table(), classes.value_table()

    def decode(self, image: Image.Image, name: str, repair: LabelRepair | None = None) -> Decoded:
        """Decode a mask.

        Args:
            image: as its file holds it.
            name: of the file, for errors.
            repair: what is known to be wrong with its colours.

        Raises:
            DataError: it is not of the kind asked for, or neither; or pixels are transparent.
        """
        by_value = self._is_by_value(image, name)
        target = np.empty((image.height, image.width), np.uint8)
        pixels, num_repaired = np.zeros(256, np.int64), 0
        unknown: Counter[int] = Counter()
        for top, part in strips(image, None if by_value else "RGB"):
            raw, found = self._values_of(part) if by_value else self._colors_of(part)
            strange = found == UNKNOWN
            if strange.any():
                if repair is not None and not by_value:
                    found[strange] = self._colors[repair.mend(raw[strange])]
                    num_repaired += int(strange.sum()) - int((found == UNKNOWN).sum())
                    strange = found == UNKNOWN
                keys, counts = np.unique(raw[strange], return_counts=True)
                unknown.update(dict(zip(keys.tolist(), counts.tolist(), strict=True)))
                found[strange] = IGNORE_INDEX
            pixels += np.bincount(found.ravel(), minlength=256)
            target[top : top + len(found)] = found
        name_of = str if by_value else "#{:06X}".format
        return Decoded(
            target=target,
            pixels=pixels,
            unknown={name_of(key): number for key, number in sorted(unknown.items())},
            num_repaired=num_repaired,
        )

    def _is_by_value(self, image: Image.Image, name: str) -> bool:
        """Whether the mask holds values, not colours."""
        if image.mode not in (*_INDEX_MODES, *_COLOR_MODES):
            raise DataError(
                f"{name} has mode {image.mode}; masks must be RGB or palette files, or one channel "
                "of whole numbers"
            )
        if self._kind == "index" or (self._kind == "auto" and image.mode in _INDEX_MODES):
            if image.mode in ("RGB", "RGBA"):
                raise DataError(
                    f"{name} has mode {image.mode}, not class values; use --label-kind color"
                )
            return True
        if image.mode.startswith("I"):
            raise DataError(f"{name} has mode {image.mode}, not colours; use --label-kind index")
        if image.mode == "RGBA" and image.getchannel("A").getextrema() != (255, 255):
            raise DataError(
                f"{name} has transparent pixels, and what they mean is not known; save it without "
                "transparency"
            )
        return False

    def _values_of(self, part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # What no class can have, below or above, is looked up in the last entry: unknown.
        inside = np.clip(part.astype(np.int64), -1, MAX_VALUE + 1)
        return part, self._values[inside]

    def _colors_of(self, part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        wide = part.astype(np.int32)
        packed = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
        return packed, self._colors[packed]
