"""Arguments of a predictor: what is taken as it is, and what is refused with a way that works."""

import numpy as np
import pytest
import torch
from PIL import Image

from utils.errors import DataError
from utils.inference.arguments import checked_image

RGB = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
GREY, ALPHA = RGB[..., 0], np.dstack([RGB, RGB[..., 1]])
EXPECTED = "predict takes an array (H, W, 3) of uint8, RGB in 0..255"


def refusal(image):
    with pytest.raises(DataError) as error:
        checked_image(image)
    assert str(error.value).startswith(EXPECTED)
    return str(error.value).removeprefix(EXPECTED)


def read_only(image):
    image = image.copy()
    image.flags.writeable = False
    return image


@pytest.mark.parametrize("image", [RGB, RGB[::-1, ::2], np.asfortranarray(RGB), read_only(RGB)])
def test_any_layout_in_memory_is_taken(image):
    assert checked_image(image) is image


@pytest.mark.parametrize(
    ("image", "came", "code"),
    [
        (
            (RGB / 255).astype(np.float32),
            "(5, 6, 3) of float32 with values ",
            "(255 * image).round().astype(np.uint8)",
        ),
        (RGB.astype(float), "(5, 6, 3) of float64", "image.round().astype(np.uint8)"),
        (RGB.astype(int), "(5, 6, 3) of int64", "image.astype(np.uint8)"),
        (RGB.transpose(2, 0, 1), "(3, 5, 6) of uint8", "image.transpose(1, 2, 0)"),
        (
            RGB.transpose(2, 0, 1) / 255,
            "(3, 5, 6) of float64",
            "(255 * image.transpose(1, 2, 0)).round().astype(np.uint8)",
        ),
        (ALPHA, "(5, 6, 4) of uint8", "image[..., :3]"),
        (ALPHA.transpose(2, 0, 1), "(4, 5, 6)", "image.transpose(1, 2, 0)[..., :3]"),
        (GREY, "(5, 6) of uint8", "np.stack([image] * 3, -1)"),
        (GREY[..., None], "(5, 6, 1) of uint8", "np.repeat(image, 3, -1)"),
        (RGB > 99, "(5, 6, 3) of bool", "image.astype(np.uint8) * 255"),
        (Image.fromarray(RGB), "PIL.Image.Image", 'np.asarray(image.convert("RGB"))'),
        (np.ma.array(RGB, mask=RGB > 9), "numpy.ma.MaskedArray", "image.data"),
    ],
)
def test_the_conversion_that_a_refusal_names_gives_what_is_expected(image, came, code):
    """Case 18 of docs/trials.md: the expression is evaluated, and its result is the picture."""
    message = refusal(image)
    assert f", not {came}" in message and f"use {code}" in message
    converted = checked_image(eval(code, {"np": np, "image": image}))
    if image is GREY or message.endswith("np.repeat(image, 3, -1)"):
        expected = np.stack([GREY] * 3, -1)
    else:
        expected = 255 * (RGB > 99) if "bool" in came else RGB
    assert np.array_equal(converted, expected)


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (
            np.array([[[0, 300, 2750]]], np.uint16),
            ", not (1, 1, 3) of uint16 with values 0 to 2750; scale the values to 0..255 as in "
            "training, or pass the file to infer.py with --stretch",
        ),
        (RGB.astype(np.uint16), "; scale the values to 0..255 as in training, or pass the file "),
        (RGB / 255 - 0.5, "; undo its normalization, so that the values are RGB in 0..255"),
        (np.full((2, 2, 3), np.nan), "with values nan to nan; undo its normalization, so that"),
        (RGB[None], ", not (1, 5, 6, 3) of uint8; pass one image at a time"),
        (np.zeros((9, 9, 8), np.uint8), "; pass red, green and blue only, as the last axis"),
        (np.zeros(9, np.uint8), "; pass red, green and blue only, as the last axis"),
        (np.zeros((0, 6, 3), np.uint8), "; this one is empty, (0, 6, 3)"),
        (RGB.astype(str), ", not (5, 6, 3) of <U3; pass numbers"),
        (RGB.tolist(), ", not list; pass a NumPy array"),
        (None, ", not NoneType; pass a NumPy array"),
        (torch.zeros(3, 5, 6), ", not torch.Tensor; use image.detach().cpu().numpy(), with the "),
    ],
)
def test_what_no_expression_makes_right_is_refused_with_advice(image, sentence):
    assert sentence in refusal(image)
