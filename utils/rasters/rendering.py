"""Rendering of stored values as RGB: the bands, the stretch, and the meaning of an alpha band.

These are properties of a data set: ``prepare.py`` stores them, checkpoints carry them, and
inference reads every image by them.
"""

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from utils.errors import ConfigError

Range = tuple[float, float]  # the values that become 0 and 255


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """Rule by which the stored values of an image become RGB, and its pixels data.

    Attributes:
        bands: three bands as red, green and blue, or one as grey, counted from 1; empty: as the
            file says.
        stretch: the values that become 0 and 255, one pair for all bands, or one for each; empty:
            values of 8 bits as they are.
        alpha_is_data: a band that the file declares as alpha is no mask.

    Raises:
        ConfigError: another number of bands or pairs, or a stretch that is empty, reversed or
            infinite.
    """

    bands: tuple[int, ...] = ()
    stretch: tuple[Range, ...] = ()
    alpha_is_data: bool = False

    def __post_init__(self) -> None:
        if len(self.bands) not in (0, 1, 3) or any(band < 1 for band in self.bands):
            raise ConfigError(
                f"bands are {_listed(self.bands)}; give three, as red, green and blue, or one as "
                "grey, counted from 1"
            )
        if len(self.stretch) not in (0, 1, 3):
            raise ConfigError(
                f"stretch has {len(self.stretch)} pairs; give one for all bands, or three"
            )
        for low, high in self.stretch:
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ConfigError(
                    f"stretch is {low} to {high}; give two numbers, the lower one first"
                )

    def takes_as_data(self, alpha_band: int | None) -> bool:
        """Return True if a band that a file declares as alpha is data, e.g. shown as a colour."""
        return self.alpha_is_data or alpha_band in self.bands

    def to_plain(self) -> dict[str, Any]:
        """Return plain values for JSON files and checkpoints."""
        return {
            "bands": [*self.bands],
            "stretch": [[low, high] for low, high in self.stretch],
            "alpha_is_data": self.alpha_is_data,
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Rendering":
        """Return the rendering that ``to_plain`` was made from."""
        return cls(
            bands=tuple(int(band) for band in plain["bands"]),
            stretch=tuple((float(low), float(high)) for low, high in plain["stretch"]),
            alpha_is_data=bool(plain["alpha_is_data"]),
        )


AS_STORED = Rendering()


def bands_of(text: str) -> tuple[int, ...]:
    """Parse ``--bands 3,2,1``, or one band as grey."""
    try:
        return Rendering(bands=tuple(int(part) for part in text.split(","))).bands
    except (ValueError, ConfigError) as error:
        raise argparse.ArgumentTypeError(
            f"must be three bands as R,G,B, e.g. 3,2,1, or one as grey, not '{text}'"
        ) from error


def stretch_of(text: str) -> tuple[Range, ...]:
    """Parse ``--stretch LOW,HIGH``, or three pairs, one a band: ``0,2047,0,1800,0,1500``."""
    try:
        numbers = [float(part) for part in text.split(",")]
        return Rendering(stretch=tuple(zip(numbers[::2], numbers[1::2], strict=True))).stretch
    except (ValueError, ConfigError) as error:
        raise argparse.ArgumentTypeError(
            f"must be LOW,HIGH, e.g. 0,2047, or three such pairs, one a band, not '{text}'"
        ) from error


def stretch_text(stretch: tuple[Range, ...]) -> str:
    """Return a stretch as ``--stretch`` takes it."""
    return ",".join(f"{number:.6g}" for pair in stretch for number in pair)


def _listed(numbers: tuple[int, ...]) -> str:
    return ",".join(map(str, numbers))
