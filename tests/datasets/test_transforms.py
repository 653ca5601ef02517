import numpy as np
import pytest
import torch

from datasets.transforms import Geometry, draw_color_factors, jitter_colors


def coordinates(height, width):
    """A picture in which every pixel tells its place, as image, target and segment ids alike."""
    place = np.arange(height * width, dtype=np.int32).reshape(height, width)
    image = np.stack([place // width, place % width, 0 * place], -1).astype(np.uint8)
    return {"image": image, "target": (place % 200).astype(np.uint8), "superpixels": place}


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("size", [(40, 40), (40, 90), (7, 100), (1, 1)])
def test_members_stay_aligned_without_zoom(seed, size):
    geometry = Geometry(crop_size_px=32, scale_range=(1.0, 1.0), dihedral=True)
    out = geometry(coordinates(*size), np.random.default_rng(seed))
    image, target, ids = out["image"], out["target"], out["superpixels"]
    assert image.shape == (32, 32, 3) and target.shape == ids.shape == (32, 32)
    inside = target != 255
    rows, columns = image[..., 0].astype(int), image[..., 1].astype(int)
    assert np.array_equal(ids[inside], (rows * size[1] + columns)[inside])
    assert np.array_equal(target[inside], (ids % 200)[inside])
    assert (image[~inside] == 0).all() and (ids[~inside] == 0).all()
    assert inside.sum() == min(32, size[0]) * min(32, size[1])


@pytest.mark.parametrize("zoom", [0.5, 0.8, 1.7])
def test_members_stay_aligned_with_zoom(zoom):
    """A vertical edge in image and ids stays at one column after resizing."""
    image = np.zeros((80, 80, 3), np.uint8)
    image[:, 40:] = 255
    ids = (image[..., 0] > 0).astype(np.int32) + 1
    members = {"image": image, "target": (ids - 1).astype(np.uint8), "superpixels": ids}
    geometry = Geometry(crop_size_px=40, scale_range=(zoom, zoom), dihedral=True)
    for seed in range(10):
        out = geometry(members, np.random.default_rng(seed))
        valid = out["target"] != 255
        assert np.array_equal(out["superpixels"][valid] - 1, out["target"][valid])
        bright = out["image"][..., 0].astype(int)
        certain = valid & ((bright < 64) | (bright > 192))
        assert certain.sum() > 0.8 * valid.sum()
        assert np.array_equal(bright[certain] > 128, out["target"][certain] == 1)


def test_ids_and_classes_are_never_blended():
    rng = np.random.default_rng(0)
    ids = rng.choice(np.array([3, 50_000], np.int32), (64, 64))
    members = {
        "image": np.zeros((64, 64, 3), np.uint8),
        "target": rng.choice(np.array([0, 4, 255], np.uint8), (64, 64)),
        "superpixels": ids,
    }
    geometry = Geometry(crop_size_px=48, scale_range=(0.6, 1.6), dihedral=False)
    for seed in range(10):
        out = geometry(members, np.random.default_rng(seed))
        assert set(np.unique(out["superpixels"])) <= {0, 3, 50_000}
        assert set(np.unique(out["target"])) <= {0, 4, 255}


def test_all_eight_turns_occur_and_only_one_without_dihedral():
    members = coordinates(32, 32)

    def corners(dihedral):
        geometry = Geometry(crop_size_px=32, scale_range=(1.0, 1.0), dihedral=dihedral)
        outs = [geometry(members, np.random.default_rng(i))["superpixels"] for i in range(100)]
        return {(int(out[0, 0]), int(out[0, -1])) for out in outs}

    assert len(corners(True)) == 8
    assert corners(False) == {(0, 31)}


def test_every_position_can_be_drawn_and_none_beyond_the_edge():
    """Fault 31: the released crop may start one pixel too far."""
    geometry = Geometry(crop_size_px=4, scale_range=(1.0, 1.0), dihedral=False)
    outs = [geometry(coordinates(4, 7), np.random.default_rng(i)) for i in range(200)]
    assert {int(out["superpixels"][0, 0]) for out in outs} == {0, 1, 2, 3}
    assert all((out["target"] != 255).all() for out in outs)


def test_jitter_by_hand():
    image = torch.tensor([0.2, 0.4, 0.6]).view(1, 3, 1, 1)
    factors = torch.tensor([[1.5, 1.0, 0.0]])  # brighter, then all colour removed
    grey = 1.5 * (0.299 * 0.2 + 0.587 * 0.4 + 0.114 * 0.6)
    torch.testing.assert_close(jitter_colors(image, factors), torch.full((1, 3, 1, 1), grey))
    contrast = torch.tensor([[1.0, 0.5, 1.0]])
    two = torch.tensor([0.2, 0.6]).view(1, 1, 1, 2).repeat(1, 3, 1, 1)
    expected = torch.tensor([0.3, 0.5])
    torch.testing.assert_close(jitter_colors(two, contrast)[0, 0, 0], expected)


def test_jitter_without_strength_changes_nothing_and_stays_in_range_with_it():
    image = torch.rand(4, 3, 5, 6)
    rng = np.random.default_rng(0)
    none = torch.from_numpy(np.stack([draw_color_factors(0.0, rng) for _ in range(4)]))
    torch.testing.assert_close(jitter_colors(image, none), image)
    strong = torch.from_numpy(np.stack([draw_color_factors(0.9, rng) for _ in range(4)]))
    out = jitter_colors(image, strong)
    assert 0 <= out.min() and out.max() <= 1 and not torch.allclose(out, image)
