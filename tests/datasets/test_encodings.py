import math
from dataclasses import replace

import pytest
import torch

from configs.schema import FeaturesConfig, StructureConfig
from datasets.encodings import (
    ENCODINGS,
    StructureEncoder,
    boundary,
    boundary_distance,
    color_by_id,
    log_area,
    mean_color,
    value,
)

IDS = torch.tensor([[[1, 1, 2], [1, 0, 2]]], dtype=torch.int32)
IMAGE = torch.arange(6).view(1, 1, 2, 3).float().div(10).repeat(1, 3, 1, 1)


def random_sample(seed=0, batch=2, height=24, width=17):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(batch, 3, height, width, generator=generator)
    ids = torch.randint(0, 9, (batch, height // 4 + 1, width // 4 + 1), generator=generator)
    ids = ids.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, :height, :width]
    return image, ids.int()


def test_mean_color_by_hand():
    """Segment 1 holds 0, .1 and .3; segment 2 holds .2 and .5; the pixel without id keeps .4."""
    expected = torch.tensor([[0.4 / 3, 0.4 / 3, 0.35], [0.4 / 3, 0.4, 0.35]])
    torch.testing.assert_close(mean_color(IMAGE, IDS)[0, 0], expected)


def test_boundary_by_hand():
    ids = torch.tensor([[[1, 1, 1, 2], [1, 1, 1, 1]]])
    expected = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0]])
    assert torch.equal(boundary(torch.zeros(1, 3, 2, 4), ids)[0, 0], expected)


def test_boundary_distance_by_hand():
    ids = torch.tensor([[[1] * 20 + [2] * 20]])
    distance = boundary_distance(torch.zeros(1, 3, 1, 40), ids)[0, 0, 0] * 16
    assert distance[18:22].tolist() == [1, 0, 0, 1]
    assert distance[0] == 16  # 19 px away, cut off at 16


def test_log_area_by_hand():
    values = log_area(IMAGE, IDS)[0, 0]
    assert values[0, 0].item() == pytest.approx(math.log(3) / math.log(6))
    assert values[0, 2].item() == pytest.approx(math.log(2) / math.log(6))
    assert values[1, 1].item() == 0  # a pixel without a segment stands for itself


@pytest.mark.parametrize("name", ENCODINGS)
def test_permuting_ids_changes_only_the_encoding_that_says_so(name):
    image, ids = random_sample()
    order = torch.cat([torch.zeros(1, dtype=torch.int32), 1 + torch.randperm(8).int()])
    before, after = (ENCODINGS[name][1](image, x) for x in (ids, order[ids.long()]))
    assert torch.allclose(before, after, atol=1e-6) == (name != "color_by_id")


@pytest.mark.parametrize("name", ENCODINGS)
def test_every_encoding_has_its_channels_turns_with_the_image_and_mixes_no_two(name):
    channels, encode = ENCODINGS[name]
    image, ids = random_sample()
    out = encode(image, ids)
    assert out.shape == (2, channels, 24, 17)
    assert 0 <= out.min() and out.max() <= 1
    flipped = encode(image.flip(-1), ids.flip(-1)).flip(-1)
    torch.testing.assert_close(flipped, out, atol=1e-6, rtol=0)
    torch.testing.assert_close(encode(image[1:], ids[1:]), out[1:])


def test_color_by_id_is_black_for_no_segment_and_differs_between_ids():
    colors = color_by_id(torch.zeros(1, 3, 1, 500), torch.arange(500).view(1, 1, 500))[0, :, 0]
    assert colors[:, 0].tolist() == [0, 0, 0]
    assert len({tuple(c) for c in colors.T.tolist()}) == 500


def test_values_by_hand():
    levels = torch.tensor([[[0, 1, 32768, 65535]]])
    found = value(torch.zeros(1, 3, 1, 4), levels)
    torch.testing.assert_close(found, torch.tensor([[[[0.5, 0, 32767 / 65534, 1]]]]))


