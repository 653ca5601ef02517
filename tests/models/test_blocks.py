"""Every block of the figure: shapes, gradients, precisions, odd and non-square sizes."""

import pytest
import torch
from torch import nn

from configs.schema import OptimConfig
from models.encoder import ConvStem
from models.feature_recalibration import ChannelGate, FeatureRecalibration, SpatialGate
from models.fusion_enhancement import FusionEnhancement, FusionEnhancementBlock
from models.layers import ChannelNorm, ResidualAdd, ScaledConv1x1, resize
from models.mlp_head import MlpHead
from utils.training.optim import build_optimizer

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


def test_structure_reaches_the_rgb_stream_and_back():
    x_rgb, x_structure = pair(1, 9, 9)
    f_rgb, f_structure = fusion()(x_rgb, x_structure)
    from_structure = torch.autograd.grad(f_rgb.square().sum(), x_structure, retain_graph=True)[0]
    from_rgb = torch.autograd.grad(f_structure.square().sum(), x_rgb)[0]
    assert from_structure.abs().sum() > 0
    assert from_rgb.abs().sum() > 0


def test_fault_16_position_softmax_survives_large_logits():
    recalibrate = FeatureRecalibration(channels=16)
    x = [1e3 * t.detach() for t in pair(1, 8, 8)]
    for out in recalibrate(x[0], x[1], x[0], x[1]):
        assert torch.isfinite(out).all()


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


def test_fault_10_large_kernel_branch_is_there_or_it_is_not():
    two, three = (
        FusionEnhancementBlock(
            channels=16, num_heads=2, mlp_ratio=2, drop_path=0.0, branches=branches
        )
        for branches in (
            ("global_context", "structure_gate"),
            ("global_context", "structure_gate", "large_kernel"),
        )
    )
    assert not any("large_kernel" in name for name, _ in two.named_parameters())
    x_rgb, x_structure = pair(2, 9, 9)
    out_rgb, out_structure = three(x_rgb, x_structure)
    (out_rgb.square().sum() + out_structure.pow(3).sum()).backward()
    assert_all_trained(three)


@pytest.mark.parametrize("gates", ["off", "channel", "channel_spatial"])
def test_fr_switch_leaves_no_unused_parameter(gates):
    module = FeatureRecalibration(channels=16, gates=gates)
    x_rgb, x_structure = pair(2, 9, 9)
    out_rgb, out_structure = module(x_rgb, x_structure, 2 * x_structure, x_rgb.square())
    weight = torch.randn(out_rgb.shape, generator=torch.Generator().manual_seed(1))
    ((out_rgb + 2 * out_structure) * weight).sum().backward()
    assert_all_trained(module)


def test_faults_7_and_8_both_streams_leave_every_stage_at_full_width():
    x_rgb, x_structure = pair(1, 8, 8)
    for out in fusion()(x_rgb, x_structure):
        assert out.shape == (1, 16, 8, 8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_large_inputs_stay_finite_in_half_precision(dtype, scale):
    x_rgb, x_structure = ((scale * x).detach().requires_grad_() for x in pair(2, 9, 14))
    enhance, recalibrate = fusion(), FeatureRecalibration(channels=16)
    with torch.autocast("cpu", dtype=dtype):
        f_rgb, f_structure = enhance(x_rgb, x_structure)
        out_rgb, out_structure = recalibrate(x_rgb, x_structure, f_rgb, f_structure)
    weight = torch.randn(out_rgb.shape, generator=torch.Generator().manual_seed(1))
    ((out_rgb.float() + 2 * out_structure.float()) * weight).sum().backward()
    assert torch.isfinite(out_rgb).all() and torch.isfinite(out_structure).all()
    for gradient in [x_rgb.grad, x_structure.grad, *(p.grad for p in enhance.parameters())]:
        assert torch.isfinite(gradient).all()
    for gradient in (p.grad for p in recalibrate.parameters()):
        assert torch.isfinite(gradient).all()


def test_gates_are_bounded():
    z = 1e4 * torch.randn(2, 32, 6, 7, generator=torch.Generator().manual_seed(0))
    for gate in (ChannelGate(16), SpatialGate(16)):
        out = gate(z)
        assert out.min() >= 0 and out.max() <= 1


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
