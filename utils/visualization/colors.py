"""Colours of classes, segments, values and errors: index maps and images -> RGB images."""

from collections.abc import Sequence

import numpy as np

from configs.schema import IGNORE_INDEX

Color = tuple[int, int, int]  # RGB in 0..255

IGNORED_COLOR: Color = (0, 0, 0)
ERROR_COLORS: dict[str, Color] = {"wrong": (235, 30, 40), "ignored": IGNORED_COLOR}
_LUMA = np.array([0.299, 0.587, 0.114])  # weights of R, G, B in perceived brightness
# Even steps of perceived brightness from low to high, so that the order survives grey printing.
_VALUE_COLORS = (
    (8, 8, 40),
    (60, 24, 110),
    (128, 44, 128),
    (192, 76, 92),
    (228, 115, 85),
    (245, 158, 105),
    (252, 202, 160),
    (255, 244, 230),
)


def outline_color(color: Color) -> Color:
    """Return a darker shade, as the outline of bars and swatches: white ones show on white."""
    red, green, blue = (channel * 3 // 4 for channel in color)
    return red, green, blue


def colorize(target: np.ndarray, palette: Sequence[Color]) -> np.ndarray:
    """Colour class indices with the palette; ignored pixels (255) become black.

    Args:
        target: ``(H, W)`` class indices of a target or a prediction, any integer dtype.
        palette: RGB in 0..255 of each class.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        ValueError: a class index is outside the palette.
    """
    if target.size and (target.min() < 0 or target.max() >= len(palette)):
        wrong = target[(target != IGNORE_INDEX) & ((target < 0) | (target >= len(palette)))]
        if wrong.size:
            raise ValueError(
                f"class index {wrong[0]} has no colour; the palette has {len(palette)}"
            )
    colors = np.zeros((256, 3), dtype=np.uint8)
    colors[: len(palette)] = palette
    colors[IGNORE_INDEX] = IGNORED_COLOR
    return colors[target]


def overlay(
    image: np.ndarray, target: np.ndarray, palette: Sequence[Color], alpha: float = 0.5
) -> np.ndarray:
    """Blend class colours over an image; ignored pixels (255) keep the image.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        target: ``(H, W)`` class indices of a target or a prediction.
        palette: RGB in 0..255 of each class.
        alpha: weight of the class colour, 0..1.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    _check_size(image, target, "target")
    mixed = image * np.float32(1 - alpha)
    mixed += colorize(target, palette) * np.float32(alpha)
    blended = np.rint(mixed, out=mixed).astype(np.uint8)
    ignored = target == IGNORE_INDEX
    blended[ignored] = image[ignored]
    return blended


def colorize_segments(ids: np.ndarray) -> np.ndarray:
    """Give every segment a colour that is a hash of its id; id 0 is black.

    Consecutive ids differ strongly in hue.

    Args:
        ids: ``(H, W)`` segment ids, any integer dtype.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    values, inverse = np.unique(ids, return_inverse=True)
    colors = _hashed_colors(values)
    colors[values == 0] = 0
    return colors[inverse.reshape(ids.shape)]


def _hashed_colors(values: np.ndarray) -> np.ndarray:
    """Return bright colours of integers: ``(N,)`` -> ``(N, 3)`` uint8."""
    # Hue: multiples of the golden ratio modulo one turn never come close to one another.
    golden = values.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    hue = (golden >> np.uint64(40)) / 2.0**24
    # Folding the high bits down makes saturation and value independent of the hue.
    mixed = (golden ^ (golden >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    saturation = 0.35 + 0.6 * ((mixed >> np.uint64(40)) & np.uint64(0xFF)) / 255
    value = 0.6 + 0.4 * ((mixed >> np.uint64(52)) & np.uint64(0xFF)) / 255
    # HSV to RGB: each channel is a trapezoid over the hue circle, a third of a turn apart.
    turns = (hue[:, np.newaxis] + np.array([0, 2, 1]) / 3) % 1.0
    pure = np.clip(np.abs(turns * 6 - 3) - 1, 0, 1)
    rgb = value[:, np.newaxis] * (1 - saturation[:, np.newaxis] * (1 - pure))
    return np.rint(255 * rgb).astype(np.uint8)


def colorize_values(levels: np.ndarray) -> np.ndarray:
    """Colour depth or sensor levels from dark to bright; no data (0) is black.

    Args:
        levels: ``(H, W)`` levels 0..65535, any integer dtype.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    anchors = np.linspace(1, 65535, len(_VALUE_COLORS))
    channels = [np.interp(levels, anchors, channel) for channel in np.array(_VALUE_COLORS).T]
    colors = np.rint(np.stack(channels, -1)).astype(np.uint8)
    colors[levels == 0] = 0
    return colors


def draw_boundaries(image: np.ndarray, ids: np.ndarray, color: Color = (255, 0, 200)) -> np.ndarray:
    """Return a copy of an image with one-pixel segment boundaries drawn over it.

    A pixel is on a boundary if its right or lower neighbour belongs to another segment.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        ids: ``(H, W)`` segment ids.
        color: of the boundaries; the default is rare in aerial images.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    _check_size(image, ids, "ids")
    boundary = np.zeros(ids.shape, dtype=bool)
    boundary[:, :-1] |= ids[:, :-1] != ids[:, 1:]
    boundary[:-1, :] |= ids[:-1, :] != ids[1:, :]
    drawn = image.copy()
    drawn[boundary] = color
    return drawn


def error_map(image: np.ndarray, target: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Mark wrong pixels red and ignored pixels black on a dimmed grey image.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        target: ``(H, W)`` class indices, 255 = ignore.
        prediction: ``(H, W)`` class indices.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    _check_size(image, target, "target")
    _check_size(image, prediction, "prediction")
    gray = np.rint(image @ _LUMA * 0.6 + 40).astype(np.uint8)
    drawn = np.repeat(gray[..., np.newaxis], 3, axis=2)
    drawn[target != prediction] = ERROR_COLORS["wrong"]
    drawn[target == IGNORE_INDEX] = IGNORED_COLOR
    return drawn


def _check_size(image: np.ndarray, other: np.ndarray, name: str) -> None:
    if image.shape[:2] != other.shape:
        raise ValueError(
            f"image is {image.shape[:2]} and {name} {other.shape} (height, width); "
            "they must have the same size"
        )