def test_modalities_lie_one_behind_the_other_and_values_are_never_segments():
    structure = StructureConfig(modalities=("depth_anything", "superpixels", "height"))
    encoder = StructureEncoder(structure)
    assert encoder.stores == ("depth_anything", "superpixels", "height")
    assert encoder.value_stores == ("depth_anything", "height")
    assert encoder.num_channels == 6 and encoder.pictures == ((0, 0, 0), (1, 2, 3), (5, 5, 5))
    assert encoder.places["superpixels"] == slice(1, 5)
    image, ids = random_sample()
    levels = torch.randint(0, 65536, ids.shape)
    maps = {"depth_anything": levels, "superpixels": ids, "height": levels.flip(-1)}
    assert torch.equal(encoder.segments(maps), ids)
    colors, edges = mean_color(image, ids), boundary(image, ids)
    values, others = value(image, levels), value(image, levels.flip(-1))
    expected = torch.cat([values, colors, edges, others], 1)
    assert torch.equal(encoder(image, maps)[0], expected)
    depth = StructureEncoder(StructureConfig(modalities=("depth_anything",)))
    assert depth.segments(maps) is None


def test_cells_keep_their_grid_and_are_no_pictures():
    structure = StructureConfig(
        modalities=("superpixels", "features"), features=FeaturesConfig(num_components=4)
    )
    encoder = StructureEncoder(structure)
    assert encoder.num_channels == 4 and encoder.num_components == (4,)
    assert encoder.places == {"superpixels": slice(0, 4), "features": 1}
    assert encoder.pictures == ((0, 1, 2),) and encoder.cell_px == {"features": 8}
    assert (encoder.segment_stores, encoder.value_stores) == (("superpixels",), ())
    assert encoder.shapes((9, 16)) == [(3, 9, 16), (4, 9, 16), (4, 2, 2)]
    image, ids = torch.rand(2, 3, 8, 24), torch.ones(2, 8, 24, dtype=torch.int32)
    cells = torch.tensor([0, 1, 255], dtype=torch.uint8).expand(2, 4, 1, 3)
    maps = {"superpixels": ids, "features": cells}
    pixels, found = encoder(image, maps)
    assert torch.equal(found, torch.tensor([0.5, 0, 1]).expand(2, 4, 1, 3))  # 0.5: no data
    plain = StructureEncoder(replace(structure, modalities=("superpixels",)))
    assert torch.equal(pixels, plain(image, maps)[0])
    present = torch.tensor([[True, False], [False, True]])
    pixels, found = encoder(image, maps, None, present)
    assert (found[0] == 0.5).all() and (found[1, :, 0, 2] == 1).all() and (pixels[1] == 0.5).all()
    missing = StructureEncoder(replace(structure, absent=("features",)))
    assert missing.num_components == (4,) and missing.cell_px == {}
    assert torch.equal(missing(image, maps)[1], torch.full((2, 4, 1, 3), 0.5))
    alone = StructureEncoder(replace(structure, modalities=("features",)))
    assert alone.pictures == () and alone.shown == (0, 1, 2) and alone.segments(maps) is None
    assert alone(image, maps, 1 - image)[0] is image and alone.num_channels == 3


def test_an_absent_modality_is_grey_whether_dropped_or_missing():
    both = StructureConfig(modalities=("superpixels", "height"))
    encoder, (image, ids) = StructureEncoder(both), random_sample()
    maps = {"superpixels": ids, "height": torch.randint(0, 65536, ids.shape)}
    (full,) = encoder(image, maps)
    present = torch.tensor([[True, False], [True, True]])
    (dropped,) = encoder(image, maps, None, present)
    assert torch.equal(dropped[:, :4], full[:, :4]) and torch.equal(dropped[1], full[1])
    assert (dropped[0, 4] == 0.5).all()
    missing = StructureEncoder(replace(both, absent=("height",)))
    assert missing.stores == ("superpixels",) and missing.num_channels == 5
    assert missing.available == (True, False)
    (absent,) = missing(image, maps)
    assert torch.equal(absent[:, :4], full[:, :4]) and (absent[:, 4] == 0.5).all()


def test_off_gives_the_image_and_shuffled_takes_the_colours_of_the_other_image():
    image, ids = random_sample()
    other, _ = random_sample(1)
    off = StructureEncoder(StructureConfig(control="off"))
    assert off.stores == () and off.num_channels == 3 and off(image, {}) == (image,)
    assert off.segments({"superpixels": ids}) is None and off.places == {}
    shuffled = StructureEncoder(StructureConfig(control="shuffled"))
    assert shuffled.segments({"superpixels": ids}) is None
    (out,) = shuffled(image, {"superpixels": ids}, other)
    torch.testing.assert_close(out[:, :3], mean_color(other, ids))
