"""Faults 1-25 of the released code (its model) that could silently come back, by number.

Faults 7, 8, 10, 16, 19 and 20 are in ``test_blocks.py``, 11 and 12 in ``test_frozen_vit.py``. The
others (1-4, 9, 23, 25) are errors at import or construction that no working network can have.
"""

import pytest
import torch
from torch import Tensor, nn

from configs.schema import ModelConfig, OptimConfig, VitConfig
from models.build import build_network
from models.feature_recalibration import ChannelGate, FeatureRecalibration, SpatialGate
from models.fusion_enhancement import FusionEnhancement, FusionEnhancementBlock
from models.vsgnet import VSGNet
from utils.training.optim import build_optimizer

RANDOM = VitConfig(name="test_vit", weights="random")


def network(vit: VitConfig = RANDOM) -> VSGNet:
    torch.manual_seed(0)
    config = ModelConfig(size="tiny", rgb_vit=vit, structure_vit=vit, drop_path=0.0)
    return build_network(config, num_classes=5, structure_channels=4, pictures=((0, 1, 2),)).eval()


def maps(count: int, channels: int = 16, size: tuple[int, int] = (8, 11)) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, channels, *size, generator=generator) for _ in range(count)]


def test_fault_5_each_stage_runs_once_at_its_own_scale():
    net, seen = network(), []

    def note(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen.append((type(module), tuple(args[0].shape[1:])))

    for module in net.modules():
        if isinstance(module, (FusionEnhancement, FeatureRecalibration)):
            module.register_forward_pre_hook(note)
    net(torch.rand(1, 3, 128, 64), torch.rand(1, 4, 128, 64))
    sizes = [(16, 32, 16), (32, 16, 8), (48, 8, 4), (64, 4, 2)]
    both = (FusionEnhancement, FeatureRecalibration)
    assert seen == [(block, size) for size in sizes for block in both]


@pytest.mark.parametrize("module", [FeatureRecalibration(channels=16).eval()])
def test_fault_6_recalibration_treats_rows_and_columns_alike(module):
    """Fed channels-last tensors, the released block joins streams along the height."""
    inputs = maps(4)
    for ours, swapped in zip(module(*inputs), module(*(x.mT for x in inputs)), strict=True):
        torch.testing.assert_close(swapped, ours.mT, rtol=1e-4, atol=1e-5)


def test_fault_14_every_structure_channel_reaches_the_logits():
    net = network(VitConfig(name="none"))
    structure = torch.rand(1, 4, 64, 64, requires_grad=True)
    net(torch.rand(1, 3, 64, 64), structure).square().sum().backward()
    assert (structure.grad.abs().sum((0, 2, 3)) > 0).all()


def test_fault_16_attention_spreads_over_many_positions():
    """For normal logits a plain softmax has a support of thousands of positions, not of one."""
    logits = torch.randn(1, 128 * 128, generator=torch.Generator().manual_seed(0))
    gate = ChannelGate(1)
    with torch.no_grad():
        gate.attend.weight.copy_(torch.tensor([1.0, 0.0]).view(1, 2, 1, 1))
    z = torch.stack([logits, torch.zeros_like(logits)], 1).view(1, 2, 128, 128)
    z.requires_grad_()
    gate(z).sum().backward()
    share = z.grad[0, 0].flatten().abs()
    share = share / share.sum()
    assert 1 / share.square().sum() > 1000  # inverse participation


def test_fault_17_channel_gate_is_not_linear():
    gate = ChannelGate(16).gate[:-1]  # without the sigmoid
    a, b = torch.randn(2, 4, 32, generator=torch.Generator().manual_seed(0)).unbind()
    zero = torch.zeros_like(a)
    assert ((gate(a + b) - gate(a) - gate(b) + gate(zero)).abs() > 1e-4).any()


def test_fault_18_spatial_gate_is_bounded_and_sees_the_recalibrated_features():
    assert 0 <= SpatialGate(16)(1e3 * maps(1, 32)[0]).min()
    assert SpatialGate(16)(1e3 * maps(1, 32)[0]).max() <= 1
    module = FeatureRecalibration(channels=16)
    seen = []
    module.spatial_rgb.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x_rgb, x_structure, f_rgb, f_structure = maps(4)
    module(x_rgb, x_structure, f_rgb, f_structure)
    z = torch.cat([x_rgb, x_structure], 1)
    expected = torch.cat(
        [
            module.channel_rgb(z) * x_rgb + x_structure,
            module.channel_structure(z) * x_structure + x_rgb,
        ],
        1,
    )
    torch.testing.assert_close(seen[0], expected)


def test_fault_21_frozen_parameters_are_in_no_group_no_checkpoint_and_take_no_gradient():
    net = network()
    frozen = {
        id(p) for vit in (net.encoder.rgb.vit, net.encoder.structure.vit) for p in vit.parameters()
    }
    groups = build_optimizer(net, OptimConfig(lr=1.0, weight_decay=0.1)).param_groups
    assert frozen and not frozen & {id(p) for group in groups for p in group["params"]}
    assert {id(p) for p in net.parameters()} - frozen == {
        id(p) for group in groups for p in group["params"]
    }
    saved = {id(tensor) for tensor in net.state_dict(keep_vars=True).values()}
    assert not frozen & saved
    net.train()(torch.rand(2, 3, 64, 64), torch.rand(2, 4, 64, 64)).sum().backward()
    assert all(p.grad is None for p in net.parameters() if id(p) in frozen)


def test_fault_22_the_head_sees_both_streams_of_every_stage():
    net = network(VitConfig(name="none"))
    pyramid = net.encoder(torch.rand(1, 3, 64, 64), torch.rand(1, 4, 64, 64))
    pyramid = [features.detach().requires_grad_() for features in pyramid]
    net.head(pyramid).square().sum().backward()
    for features, width in zip(pyramid, (16, 32, 48, 64), strict=True):
        assert features.shape[1] == 2 * width
        assert (features.grad.abs().sum((0, 2, 3)) > 0).float().mean() > 0.9


def test_fault_24_heads_must_divide_the_width():
    for channels, heads in ((96, 2), (288, 10)):
        arguments = {"channels": channels, "num_heads": heads, "mlp_ratio": 1, "drop_path": 0.0}
        if channels % (2 * heads) == 0:
            FusionEnhancementBlock(**arguments)
        else:
            with pytest.raises(ValueError, match=f"{channels} channels do not divide into 2 x"):
                FusionEnhancementBlock(**arguments)
