"""Blocks of the figure: what their equations (``test_literal.py``) do not say."""

import pytest
import torch

from configs.schema import OptimConfig
from models.encoder import DepthToSpaceJoin, ProjectionJoin
from models.feature_recalibration import FeatureRecalibration
from models.fusion_enhancement import FusionEnhancement, FusionEnhancementBlock
from models.layers import ResidualAdd, ScaledConv1x1
from utils.training.optim import build_optimizer


def pair(batch: int, height: int, width: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (batch, 16, height, width)
    return [torch.randn(shape, generator=generator, requires_grad=True) for _ in range(2)]


def test_fault_24_heads_that_do_not_divide_the_width_are_refused():
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
