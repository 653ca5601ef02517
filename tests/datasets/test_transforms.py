import numpy as np
import pytest
import torch
from PIL import Image

from datasets.encodings import shuffle_ids
from datasets.transforms import Geometry, draw_color_factors, draw_id_key, jitter_colors
from tests.datasets.coordinates import check_aligned, cut_all, draw_members
from utils.boxes import nearest_pixels


@pytest.mark.parametrize("size", [(40, 90), (7, 100), (1, 1), (33, 31)])
def test_members_are_equal_without_zoom_and_views_where_the_tile_is_large_enough(size):
    geometry = Geometry(crop_size_px=32, scale_range=(1.0, 1.0), dihedral=True)
    members = draw_members(*size)
    for seed in range(20):
        out = cut_all(geometry, members, seed)
        if min(size) >= 32:
            assert all(np.shares_memory(out[name], members[name]) for name in members)
        check_aligned(out, size, 1.0)
        assert out["image"].shape == (32, 32, 3) and out["ids"].shape == (32, 32)
        assert (out["target"] != 255).sum() == min(32, size[0]) * min(32, size[1])


@pytest.mark.parametrize("zoom", [0.57, 0.83, 1.31, 1.9])
def test_photos_values_and_ids_have_one_convention(zoom):
    """Not even a small part of a pixel off on the average: half-pixel centres in all of them."""
    geometry = Geometry(
        crop_size_px=64, scale_range=(zoom, zoom), dihedral=False, value_stores=("levels",)
    )
    out = cut_all(geometry, draw_members(200, 200), 0)
    rows, columns = np.divmod(out["ids"].astype(int) - 1, 200)
    inner = np.s_[4:-4, 4:-4]
    for channel, places in enumerate((rows, columns)):
        assert abs((out["image"][..., channel].astype(int) - places)[inner].mean()) < 0.1
    levels = (out["levels"].astype(float) - 1 - 50 * columns) / 100
    assert abs((levels - rows)[inner].mean()) < 0.1


@pytest.mark.parametrize("side", [7, 20, 33, 64])
def test_a_photo_is_resized_as_pillow_does_it(side):
    """Both average when it gets smaller; they may round apart by one."""
    photo = np.random.default_rng(side).integers(0, 256, (side, side, 3)).astype(np.uint8)
    geometry = Geometry(crop_size_px=32, scale_range=(32 / side, 32 / side), dihedral=False)
    out = cut_all(geometry, {"image": photo}, 0)["image"]
    theirs = np.array(Image.fromarray(photo).resize((32, 32), Image.Resampling.BILINEAR))
    assert np.abs(out.astype(int) - theirs).max() <= 1


@pytest.mark.parametrize(("length", "new"), [(5, 5), (5, 3), (3, 5), (1, 4), (4, 1), (10, 7)])
def test_the_nearest_pixel_is_the_one_with_the_nearest_centre(length, new):
    centres = (np.arange(new) + 0.5) * length / new
    distance = np.abs(centres[:, None] - (np.arange(length) + 0.5))
    chosen = distance[np.arange(new), nearest_pixels(length, new)]
    np.testing.assert_allclose(chosen, distance.min(1))


def test_all_eight_turns_occur_and_only_one_without_dihedral():
    members = draw_members(32, 32)

    def corners(dihedral):
        geometry = Geometry(crop_size_px=32, scale_range=(1.0, 1.0), dihedral=dihedral)
        outs = [cut_all(geometry, members, seed)["ids"] for seed in range(100)]
        return {(int(out[0, 0]), int(out[0, -1])) for out in outs}

    assert len(corners(True)) == 8
    assert corners(False) == {(1, 32)}


def test_every_position_can_be_drawn_and_none_beyond_the_edge():
    """Fault 31: the released crop may start one pixel too far."""
    geometry = Geometry(crop_size_px=4, scale_range=(1.0, 1.0), dihedral=False)
    outs = [cut_all(geometry, draw_members(4, 7), seed) for seed in range(200)]
    assert {int(out["ids"][0, 0]) for out in outs} == {1, 2, 3, 4}
    assert all((out["target"] != 255).all() for out in outs)


@pytest.mark.parametrize("zoom", [0.45, 0.8, 1.0, 1.6])
@pytest.mark.parametrize("size", [(70, 90), (90, 41)])
def test_a_crop_shows_the_pixel_it_is_to_show_and_any_crop_that_does_is_drawn(zoom, size):
    geometry = Geometry(crop_size_px=16, scale_range=(zoom, zoom), dihedral=True)
    members, rng = draw_members(*size), np.random.default_rng(0)
    starts = set()
    for shown in [(2, 2), (size[0] - 3, size[1] - 3), (31, 17)]:
        for _ in range(100):
            crop = geometry.draw(size, rng, shown)
            assert 0 <= crop.box.top_px <= size[0] - crop.box.height_px
            assert 0 <= crop.box.left_px <= size[1] - crop.box.height_px
            ids = geometry.cut("ids", members["ids"], crop)
            assert (ids == members["ids"][shown]).any()
            starts.add((shown, crop.box.top_px))
    inner = sorted(top for shown, top in starts if shown[0] == 31)
    kept = set(nearest_pixels(crop.box.height_px, 16))
    possible = {31 - place for place in kept} & set(range(size[0] - crop.box.height_px + 1))
    assert set(inner) == possible


def test_a_tile_smaller_than_the_window_shows_the_pixel_wherever_it_lies():
    geometry = Geometry(crop_size_px=32, scale_range=(1.0, 1.2), dihedral=True)
    members, rng = draw_members(5, 9), np.random.default_rng(0)
    for _ in range(50):
        window = geometry.draw((5, 9), rng, (4, 8))
        assert (geometry.cut("ids", members["ids"], window) == 45).any()


def test_shuffled_ids_are_a_bijection_that_keeps_no_segment_apart():
    ids = torch.arange(65536).view(1, 256, 256)
    seen = set()
    for seed in range(50):
        key = draw_id_key(np.random.default_rng(seed))
        assert key.dtype == np.int32 and (key % 2 == 1).all() and 0 < key.min() <= key.max() < 32768
        shuffled = shuffle_ids(ids, torch.from_numpy(key)[None])
        assert shuffled[0, 0, 0] == 0
        assert torch.equal(shuffled.flatten().sort().values, torch.arange(65536, dtype=torch.int32))
        seen.add(tuple(shuffled.flatten()[1:9].tolist()))
    assert len(seen) == 50


def test_shuffled_ids_spread_evenly():
    """The new id of a segment is any of the 65535: every sixteenth of them as often as others."""
    keys = np.stack([draw_id_key(np.random.default_rng(seed)) for seed in range(4000)])
    for old in (1, 2, 77, 32768, 65535):
        ids = torch.full((4000, 1, 1), old, dtype=torch.uint16)
        new = shuffle_ids(ids, torch.from_numpy(keys)).flatten()
        shares = torch.bincount(new // 4096, minlength=16) / 4000
        assert (shares - 1 / 16).abs().max() < 0.03, old


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
