import pytest
import torch

from models.encoder import DepthToSpaceJoin, ProjectionJoin


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
    with pytest.raises(ValueError, match="these have 100; take join=projection"):
        DepthToSpaceJoin(100, 12)
