"""Canvas for drawn scenes: objects with heights are painted on it, then lit and exposed.

It knows nothing of classes. Shadows are cast from the height map and slopes are lit by the same
sun, so that the image agrees with the geometry wherever objects overlap. Places are in metres from
the middle of the scene, x to the right and y downwards.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from datasets.tile_set import Color

PIXEL_M = 0.2  # ground sample distance
FULL_VIEW_PX = 256  # smaller scenes have coarser pixels instead of less content
NOISE_M = (12.0, 2.0, 0.6)  # grain of the coarse, the middle and the fine texture

Texture = Sequence[float] | np.ndarray  # relative strength of the three noises


@dataclass(frozen=True, eq=False)
class Spot:
    """Pixels around a place, with coordinates along (u) and across (v) its direction."""

    where: tuple[slice, slice]  # rows and columns of the canvas
    u_m: np.ndarray  # (h, w) float32
    v_m: np.ndarray
    half_u_m: float  # half the length and half the width of the rectangle that was asked for
    half_v_m: float

    def inside(
        self, half_u_m: float, half_v_m: float, at_u_m: float = 0, at_v_m: float = 0
    ) -> np.ndarray:
        """Return the distance to the edge of a rectangle, (h, w) metres, above 0 inside."""
        off_u_m, off_v_m = np.abs(self.u_m - at_u_m), np.abs(self.v_m - at_v_m)
        return np.minimum(half_u_m - off_u_m, half_v_m - off_v_m)

    def outline(self) -> np.ndarray:
        """Return the same for the spot's own rectangle."""
        return self.inside(self.half_u_m, self.half_v_m)

    def radius(self) -> np.ndarray:
        """Return the distance to the middle, (h, w), 1 on the ellipse in the rectangle."""
        return np.hypot(self.u_m / self.half_u_m, self.v_m / self.half_v_m)


