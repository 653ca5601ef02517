"""Maps of cells in the network: joined with all four stages, and exported."""

import pytest
import torch
from torch import nn

from configs.schema import ModelConfig, VitConfig
from models.build import build_network
from models.export import export_network
from models.vsgnet import VSGNet

NONE = VitConfig(name="none")


def build(structure_vit: VitConfig = NONE, num_components: tuple[int, ...] = (6,)) -> VSGNet:
    """A network with segments in four channels and maps of cells."""
    torch.manual_seed(0)
    config = ModelConfig(size="tiny", rgb_vit=NONE, structure_vit=structure_vit)
    return build_network(
        config,
        num_classes=3,
        structure_channels=4,
        pictures=(),
        num_components=num_components,
    )


def test_cells_enter_every_stage_and_train_everything():
    network = build(num_components=(6, 2)).train()
    cells = torch.rand(2, 6, 8, 8), torch.rand(2, 2, 5, 7)  # each on a grid of its own
    network(torch.rand(2, 3, 64, 64), torch.rand(2, 4, 64, 64), *cells).square().mean().backward()
    assert all((p.grad is not None) and p.grad.any() for p in network.parameters())
    for join, num in zip(network.encoder.structure.joins, (6, 2), strict=True):
        widths = [stage[1].weight.shape[:2] for stage in join.stages]
        assert widths == [(width, num) for width in (16, 32, 48, 64)]


@pytest.mark.parametrize("stage", range(4))
def test_other_cells_change_a_stage_that_sees_them_through_its_join_alone(stage):
    network = build().eval()
    for number, each in enumerate(network.encoder.structure.joins[0].stages):
        if number != stage:
            nn.init.zeros_(each[1].weight)
    image, structure = torch.rand(1, 3, 64, 64), torch.rand(1, 4, 64, 64)
    with torch.no_grad():
        one, other = (network.encoder(image, structure, [torch.rand(1, 6, 8, 8)]) for _ in range(2))
    assert [torch.equal(*pair) for pair in zip(one, other, strict=True)] == [
        i < stage for i in range(4)
    ]


def test_no_vit_is_loaded_for_a_branch_without_pictures():
    network = build(VitConfig(name="test_vit", weights="none.pth"))
    assert network.encoder.structure.vit is None


def test_cells_are_a_third_input_of_an_exported_network(tmp_path):
    path = tmp_path / "a.pt2"
    shapes = [(3, 40, 48), (4, 40, 48), (6, 5, 6)]
    assert export_network(build().eval(), shapes, path, {}) < 1e-4
    text = {"metadata.json": ""}
    program = torch.export.load(path, extra_files=text).module()
    inputs = [torch.rand(5, *shape) for shape in shapes]
    with torch.no_grad():
        assert program(*inputs).shape == (5, 3, 40, 48)
        other = program(*inputs[:2], torch.rand(5, 6, 5, 6))
        assert not torch.equal(program(*inputs), other)
    assert '"cells": "(N, 6, 5, 6) float32 in [0, 1]"' in text["metadata.json"]
