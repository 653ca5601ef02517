"""The blocks equal their documented equations: ``tests/models/literal.py``, in float64."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from models.feature_recalibration import FeatureRecalibration
from models.fusion_enhancement import FusionEnhancementBlock
from models.mlp_head import MlpHead
from tests.models import literal

SIZES = [(2, 7, 13), (3, 1, 5), (1, 21, 16)]
CHANNELS, HEADS = 12, 3


def with_random_weights(module: nn.Module) -> nn.Module:
    """Every parameter and running statistic drawn at random, nothing at its initial 0 or 1."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.is_floating_point():
                tensor.uniform_(-0.7, 0.7, generator=generator).add_(name.endswith("running_var"))
    return module.double().eval()


def maps(count: int, size: tuple[int, int, int], channels: int = CHANNELS) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    shape = (count, size[0], channels, *size[1:])
    return torch.randn(shape, generator=generator, dtype=torch.float64).unbind()


def assert_same(ours: Sequence[Tensor], expected: Sequence[Tensor], within: float = 1e-12) -> None:
    for a, b in zip(ours, expected, strict=True):
        assert ((a - b).norm() / b.norm()).item() < within


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "branches",
    [("global_context", "structure_gate"), ("global_context", "structure_gate", "large_kernel")],
)
def test_fe_block_equals_its_equations(size, branches):
    block = FusionEnhancementBlock(
        channels=CHANNELS, num_heads=HEADS, mlp_ratio=2, drop_path=0.5, branches=branches
    )
    with_random_weights(block)
    inputs = maps(2, size)
    expected = literal.fusion_enhancement_block(dict(block.named_parameters()), *inputs, HEADS)
    assert_same(block(*inputs), expected)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("gates", ["off", "channel", "channel_spatial"])
def test_fr_equals_its_equations(size, gates):
    module = with_random_weights(FeatureRecalibration(channels=CHANNELS, gates=gates))
    inputs = maps(4, size)
    expected = literal.feature_recalibration(dict(module.named_parameters()), *inputs)
    assert_same(module(*inputs), expected, within=1e-5)  # its two softmaxes are in fp32


@pytest.mark.parametrize("size", [(2, 16, 8), (1, 13, 21)])
def test_head_equals_its_equations(size):
    channels = (4, 6, 8, 10)
    head = with_random_weights(
        MlpHead(channels=channels, embed_channels=9, num_classes=5, dropout=0.3)
    )
    batch, height, width = size
    pyramid = [
        maps(1, (batch, -(-height // 2**i), -(-width // 2**i)), 2 * c)[0]
        for i, c in enumerate(channels)
    ]
    parameters = {**dict(head.named_parameters()), **dict(head.named_buffers())}
    assert_same([head(pyramid)], [literal.mlp_head(parameters, pyramid)])