class Canvas:
    """Maps of object, class, height and brightness.

    Args:
        rng: source of all randomness.
        size_px: height and width.
    """

    def __init__(self, rng: np.random.Generator, size_px: int) -> None:
        self.rng = rng
        self.size_px = size_px
        self.pixel_m = PIXEL_M * max(1.0, FULL_VIEW_PX / size_px)
        self.view_m = size_px * self.pixel_m
        axis = ((np.arange(size_px) + 0.5) * self.pixel_m - self.view_m / 2).astype(np.float32)
        self.y_m, self.x_m = np.meshgrid(axis, axis, indexing="ij")
        self.ids = np.zeros((size_px, size_px), np.uint16)
        self.target = np.zeros((size_px, size_px), np.uint8)
        self.height_m = np.zeros_like(self.x_m)
        self.shade = np.ones_like(self.x_m)  # brightness relative to flat ground
        self.noise = [_noise(rng, size_px, grain_m / self.pixel_m) for grain_m in NOISE_M]
        azimuth = rng.uniform(0, 2 * math.pi)
        self.sun = (math.cos(azimuth), math.sin(azimuth))  # x and y towards the sun
        self.sun_slope = rng.uniform(0.75, 1.7)  # tangent of its elevation
        self._colors: list[np.ndarray] = []
        self._textures: list[Texture] = []

    def spot(
        self, x_m: float, y_m: float, angle: float, half_u_m: float, half_v_m: float
    ) -> Spot | None:
        """Return the pixels around a rectangle; None if its middle is outside the scene."""
        if max(abs(x_m), abs(y_m)) >= self.view_m / 2:
            return None
        reach_px = math.ceil((math.hypot(half_u_m, half_v_m) + 1) / self.pixel_m)
        row, column = (int((c + self.view_m / 2) / self.pixel_m) for c in (y_m, x_m))
        rows = slice(max(0, row - reach_px), row + reach_px + 1)
        columns = slice(max(0, column - reach_px), column + reach_px + 1)
        dx, dy = self.x_m[rows, columns] - x_m, self.y_m[rows, columns] - y_m
        c, s = math.cos(angle), math.sin(angle)
        return Spot((rows, columns), c * dx + s * dy, c * dy - s * dx, half_u_m, half_v_m)

    def lies_on(self, spot: Spot, mask: np.ndarray, *kinds: int) -> bool:
        """Return True if all masked pixels belong to the given classes."""
        return bool(np.isin(self.target[spot.where][mask], kinds).all())

    def new_object(self, colors: tuple[Color, ...], texture: Texture) -> int:
        """Choose and vary the colour of an object; return its id."""
        vary = self.rng.uniform(0.88, 1.12) * self.rng.uniform(0.97, 1.03, 3)
        self._colors.append(vary * colors[self.rng.integers(len(colors))])
        self._textures.append(texture)
        return len(self._colors) - 1

    def paint(
        self,
        where: tuple[slice, slice],
        mask: np.ndarray,
        kind: int,
        colors: tuple[Color, ...],
        *,
        height_m: np.ndarray | float = 0.0,
        shade: np.ndarray | float = 1.0,
        texture: Texture = (0.05, 0.04, 0.05),
    ) -> None:
        """Add one object; where objects overlap, the higher one is visible.

        Args:
            where: rows and columns of the arrays below.
            mask: bool, pixels of the object.
            kind: class index.
            colors: one of them is chosen at random.
            height_m: its surface, also beyond the mask, so that slopes are defined at the edge.
            shade: relative brightness, of markings for example.
            texture: strength of the noises.
        """
        number = self.new_object(colors, texture)
        if isinstance(height_m, np.ndarray):
            shade = shade * self._facing_sun(height_m)
        visible = mask & (height_m >= self.height_m[where])
        np.copyto(self.ids[where], np.uint16(number), where=visible)
        np.copyto(self.target[where], np.uint8(kind), where=visible)
        np.copyto(self.height_m[where], height_m, where=visible, casting="same_kind")
        np.copyto(self.shade[where], shade, where=visible, casting="same_kind")

    def _facing_sun(self, height_m: np.ndarray) -> np.ndarray:
        """Return the brightness of a slope relative to flat ground: Lambert's law and sky light."""
        down, right = np.gradient(height_m, self.pixel_m)
        facing = 1 - (right * self.sun[0] + down * self.sun[1]) / self.sun_slope
        return 0.4 + 0.6 * np.clip(facing / np.sqrt(1 + right**2 + down**2), 0, 1.6)

    def segments(self) -> np.ndarray:
        """Return visible objects, (H, W) uint16, 1, 2, ... in raster order of first pixels."""
        _, first, inverse = np.unique(self.ids, return_index=True, return_inverse=True)
        rank = np.empty(len(first), np.uint16)
        rank[np.argsort(first)] = np.arange(1, len(first) + 1)
        return rank[inverse.reshape(self.ids.shape)]

    def expose(self) -> np.ndarray:
        """Return the image, (H, W, 3) uint8: texture, light, haze, colour cast, blur and noise."""
        rng = self.rng
        light = self.shade.copy()
        for strength, noise in zip(np.array(self._textures, np.float32).T, self.noise, strict=True):
            light *= 1 + strength[self.ids] * noise
        sky = np.array((0.5, 0.56, 0.66)) * rng.uniform(0.6, 0.95)  # shadows are bluish
        gain = rng.uniform(0.85, 1.25) * rng.uniform(0.93, 1.07, 3)
        haze = rng.uniform(0, 30) * np.array((0.9, 1.0, 1.1))
        colors = np.array(self._colors) * gain
        # A shadowed object is the same object in another colour: twice the table, one look-up.
        lookup = np.stack([colors, colors * sky]).astype(np.float32)
        image = lookup[self._in_shadow().astype(np.uint8), self.ids]
        image *= light[..., None]
        image += haze.astype(np.float32)
        sharp = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
        image = np.asarray(sharp.filter(ImageFilter.GaussianBlur(0.6)), np.float32)
        deviation = np.float32(rng.uniform(1.5, 4))
        image = image + deviation * rng.standard_normal(image.shape, np.float32)
        return np.clip(image, 0, 255).astype(np.uint8)

    def _in_shadow(self) -> np.ndarray:
        """Return bool (H, W): the ray from the sun is blocked by something higher."""
        height, size = self.height_m, self.size_px
        ray = np.zeros_like(height)
        drop_m = self.pixel_m * self.sun_slope
        # The height map, shifted away from the sun and lowered step by step, gives the shadow.
        for step in range(1, min(size - 1, int(height.max() / drop_m)) + 1):
            dx, dy = (round(step * part) for part in self.sun)
            rows, from_rows = _shifted(dy, size)
            columns, from_columns = _shifted(dx, size)
            cast = height[from_rows, from_columns] - np.float32(step * drop_m)
            np.maximum(ray[rows, columns], cast, out=ray[rows, columns])
        return ray > height + 0.1


def _shifted(step_px: int, size_px: int) -> tuple[slice, slice]:
    """Return two ranges of equal length: pixels, and the pixels ``step_px`` further on."""
    back, ahead = max(0, -step_px), max(0, step_px)
    return slice(back, size_px - ahead), slice(ahead, size_px - back)


def _noise(rng: np.random.Generator, size_px: int, grain_px: float) -> np.ndarray:
    """Return smooth noise, (size, size) float32 of mean 0 and standard deviation near 1."""
    num_cells = math.ceil(size_px / max(grain_px, 1)) + 1
    coarse = Image.fromarray(rng.standard_normal((num_cells, num_cells), np.float32) * 1.5)
    return np.asarray(coarse.resize((size_px, size_px), Image.Resampling.BICUBIC))
