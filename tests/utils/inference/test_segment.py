"""Images in chunks: the same as at once, read once, each chunk with its own maps."""

import weakref
from contextlib import nullcontext
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch

from configs.schema import EvalConfig
from utils.evaluation.evaluate import Predictor, classes_of
from utils.inference import chunks
from utils.inference.segment import Segmenter, confidence_of
from utils.precision import Precision

CPU = torch.device("cpu")
CONFIG = EvalConfig(window_px=64, overlap_px=16, batch_size=3)


class Sum(torch.nn.Module):
    """Logits of a pixel from its colour and map; no two are equal by chance."""

    def forward(self, image, structure):
        return torch.cat([image.mean(1, keepdim=True), structure, image[:, :1]], 1)


class Levels:
    """An encoder that returns the map."""

    value_stores = ("height",)
    cell_px: ClassVar = {}

    def __call__(self, image, maps, structure_image=None):
        return (maps["height"].unsqueeze(1).float() / 65535,)


def no_map(image, chunk, pixels, valid=None):
    return {"height": np.zeros(pixels.shape[:2], np.uint16)}


def strips_of(image, make_maps, rows=None, read=None, network=None, read_mask=None):
    read = read or (lambda rows, columns: image[rows, columns])
    predictor = Predictor(network or Sum(), Levels(), Precision("fp32", CPU), CONFIG, CPU)
    maps = SimpleNamespace(of_chunk=make_maps, opened=lambda image: nullcontext())
    segmenter = Segmenter(predictor, maps, CONFIG)
    return segmenter.strips(None, image.shape[:2], read, rows, read_mask)


def segment(*arguments):
    return torch.cat([logits for _, logits in strips_of(*arguments)], 1)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_PX", 150)


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (431, 350, 3), dtype=np.uint8)


def test_a_scene_in_chunks_equals_the_scene_at_once(image):
    """With maps that do not depend on the chunk: values of the whole image, cropped."""
    levels = np.random.default_rng(1).integers(0, 65536, image.shape[:2], dtype=np.uint16)
    logits = segment(image, lambda image, chunk, pixels, valid: {"height": levels[chunk.slices]})
    predictor = Predictor(Sum(), Levels(), Precision("fp32", CPU), CONFIG, CPU)
    whole = predictor.strips(
        torch.from_numpy(image).movedim(-1, 0).unsqueeze(0),
        {"height": torch.from_numpy(levels).unsqueeze(0)},
    )
    assert torch.equal(logits, torch.cat([strip for _, strip in whole], 1))


@pytest.mark.parametrize("part", [slice(0, 100), slice(100, 431), slice(200, 201)])
def test_rows_alone_equal_those_of_the_whole(image, part):
    def make(_, chunk, pixels, valid):  # other values in each chunk
        return {"height": np.full(pixels.shape[:2], (chunk.top_px + chunk.left_px) * 50, np.uint16)}

    whole = segment(image, make)
    rows = segment(image, make, part)
    assert torch.equal(rows, whole[:, part])


def test_no_strip_is_held_while_the_next_is_made(image):
    """A strip of a wide scene is hundreds of MB."""
    given = []

    class Watching(Sum):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, image, structure):
            assert all(strip() is None for strip in given)
            return self.scale * super().forward(image, structure)

    for _, logits in strips_of(image, no_map, network=Watching()):
        assert not logits.requires_grad
        given.append(weakref.ref(logits))
        del logits
    assert len(given) > 3


def test_every_pixel_is_read_about_once_in_order_and_makes_the_map_of_its_chunk(image):
    seen = np.zeros(image.shape[:2], int)
    tops = []

    def read(rows, columns):
        seen[rows, columns] += 1
        tops.append(rows.start)
        return image[rows, columns]

    def make(_, chunk, pixels, valid):
        assert np.array_equal(pixels, image[chunk.slices])
        return no_map(_, chunk, pixels)

    segment(image, make, None, read)
    assert seen.min() == 1 and tops == sorted(tops)
    assert seen.mean() < 1.6  # chunks of three windows overlap as windows do


def test_class_and_confidence_by_hand():
    logits = torch.tensor([[0.0, 2.0, 1.0], [0.0, 0.0, -1e30]]).view(2, 1, 3)
    assert classes_of(logits).tolist() == [[0, 0, 0]]
    expected = [255 * 0.5, 255 / (1 + np.exp(-2.0)), 255]
    assert np.abs(confidence_of(logits)[0] - expected).max() <= 0.5


def test_chunks_without_data_are_neither_read_nor_mapped_and_no_other_pixel_changes(image):
    """A chunk that holds data in part has its mask for the maps; whole rows of chunks are left."""
    valid = np.zeros(image.shape[:2], bool)
    valid[5:9, 200:300], valid[400:410, 3] = True, True
    levels = np.random.default_rng(1).integers(0, 65536, image.shape[:2], dtype=np.uint16)
    read, predicted = [], []

    def read_pixels(rows, columns):
        read.append((rows, columns))
        return image[rows, columns]

    def make(_, chunk, pixels, mask):
        assert mask is None or np.array_equal(mask, valid[chunk.slices])
        return {"height": levels[chunk.slices]}

    class Counting(Sum):
        def forward(self, image, structure):
            predicted.append(len(image))
            return super().forward(image, structure)

    def run(read_mask):
        read.clear()
        predicted.clear()
        found = torch.full((3, *valid.shape), torch.nan)
        strips = strips_of(image, make, None, read_pixels, Counting(), read_mask)
        for rows, logits in strips:
            found[:, rows] = logits
        return found, len(read), sum(predicted)

    whole, num_read, num_windows = run(None)
    found, num_read_valid, num_windows_valid = run(lambda rows, columns: valid[rows, columns])
    assert torch.equal(found[:, valid], whole[:, valid])
    assert 0 < num_read_valid < num_read / 2 and num_windows_valid < num_windows / 3
    assert [*run(lambda rows, columns: np.zeros_like(valid)[rows, columns])][1:] == [0, 0]
