"""Components of tokens: their fit, their windows, their levels."""

import numpy as np
import pytest
import torch

from configs.schema import FeaturesConfig
from models.structure.build import build_generator
from models.structure.features import Features
from tests.models.structure.test_superpixels import natural_image
from utils.errors import ConfigError, DataError

CPU = torch.device("cpu")
SETTINGS = {"name": "test_vit", "checkpoint": "random", "precision": "fp32", "num_components": 8}


def build(**settings) -> Features:
    return build_generator("features", FeaturesConfig(**{**SETTINGS, **settings}), CPU)


def fitted(**settings) -> Features:
    generator = build(**settings)
    generator.use(generator.fit([(natural_image(96, 96), None)]), "test")
    return generator


def live_tokens(generator: Features, image: np.ndarray, scale: float) -> torch.Tensor:
    """The tokens of all layers as the network's own ViT has them, ``(gh, gw, C)``."""
    vit = generator._vit
    vit.input_scale = scale
    picture = torch.from_numpy(image).movedim(-1, 0)[None] / 255
    return torch.cat(vit(picture), 1)[0].movedim(0, -1)


def test_the_fit_is_that_of_numpy_on_all_tokens_with_data():
    generator = build()
    images = [natural_image(96, 80), natural_image(64, 72)[::-1].copy()]
    valid = np.random.default_rng(0).random((8, 9)) > 0.3
    fit = generator.fit([(images[0], None), (images[1], valid)])
    tokens = [live_tokens(generator, image, 2.0).double().numpy() for image in images]
    rows = np.concatenate([tokens[0].reshape(-1, 256), tokens[1][valid]])
    assert len(rows) == 12 * 10 + valid.sum()
    values, vectors = np.linalg.eigh(np.corrcoef(rows.T))
    basis = vectors[:, :-9:-1]
    np.testing.assert_allclose(fit["mean"], rows.mean(0), atol=1e-5)
    np.testing.assert_allclose(fit["std"], rows.std(0), rtol=1e-5)
    np.testing.assert_allclose(fit["scale"], np.sqrt(values[:-9:-1]), rtol=1e-4)
    agreement = (fit["basis"].numpy() * basis).sum(0)
    np.testing.assert_allclose(np.abs(agreement), 1, atol=1e-5)
    assert (fit["basis"].amax(0) >= -fit["basis"].amin(0)).all()  # the largest entry is positive
    components = (rows - rows.mean(0)) / rows.std(0) @ fit["basis"].numpy() / fit["scale"].numpy()
    np.testing.assert_allclose(components.std(0), 1, rtol=1e-4)


def test_a_map_holds_the_live_tokens_of_the_picture_to_half_a_level():
    generator = fitted()
    image = natural_image(104, 72)
    found = generator.generate(image)
    assert found.shape == (8, 13, 9) and found.dtype == np.uint8 and found.min() >= 1
    fit = generator._fit
    tokens = live_tokens(generator, image, 2.0)
    expected = ((tokens - fit["mean"]) / fit["std"] @ fit["basis"] / fit["scale"]).movedim(-1, 0)
    back = (torch.from_numpy(found).double() - 1) / 254 * 8 - 4
    assert (back - expected.clamp(-4, 4)).abs().max() <= 4 / 254 * 1.01
    assert expected.abs().max() > 4  # some are clipped


def test_one_window_is_the_whole_and_several_are_blended_by_weights_that_sum_to_one():
    image = natural_image(100, 150)  # cells of 7.7 x 7.9 px
    whole = fitted(window_px=152, window_overlap_px=16).generate(image)
    assert np.array_equal(whole, fitted(window_px=304).generate(image))
    windowed = fitted(window_px=64, window_overlap_px=24)
    rows, columns = (windowed._spans(*axis) for axis in ((100, 13), (150, 19)))
    assert [len(rows), len(columns)] == [2, 4]
    for spans, length, count in ((rows, 100, 13), (columns, 150, 19)):
        total = np.zeros(count)
        for span in spans:
            total[span.cells] += span.weight
            assert span.pixels.start == round(span.cells.start * length / count)
        np.testing.assert_allclose(total, 1, atol=1e-6)
        assert spans[0].pixels.start == 0 and spans[-1].pixels.stop == length
    np.testing.assert_allclose(rows[0].weight, rows[1].weight[::-1], atol=1e-6)
    assert rows[0].weight[0] == 1 and (np.diff(rows[0].weight[5:]) < 0).all()
    seen = []
    windowed._first_components = lambda crops, grid, count: [
        seen.append(crop) or torch.full((8, *grid), crop[0, 0, 0] / 32 - 4)
        for crop in crops[:count]
    ]
    image = np.empty((100, 150, 3), np.uint8)
    image[:] = np.arange(150)[:, None]  # constant windows, which differ along the columns
    levels = windowed.generate(image)
    assert len(seen) == 8 and (levels[:, :1] == levels).all()
    assert (np.diff(levels[0, 0].astype(int)) >= 0).all() and len(np.unique(levels)) > 8


def test_windows_of_several_images_and_batches_give_what_each_gives():
    generator = fitted(window_px=64, window_overlap_px=16)
    images = [natural_image(*size) for size in ((96, 96), (64, 64), (33, 120))]
    alone = [generator.generate(image) for image in images]
    generator.images_per_batch = 3
    for found, expected in zip(generator.generate_batch(images), alone, strict=True):
        assert np.abs(found.astype(int) - expected).max() <= 1
        assert (found == expected).mean() > 0.99


def test_the_hash_covers_the_fit_and_another_fit_is_refused():
    generator = build()
    of_vit, fit = generator.weights_sha256, generator.fit([(natural_image(64, 64), None)])
    generator.use(fit, "a")
    first = generator.weights_sha256
    generator.use({**fit, "scale": fit["scale"] + 1}, "a")
    assert len({of_vit, first, generator.weights_sha256}) == 3
    text = r"fit\.npz holds no fit of test_vit with 8 components; it is damaged"
    nan = {**fit, "mean": fit["mean"] * torch.nan}
    for wrong in (build(num_components=9).fit([(natural_image(64, 64), None)]), {}, nan):
        with pytest.raises(DataError, match=text):
            generator.use(wrong, "fit.npz")
    with pytest.raises(DataError, match="no cell of the training images holds data"):
        generator.fit([(natural_image(64, 64), np.zeros((8, 8), bool))])


def test_more_components_than_channels_are_refused():
    build(layers="last", num_components=64)
    with pytest.raises(ConfigError, match="is 65, and test_vit with layers=last has 64 channels"):
        build(layers="last", num_components=65)
