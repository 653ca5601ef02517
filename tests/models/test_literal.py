"""The blocks equal their documented equations: ``tests/models/literal.py``, in float64."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from configs.schema import ModelConfig, VitConfig
from models import build
from models.encoder import TokenJoin
from models.feature_recalibration import FeatureRecalibration
from models.fusion_enhancement import FusionEnhancementBlock
from models.mlp_head import MlpHead
from tests.models import literal

SIZES = [(2, 7, 13), (3, 1, 5), (1, 21, 16)]
CHANNELS, HEADS = 12, 3


def with_random_weights(module: nn.Module) -> nn.Module:
    """Every weight and running statistic drawn at random, nothing at its initial 0 or 1.

    Frozen ViTs and fixed normalisations, which are in no state dict, stay as they are.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
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


@pytest.mark.parametrize("num_layers", [1, 4])
def test_token_join_equals_its_equation(num_layers):
    """``up(W_i BN_i(t_i) + b_i)``: up to a finer grid, and down to a coarser one."""
    widths = (4, 6, 8, 10)
    join = with_random_weights(TokenJoin(CHANNELS, widths))
    tokens = list(maps(num_layers, (2, 5, 7)))
    for stage, size in enumerate([(17, 30), (9, 15), (5, 7), (3, 4)]):
        expected = literal.token_join(join.state_dict(), stage, tokens, size)
        assert expected.shape == (2, widths[stage], *size)
        assert_same([join(stage, tokens, size)], [expected])


@pytest.mark.parametrize("layers", ["four_even", "last", (2, 3, 4, 5)])
def test_encoder_equals_its_equations(layers):
    """Stem or down-sampling, then the tokens of that stage's layer, then FE and FR."""
    vit = VitConfig(name="test_vit", weights="random", layers=layers)
    other = VitConfig(name="test_vit", weights="random", layers="last", input_scale=1.5)
    network = build.build_network(
        ModelConfig(size="tiny", rgb_vit=vit, structure_vit=other),
        num_classes=2,
        structure_channels=4,
        pictures=((0, 1, 2), (3, 3, 3)),
    )
    encoder = with_random_weights(network.encoder)
    image, structure = maps(1, (2, 61, 83), 3)[0], maps(1, (2, 61, 83), 4)[0]
    tokens = [encoder.rgb.vit(image)]
    more = [encoder.structure.vit(structure[:, list(own)]) for own in ((0, 1, 2), (3, 3, 3))]
    parameters = {**encoder.state_dict(), **dict(encoder.named_buffers())}
    heads = build.SIZES["tiny"].num_heads
    expected = literal.encoder(parameters, image, structure, tokens, more, heads)
    ours = encoder(image, structure)
    assert [x.shape[1:] for x in ours] == [(32, 16, 21), (64, 8, 11), (96, 4, 6), (128, 2, 3)]
    assert_same(ours, expected, within=1e-5)  # FR's two softmaxes are in fp32
