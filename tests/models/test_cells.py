"""Maps of cells in the network: read back from the encoding, and joined with all four stages."""

import pytest
import torch
from torch import Tensor, nn

from configs.schema import ModelConfig, VitConfig
from datasets.encodings import components
from models.build import build_network
from models.vsgnet import VSGNet

NONE = VitConfig(name="none")


def build(structure_vit: VitConfig = NONE) -> VSGNet:
    """A network with segments in channels 0 to 3 and six components in channels 4 to 9."""
    torch.manual_seed(0)
    config = ModelConfig(size="tiny", rgb_vit=NONE, structure_vit=structure_vit)
    return build_network(
        config, num_classes=3, structure_channels=10, pictures=(), cells=((4, 10, 8),)
    )


def encoded(cells: Tensor, size: tuple[int, int]) -> Tensor:
    image = torch.rand(len(cells), 3, *size)
    return torch.cat([torch.rand(len(cells), 4, *size), components(image, cells)], 1)


def smoothed(x: Tensor) -> Tensor:
    """Each cell with a part of 1/32 of its neighbours; the outermost ones are their own."""
    padded = nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")
    rows = (padded[..., :-2, :] + 30 * padded[..., 1:-1, :] + padded[..., 2:, :]) / 32
    return (rows[..., :-2] + 30 * rows[..., 1:-1] + rows[..., 2:]) / 32


def test_the_stored_cells_come_back_but_for_a_part_of_their_neighbours():
    cells = torch.randint(1, 256, (2, 6, 5, 7), dtype=torch.uint8)
    ((found,),) = build().encoder.structure.cell_tokens(encoded(cells, (40, 56)))
    expected = (smoothed((cells.double() - 1) / 254) - 0.5) / 0.25
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)
    ((found,),) = build().encoder.structure.cell_tokens(encoded(cells, (33, 51)))
    assert found.shape == (2, 6, 5, 7)  # of cells that are less than 8 px


def test_cells_enter_every_stage_and_train_everything():
    network = build().train()
    structure = encoded(torch.randint(1, 256, (2, 6, 8, 8)), (64, 64))
    network(torch.rand(2, 3, 64, 64), structure).square().mean().backward()
    assert all((p.grad is not None) and p.grad.any() for p in network.parameters())
    (join,) = network.encoder.structure.joins
    assert [stage[1].weight.shape[:2] for stage in join.stages] == [
        (width, 6) for width in (16, 32, 48, 64)
    ]


@pytest.mark.parametrize("stage", range(4))
def test_other_cells_change_a_stage_that_sees_them_through_its_join_alone(stage):
    network = build().eval()
    for number, each in enumerate(network.encoder.structure.joins[0].stages):
        if number != stage:
            nn.init.zeros_(each[1].weight)
    network.encoder.structure.stem.layers[0].weight.data[:, 4:] = 0
    image, structure = torch.rand(1, 3, 64, 64), torch.rand(1, 10, 64, 64)
    other = torch.cat([structure[:, :4], torch.rand(1, 6, 64, 64)], 1)
    with torch.no_grad():
        pairs = zip(network.encoder(image, structure), network.encoder(image, other), strict=True)
        assert [torch.equal(*pair) for pair in pairs] == [i < stage for i in range(4)]


def test_no_vit_is_loaded_for_a_branch_without_pictures():
    network = build(VitConfig(name="test_vit", weights="none.pth"))
    assert network.encoder.structure.vit is None
