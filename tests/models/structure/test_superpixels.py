import numpy as np
import pytest
import torch

from configs.schema import SuperpixelsConfig
from models.structure.segments import canonical, connected_components
from models.structure.superpixels import Superpixels, rgb_to_lab


def natural_image(height, width, seed=0):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    image = np.zeros((height, width, 3))
    for _ in range(30):
        slope, offset = rng.normal(size=2), rng.random()
        side = slope[0] * (y / height - 0.5) + slope[1] * (x / width - 0.5) > offset - 0.5
        image[side] += rng.normal(size=3) * 25
    return np.clip(image + 128 + rng.normal(size=image.shape) * 6, 0, 255).astype(np.uint8)


def superpixels(image, device="cpu", **settings):
    return Superpixels(SuperpixelsConfig(**settings), torch.device(device)).generate(image)


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 255, 0), (87.74, -86.18, 83.18)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
        ((255, 255, 255), (100.0, 0.0, 0.0)),
        ((0, 0, 0), (0.0, 0.0, 0.0)),
    ],
)
def test_cielab_of_the_corners_of_the_rgb_cube(rgb, lab):
    value = rgb_to_lab(torch.tensor(rgb, dtype=torch.uint8).view(1, 1, 3)).flatten().tolist()
    assert value == pytest.approx(lab, abs=0.02)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (33, 50), (100, 101)])
def test_the_map_is_total_canonical_and_every_segment_is_connected_and_large_enough(size):
    ids = superpixels(natural_image(*size), min_area_share=0.25)
    assert ids.shape == size and ids.dtype == np.uint16 and ids.min() == 1
    assert np.array_equal(canonical(ids), ids)
    assert connected_components(ids).max() == ids.max()
    assert np.bincount(ids.ravel())[1:].min() >= min(64, ids.size)


def test_the_map_does_not_depend_on_the_number_of_threads():
    image = natural_image(100, 101)
    before = torch.get_num_threads()
    maps = []
    for num_threads in (1, 2):
        torch.set_num_threads(num_threads)
        maps.append(superpixels(image))
    torch.set_num_threads(before)
    assert np.array_equal(*maps)


def test_assignments_equal_equation_3_pixel_by_pixel():
    image = natural_image(20, 28, seed=3)
    settings = {"segment_size_px": 4, "compactness": 7.0, "num_iterations": 2}
    found = superpixels(image, min_area_share=0.0, **settings)
    lab = rgb_to_lab(torch.tensor(image)).double().permute(1, 2, 0).numpy()
    places = np.moveaxis(np.indices((20, 28)), 0, -1)
    own = places[..., 0] // 4 * 7 + places[..., 1] // 4
    cluster = own
    for _ in range(2):
        members = [cluster == number for number in range(5 * 7)]
        centres = [(lab[each].mean(0), places[each].mean(0)) for each in members]
        cluster = np.zeros((20, 28), dtype=int)
        for y, x in np.ndindex(20, 28):
            distance = {
                number: ((lab[y, x] - color) ** 2).sum()
                + (7.0 / 4) ** 2 * (([y, x] - place) ** 2).sum()
                for number, (color, place) in enumerate(centres)
                if abs(number // 7 - y // 4) <= 1 and abs(number % 7 - x // 4) <= 1
            }
            cluster[y, x] = min(distance, key=distance.__getitem__)
    np.testing.assert_array_equal(found, canonical(connected_components(1 + cluster)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_map_does_not_depend_on_the_device():
    image = natural_image(500, 333, seed=6)
    np.testing.assert_array_equal(superpixels(image, "cuda"), superpixels(image))
