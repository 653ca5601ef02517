"""Blocks of the figure: what their equations (``test_literal.py``) do not say."""

import pytest
import torch
import torch.nn.functional as F

from models.encoder import TokenJoin
from models.fusion_enhancement import FusionEnhancement, FusionEnhancementBlock
from models.layers import ConvMlp, DepthWise7x7, ResidualAdd, ScaledConv1x1


def test_fault_20_layer_scale_starts_at_a_tenth():
    assert torch.equal(ScaledConv1x1(3, 4).gamma, torch.full((4,), 0.1))


def test_recompute_gives_the_same_output_and_gradients():
    results = []
    for recompute in (False, True):
        torch.manual_seed(3)
        module = FusionEnhancement(
            channels=16, num_heads=2, mlp_ratio=2, drop_paths=(0.5, 0.5), recompute=recompute
        )
        inputs = [torch.randn(4, 16, 7, 5, requires_grad=True) for _ in range(2)]
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


def test_fault_11_a_token_lands_in_its_own_cell():
    """Of a 4x6 grid brought to 32x48, token (2, 4) changes rows 16..23 and columns 32..39."""
    torch.manual_seed(0)
    join = TokenJoin(128, [12]).eval()
    tokens = torch.randn(1, 128, 4, 6)
    changed = tokens.clone()
    changed[:, :, 2, 4] += 3
    change = (join(0, [changed], (32, 48)) - join(0, [tokens], (32, 48))).abs().sum((0, 1))
    rows, columns = (change > 1e-6).nonzero().unbind(1)
    # Bilinear reaches half a cell.
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (12, 27, 28, 43)
    assert change[16:24, 32:40].sum() > 0.5 * change.sum()


def test_fault_24_widths_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="24 channels do not divide into 2 x 5 heads"):
        FusionEnhancementBlock(channels=24, num_heads=5, mlp_ratio=2, drop_path=0.0)


@pytest.mark.parametrize("size", [(9, 12), (1, 1), (2, 3)])
def test_depth_wise_gradients_are_those_of_the_convolution(size):
    torch.manual_seed(0)
    layer = DepthWise7x7(3).double()
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    leaves = [x, layer.weight, layer.bias]
    plain = F.conv2d(*leaves, padding=3, groups=3)
    grad = torch.randn_like(plain)
    ours, expected = (torch.autograd.grad(y, leaves, grad) for y in (layer(x), plain))
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_inference_computes_the_mlp_of_training(dtype, within):
    torch.manual_seed(0)
    mlp = ConvMlp(8, 4)
    x = 3 * torch.randn(2, 8, 9, 7)
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        expected = mlp(x)
        with torch.no_grad():
            error = (mlp(x) - expected).norm() / expected.norm()
    assert error < within
