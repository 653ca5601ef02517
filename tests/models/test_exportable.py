"""The two operations that are written as products, against PyTorch's and timm's own."""

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed
from torch import nn

from configs.schema import ModelConfig, VitConfig
from models.build import build_network
from models.export import (
    PoolByProducts,
    ResizeByProducts,
    exportable,
    resample_positions,
    rotary_positions,
)
from models.frozen_vit import load_frozen_vit
from models.layers import BicubicResize


@pytest.mark.parametrize("size", [(7, 7), (1, 1), (8, 13), (3, 50), (64, 41)])
def test_pooling_by_products_is_adaptive_pooling(size):
    x = torch.rand(2, 3, *size)
    expected = F.adaptive_avg_pool2d(x, 7)
    torch.testing.assert_close(PoolByProducts(7)(x), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("num_prefix", [0, 1, 5])
@pytest.mark.parametrize("new", [(37, 37), (10, 14), (1, 1), (37, 20), (60, 45), (38, 36)])
def test_positions_by_products_are_those_of_timm(new, num_prefix):
    positions = torch.randn(1, num_prefix + 37 * 37, 8, generator=torch.Generator().manual_seed(0))
    expected = resample_abs_pos_embed(positions, new, (37, 37), num_prefix)
    ours = resample_positions(positions, new, (37, 37), num_prefix)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("old", [(48, 80), (1, 1), (33, 50), (100, 17), (2, 3)])
def test_a_resize_by_products_is_that_of_pytorch(old):
    x, size = torch.rand(2, 3, *old), (112, 84)
    ours = ResizeByProducts()(x, size)
    torch.testing.assert_close(ours, BicubicResize()(x, size), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(5, 7), (1, 1), (37, 20)])
def test_rotary_positions_are_those_of_timm(size):
    rope = load_frozen_vit("vit_small_patch16_dinov3", "random").vit.rope
    expected = rope.get_embed(shape=size)
    torch.testing.assert_close(rotary_positions(rope, size), expected, rtol=1e-6, atol=1e-6)


def test_the_network_is_as_before_after_the_block_whatever_happens_in_it():
    network = build_network(
        ModelConfig(
            size="tiny",
            rgb_vit=VitConfig(weights="random"),
            structure_vit=VitConfig(name="none"),
        ),
        num_classes=3,
        structure_channels=4,
        pictures=((0, 1, 2),),
    ).eval()
    inputs = torch.rand(1, 3, 65, 47), torch.rand(1, 4, 65, 47)
    timms = timm.models.vision_transformer.resample_abs_pos_embed
    with torch.no_grad():
        before = network(*inputs)
        with pytest.raises(KeyError), exportable(network):
            assert not any(isinstance(m, nn.AdaptiveAvgPool2d) for m in network.modules())
            assert timm.models.vision_transformer.resample_abs_pos_embed is resample_positions
            inside = network(*inputs)
            raise KeyError
        assert torch.equal(network(*inputs), before)
    assert timm.models.vision_transformer.resample_abs_pos_embed is timms
    assert not torch.equal(inside, before)  # the products were used
    torch.testing.assert_close(inside, before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_picture_of_whole_patches_is_not_changed_by_the_resize(dtype):
    """Which is why it is always resized: the comparison of sizes would fix them in a file."""
    vit = load_frozen_vit("test_vit", "random", dtype=dtype)
    picture = torch.rand(2, 3, 48, 80).to(memory_format=torch.channels_last)
    x = vit.normalize(picture)
    for autocast in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            resized = vit.resize(x, (48, 80))
        assert torch.equal(resized, x)
