"""Every block of the figure: shapes, gradients, precisions, odd and non-square sizes."""

import pytest
import torch
from torch import nn

from configs.schema import OptimConfig
from models.encoder import ConvStem, DepthToSpaceJoin, ProjectionJoin
from models.feature_recalibration import FeatureRecalibration
from models.fusion_enhancement import FusionEnhancement, FusionEnhancementBlock
from models.layers import ChannelNorm, ResidualAdd, ScaledConv1x1, resize
from utils.training.optim import build_optimizer

SIZES = [(2, 7, 13), (1, 1, 5)]


def pair(batch: int, height: int, width: int, channels: int = 16) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (batch, channels, height, width)
    return [torch.randn(shape, generator=generator, requires_grad=True) for _ in range(2)]


def assert_all_trained(module: nn.Module) -> None:
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def fusion() -> FusionEnhancement:
    return FusionEnhancement(channels=16, num_heads=2, mlp_ratio=2, drop_paths=(0.0, 0.0))


@pytest.mark.parametrize(("batch", "height", "width"), SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fe_and_fr_keep_shape_and_train_every_parameter(batch, height, width, dtype):
    x_rgb, x_structure = pair(batch, height, width)
    enhance, recalibrate = fusion(), FeatureRecalibration(channels=16)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        f_rgb, f_structure = enhance(x_rgb, x_structure)
        out_rgb, out_structure = recalibrate(x_rgb, x_structure, f_rgb, f_structure)
    assert out_rgb.shape == out_structure.shape == x_rgb.shape
    weight = torch.randn(out_rgb.shape, generator=torch.Generator().manual_seed(1))
    ((out_rgb.float() + 2 * out_structure.float()) * weight).sum().backward()
    for x in (x_rgb, x_structure):
        assert torch.isfinite(x.grad).all()
    for module in (enhance, recalibrate):
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
    if dtype == torch.float32 and height * width > 5:
        assert_all_trained(enhance)
        assert_all_trained(recalibrate)


def test_fe_refuses_heads_that_do_not_divide_the_width():
    with pytest.raises(ValueError, match="24 channels do not divide into 2 x 5 heads"):
        FusionEnhancementBlock(channels=24, num_heads=5, mlp_ratio=2, drop_path=0.0)


def test_fault_19_recalibrated_features_do_not_grow():
    x_rgb, x_structure = pair(2, 8, 8)
    recalibrate = FeatureRecalibration(channels=16)
    for scale in (1.0, 100.0):
        f = scale * x_rgb
        out, _ = recalibrate(f, scale * x_structure, f, f)
        assert out.std().item() == pytest.approx(1.0, abs=0.1)


def test_fault_20_layer_scale_starts_at_a_tenth_and_moves_under_training():
    module = ScaledConv1x1(3, 4)
    assert torch.equal(module.gamma, torch.full((4,), 0.1))
    optimizer = build_optimizer(module, OptimConfig(lr=0.1, weight_decay=0.0))
    module(torch.ones(1, 3, 2, 2)).square().sum().backward()
    before = module.gamma.detach().clone()
    optimizer.step()
    assert (module.gamma - before).abs().min() > 0.05


def test_recompute_gives_the_same_output_and_gradients():
    results = []
    for recompute in (False, True):
        torch.manual_seed(3)
        module = FusionEnhancement(
            channels=16, num_heads=2, mlp_ratio=2, drop_paths=(0.5, 0.5), recompute=recompute
        )
        inputs = pair(4, 7, 5)
        out_rgb, out_structure = module(*inputs)
        (out_rgb.square() + out_structure).sum().backward()
        results.append([out_rgb, out_structure, *(x.grad for x in [*inputs, *module.parameters()])])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_stochastic_depth_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    add = ResidualAdd(0.25)
    x, branch = torch.zeros(4000, 2, 1, 1), torch.ones(4000, 2, 1, 1)
    out = add(x, branch)
    assert torch.equal(out[:, 0], out[:, 1])
    assert out.unique().tolist() == pytest.approx([0, 4 / 3])
    assert out.mean().item() == pytest.approx(1.0, abs=0.05)
    assert torch.equal(add.eval()(x, branch), branch)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (33, 50), (1, 1), (4, 97)])
def test_stem_divides_by_four_rounding_up(height, width):
    stem = ConvStem(in_channels=5, channels=8).eval()
    out = stem(torch.randn(1, 5, height, width))
    assert out.shape == (1, 8, -(-height // 4), -(-width // 4))


def test_channel_norm_normalises_over_channels_only():
    x = 7 + 3 * torch.randn(2, 16, 5, 4)
    out = ChannelNorm(16)(x)
    assert out.mean(1).abs().max() < 1e-5
    assert (out.std(1, unbiased=False) - 1).abs().max() < 1e-3


def test_resize_to_the_same_size_changes_nothing():
    x = torch.randn(1, 2, 4, 6)
    assert torch.equal(resize(x, (4, 6)), x)


@pytest.mark.parametrize("join", [ProjectionJoin, DepthToSpaceJoin])
@pytest.mark.parametrize("size", [(16, 24), (13, 29), (3, 5)])
def test_any_size_comes_out_and_every_parameter_is_trained(join, size):
    module = join(128, 12)
    out = module(torch.randn(2, 128, 4, 6), size)
    assert out.shape == (2, 12, *size)
    (out * torch.randn(out.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in module.parameters())


@pytest.mark.parametrize("join", [ProjectionJoin, DepthToSpaceJoin])
def test_fault_11_a_token_lands_in_its_own_cell(join):
    """Of a 4x6 grid brought to 32x48, token (2, 4) changes rows 16..23 and columns 32..39."""
    torch.manual_seed(0)
    module = join(128, 12).eval()
    tokens = torch.randn(1, 128, 4, 6)
    changed = tokens.clone()
    changed[:, :, 2, 4] += 3
    change = (module(changed, (32, 48)) - module(tokens, (32, 48))).abs().sum((0, 1))
    rows, columns = (change > 1e-6).nonzero().unbind(1)
    reach = 8 if join is ProjectionJoin else 2  # bilinear reaches half a cell, the stem 1.5 px
    assert rows.min() >= 16 - reach and rows.max() <= 23 + reach
    assert columns.min() >= 32 - reach and columns.max() <= 39 + reach
    assert change[16:24, 32:40].sum() > 0.5 * change.sum()


def test_fault_13_depth_to_space_needs_a_multiple_of_64_channels():
    with pytest.raises(ValueError, match="the ViT has 100; set join=projection"):
        DepthToSpaceJoin(100, 12)
