"""Every block of the figure: shapes, gradients, precisions, odd and non-square sizes."""

import pytest
import torch
from torch import nn

from models.conv_stem import ConvStem
from models.feature_recalibration import FeatureRecalibration
from models.fusion_enhancement import FusionEnhancement, FusionEnhancementBlock
from models.layers import ChannelNorm, LayerScale, resize
from models.mlp_head import MlpHead

SIZES = [(1, 8, 8), (2, 7, 13), (1, 1, 5), (3, 16, 4)]


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
    x_rgb, x_str = pair(batch, height, width)
    enhance, recalibrate = fusion(), FeatureRecalibration(channels=16)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        f_rgb, f_str = enhance(x_rgb, x_str)
        out_rgb, out_str = recalibrate(x_rgb, x_str, f_rgb, f_str)
    assert out_rgb.shape == out_str.shape == x_rgb.shape
    weight = torch.randn(out_rgb.shape, generator=torch.Generator().manual_seed(1))
    ((out_rgb.float() + 2 * out_str.float()) * weight).sum().backward()
    for x in (x_rgb, x_str):
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


def test_structure_reaches_the_rgb_stream_and_back():
    x_rgb, x_str = pair(1, 9, 9)
    f_rgb, f_str = fusion()(x_rgb, x_str)
    from_structure = torch.autograd.grad(f_rgb.square().sum(), x_str, retain_graph=True)[0]
    from_rgb = torch.autograd.grad(f_str.square().sum(), x_rgb)[0]
    assert from_structure.abs().sum() > 0
    assert from_rgb.abs().sum() > 0


def test_fault_16_position_softmax_survives_large_logits():
    recalibrate = FeatureRecalibration(channels=16)
    x = [1e3 * t.detach() for t in pair(1, 8, 8)]
    for out in recalibrate(x[0], x[1], x[0], x[1]):
        assert torch.isfinite(out).all()


def test_fault_19_recalibrated_features_do_not_grow():
    x_rgb, x_str = pair(2, 8, 8)
    recalibrate = FeatureRecalibration(channels=16)
    for scale in (1.0, 100.0):
        f = scale * x_rgb
        out, _ = recalibrate(f, scale * x_str, f, f)
        assert out.std().item() == pytest.approx(1.0, abs=0.1)


def test_fault_20_layer_scale_moves_under_training():
    scale = LayerScale(4)
    optimizer = torch.optim.AdamW(scale.parameters(), lr=0.1)
    before = scale.gamma.detach().clone()
    scale(torch.ones(1, 4, 2, 2)).sum().backward()
    optimizer.step()
    assert (scale.gamma - before).abs().min() > 0.05


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


def test_resize_to_the_same_size_is_the_same_tensor():
    x = torch.randn(1, 2, 4, 6)
    assert resize(x, (4, 6)) is x


def head(channels=(4, 8, 12, 16)) -> MlpHead:
    return MlpHead(channels=channels, embed_channels=8, num_classes=3, dropout=0.0)


def test_head_equals_projection_after_upsampling_and_concatenation():
    """SegFormer's order (upsample, concatenate, project) gives the same numbers as ours."""
    module = head().double().eval()
    pyramid = [
        torch.randn(2, 2 * width, 16 // 2**i, 8 // 2**i, dtype=torch.float64)
        for i, width in enumerate((4, 8, 12, 16))
    ]
    up = [nn.functional.interpolate(x, size=(16, 8), mode="bilinear") for x in pyramid]
    weight = torch.cat([project.weight for project in module.project], 1)
    fused = nn.functional.conv2d(torch.cat(up, 1), weight)
    expected = module.classify(module.act(module.norm(fused)))
    torch.testing.assert_close(module(pyramid), expected, rtol=1e-10, atol=1e-10)


def test_head_trains_every_parameter():
    module = head()
    pyramid = [torch.randn(2, 2 * w, 8 // 2**i, 8 // 2**i) for i, w in enumerate((4, 8, 12, 16))]
    module(pyramid).square().mean().backward()
    assert_all_trained(module)
