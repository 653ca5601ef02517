"""Images that programs pass to a predictor: checked before anything is computed."""

from typing import Any

import numpy as np
from PIL import Image

from utils.errors import DataError

_EXPECTED = "predict takes an array (H, W, 3) of uint8, RGB in 0..255"
_BATCH = "pass one image at a time"
_SCALE = "scale the values to 0..255 as in training, or pass the file to infer.py with --stretch"
_UNDO = "undo its normalization, so that the values are RGB in 0..255"


def checked_image(image: Any) -> np.ndarray:
    """Return an image in memory, ``(H, W, 3)`` uint8 RGB, unchanged.

    Raises:
        DataError: it is anything else; the message says what, and how to convert it.
    """
    if not isinstance(image, np.ndarray) or isinstance(image, np.ma.MaskedArray):
        raise DataError(f"{_EXPECTED}, not {_name(image)}; {_array_of(image)}")
    if not image.size:
        raise DataError(f"{_EXPECTED}; this one is empty, {_size(image)}")
    if image.shape[2:] == (3,) and image.dtype == np.uint8:
        return image
    found = f"{_size(image)} of {image.dtype}"
    if image.dtype.kind in "uif" and image.dtype != np.uint8:
        found += f" with values {image.min():.6g} to {image.max():.6g}"
    raise DataError(f"{_EXPECTED}, not {found}; {_remedy(image)}")


def _remedy(image: np.ndarray) -> str:
    """Return an expression that makes the image what is expected, or else advice."""
    if image.ndim == 4:
        return _BATCH
    code, shape = "image", image.shape
    if image.ndim == 3 and shape[2] not in (1, 3, 4) and shape[0] in (1, 3, 4):
        code, shape = f"{code}.transpose(1, 2, 0)", (*shape[1:], shape[0])  # channels came first
    if len(shape) == 2:
        code = f"np.stack([{code}] * 3, -1)"
    elif len(shape) == 3 and shape[2] == 1:
        code = f"np.repeat({code}, 3, -1)"
    elif len(shape) == 3 and shape[2] == 4:
        code = f"{code}[..., :3]"
    elif len(shape) != 3 or shape[2] != 3:
        return "pass red, green and blue only, as the last axis"
    if image.dtype == np.uint8:
        return f"use {code}"
    if image.dtype == bool:
        return f"use {code}.astype(np.uint8) * 255"
    if image.dtype.kind not in "uif":
        return "pass numbers"
    if not 0 <= image.min() <= image.max() < np.inf:  # also NaN
        return _UNDO
    if image.max() > 255 or image.dtype == np.uint16:
        return _SCALE
    if image.dtype.kind != "f":
        return f"use {code}.astype(np.uint8)"
    if image.max() <= 1:
        return f"use (255 * {code}).round().astype(np.uint8)"
    return f"use {code}.round().astype(np.uint8)"


def _array_of(image: Any) -> str:
    """Return advice for an image that is no plain array."""
    if isinstance(image, np.ma.MaskedArray):
        return "its masked pixels would be predicted as well; use image.data for that"
    if isinstance(image, Image.Image):
        return 'use np.asarray(image.convert("RGB"))'
    if hasattr(image, "detach"):
        return "use image.detach().cpu().numpy(), with the channels last"
    return "pass a NumPy array"


def _size(image: np.ndarray) -> str:
    return f"({', '.join(map(str, image.shape))})"


def _name(image: Any) -> str:
    return f"{type(image).__module__}.{type(image).__qualname__}".removeprefix("builtins.")
