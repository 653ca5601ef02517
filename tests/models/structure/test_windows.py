import numpy as np
import pytest

from models.structure.generator import StructureGenerator
from models.structure.segments import canonical, connected_components
from models.structure.windows import Windowed
from utils.errors import DataError


class Fake(StructureGenerator):
    """Generator that calls ``make`` and records the image sizes of each call."""

    weights_sha256 = "0" * 64
    images_per_batch = 2

    def __init__(self, kind, make):
        self.kind, self.make, self.calls = kind, make, []

    def generate_batch(self, images):
        self.calls.append([image.shape[:2] for image in images])
        return [self.make(image) for image in images]


def picture(values: np.ndarray) -> np.ndarray:
    """An image that hides integers below 2**24, one a pixel."""
    return np.stack([values >> 16, values >> 8 & 255, values & 255], axis=-1).astype(np.uint8)


def hidden(image: np.ndarray) -> np.ndarray:
    return image.astype(np.int64) @ [1 << 16, 1 << 8, 1]


def discs(height: int, width: int, seed: int) -> np.ndarray:
    """Discs of many sizes that do not touch, 1 on 0."""
    rng, scene = np.random.default_rng(seed), np.zeros((height, width), np.int64)
    y, x = np.indices(scene.shape)
    fixed = [(64, 64, 12), (64, 90, 5), (90, 140, 45)]  # a corner of four, a border, many windows
    random = zip(rng.integers(height, size=90), rng.integers(width, size=90), strict=True)
    for top, left, radius in [*fixed, *((*place, rng.integers(1, 15)) for place in random)]:
        far = (y - top) ** 2 + (x - left) ** 2
        if not scene[far <= (radius + 3) ** 2].any():
            scene[far <= radius**2] = 1
    return scene


def components(background_is_segment: bool):
    """Numbers what an image shows: every connected disc, and 0 or one segment for the rest."""
    rng = np.random.default_rng(0)

    def make(image: np.ndarray) -> np.ndarray:
        ids = connected_components(hidden(image))
        if background_is_segment:
            ids[ids == 0] = ids.max() + 1
        names = np.r_[0, rng.permutation(9999)[: ids.max()] + 1]
        return names[ids].astype(np.uint16)

    return make


def relative(seed: int):
    """Depth as a network gives it: 0..1 in every window, then a random positive scale and shift."""
    rng = np.random.default_rng(seed)

    def make(image: np.ndarray) -> np.ndarray:
        values = hidden(image)
        values = (values - values.min()) / (np.ptp(values) or 1)
        return (values * rng.uniform(0.5, 2) + rng.normal()).astype(np.float32)

    return make


def surface(height: int, width: int) -> np.ndarray:
    y, x = np.indices((height, width)) / 100
    z = np.sin(3 * x) + np.cos(2 * y + x) * y
    return np.round((z - z.min()) / np.ptp(z) * (2**24 - 1)).astype(np.int64)


SIZES = [(150, 200), (64, 300), (300, 50)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("background_is_segment", [False, True])
def test_every_object_is_one_segment_as_in_a_map_of_the_whole_image(size, background_is_segment):
    image = picture(discs(*size, seed=1))
    inner = Fake("segments", components(background_is_segment))
    joint = Windowed(inner, window_px=64, overlap_px=16).generate(image)
    assert joint.dtype == np.uint16 and joint.max() > 2
    assert np.array_equal(joint, canonical(inner.make(image)))
    assert max(max(shape) for call in inner.calls for shape in call) == 64


@pytest.mark.parametrize("size", SIZES)
def test_depth_has_one_scale_and_no_step(size):
    truth = surface(*size)
    windowed = Windowed(Fake("values", relative(0)), window_px=64, overlap_px=16)
    joint = windowed.generate(picture(truth))
    assert joint.dtype == np.float32 and joint.shape == size
    # The difference as a share of the range, after the best scale and shift of all pixels.
    columns = np.stack([joint.ravel().astype(float), np.ones(joint.size)], axis=1)
    (scale, shift), *_ = np.linalg.lstsq(columns, truth.ravel(), rcond=None)
    error = (joint * scale + shift - truth) / np.ptp(truth)
    assert scale > 0 and np.abs(error).max() < 1e-5
    for axis in (0, 1):
        assert np.abs(np.diff(error, axis=axis)).max() < 1e-5


@pytest.mark.parametrize("kind", ["segments", "values"])
def test_small_images_go_straight_through_beside_large_ones(kind):
    sizes = [(64, 64), (64, 65), (10, 3), (130, 40), (64, 20)]
    images = [picture(surface(*size)) for size in sizes]
    make = {"segments": lambda: components(True), "values": lambda: relative(3)}[kind]
    inner = Fake(kind, make())
    windowed = Windowed(inner, window_px=64, overlap_px=16)
    assert (windowed.kind, windowed.images_per_batch) == (kind, 2)
    assert windowed.weights_sha256 == "0" * 64
    maps = windowed.generate_batch(images)
    assert [each.shape for each in maps] == sizes
    assert inner.calls[0] == [(64, 64), (10, 3), (64, 20)]  # one call, in their order
    assert inner.calls[1:] == [[(64, 64)] * 2, [(64, 40)] * 2, [(64, 40)]]
    for index, alone in zip((0, 2, 4), Fake(kind, make()).generate_batch(images[::2]), strict=True):
        assert np.array_equal(maps[index], alone) and maps[index].dtype == alone.dtype
    assert windowed.generate_batch([]) == []


def test_more_segments_than_16_bits_hold_are_an_error_with_the_hint():
    def single(image):
        numbers = np.arange(1, image.shape[0] * image.shape[1] + 1, dtype=np.uint16)
        return numbers.reshape(image.shape[:2])

    image = np.zeros((260, 260, 3), np.uint8)
    with pytest.raises(DataError, match=r"has 67600 segments .* make the segments larger"):
        Windowed(Fake("segments", single), window_px=140, overlap_px=20).generate(image)
