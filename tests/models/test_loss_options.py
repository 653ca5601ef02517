"""Class weights, and the agreement of the prediction with the segment map."""

import math

import pytest
import torch
from torch import Tensor

from configs.schema import OptimConfig
from models.losses import (
    BatchSize,
    SegmentationLoss,
    boundary_loss_per_image,
    build_loss,
    dice_loss_per_image,
    object_loss_per_image,
)
from utils.config import config_from_dict
from utils.distributed import DistContext
from utils.errors import ConfigError

CPU = DistContext(rank=0, local_rank=0, world_size=1, device=torch.device("cpu"))


def weighted(*weights: float, **more) -> SegmentationLoss:
    settings = {"dice_weight": 0.5, "cross_entropy_weight": 0.5, "label_smoothing": 0.0}
    return SegmentationLoss(**settings, class_weights=weights or None, **more)


def test_class_weights_by_hand():
    """Pixels of class 0 and 1, p = (3/4, 1/4) both, weights 3 and 1."""
    logits = torch.tensor([math.log(3.0), 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 2)
    target = torch.tensor([[[0, 1]]])
    loss = weighted(3.0, 1.0)
    values = loss(logits, target, loss.measure_batch(target, CPU))
    expected = -(3 * math.log(0.75) + math.log(0.25)) / 4
    assert values["cross_entropy"].item() == pytest.approx(expected, rel=1e-6)
    # Dice of class 0: 1 - (2 * 3/4 + 1) / (3/2 + 1 + 1); of class 1: 1 - (2/4 + 1) / (1/2 + 2)
    expected = (3 * (1 - 2.5 / 3.5) + (1 - 1.5 / 2.5)) / 4
    assert values["dice"].item() == pytest.approx(expected, rel=1e-6)


def test_equal_class_weights_change_nothing():
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 5, 6), torch.randint(0, 3, (2, 5, 6))
    target[0, :2] = 255
    plain, equal = weighted(), weighted(7.0, 7.0, 7.0)
    ours = equal(logits, target, equal.measure_batch(target, CPU))
    expected = plain(logits, target, plain.measure_batch(target, CPU))
    for name, value in expected.items():
        torch.testing.assert_close(ours[name], value)


def test_a_class_of_weight_0_is_not_learned():
    torch.manual_seed(0)
    target = torch.randint(0, 3, (1, 6, 6))
    logits = torch.randn(1, 3, 6, 6, requires_grad=True)
    loss = weighted(1.0, 0.0, 1.0)
    loss(logits, target, loss.measure_batch(target, CPU))["cross_entropy"].backward()
    gradient = logits.grad.abs().sum(1)
    assert gradient[target == 1].max() == 0 and gradient[target != 1].min() > 0


def test_parts_of_a_batch_add_up_to_the_whole_with_class_weights():
    torch.manual_seed(0)
    logits, target = torch.randn(4, 3, 5, 5), torch.randint(0, 3, (4, 5, 5))
    target[0, :4] = 255
    loss = weighted(0.2, 1.0, 5.0)
    whole = loss.measure_batch(target, CPU)
    parts = [loss(logits[i : i + 2], target[i : i + 2], whole)["loss"] for i in (0, 2)]
    torch.testing.assert_close(sum(parts), loss(logits, target, whole)["loss"])


def test_wrong_class_weights_are_refused():
    with pytest.raises(ConfigError, match=r"optim\.class_weights: has 2 entries, but .* has 5 cl"):
        build_loss(OptimConfig(class_weights=(1.0, 2.0)), 5)
    for weights, words in (([0, 0], "are all 0"), ([1, -1], "must all be 0 or more")):
        recipe = {"name": "a", "data": {"root": "b"}, "optim": {"class_weights": weights}}
        with pytest.raises(ConfigError, match=words):
            config_from_dict(recipe, "test")


def test_consistency_needs_segments_in_the_recipe():
    recipe = {"name": "a", "data": {"root": "b"}, "optim": {"object_weight": 0.1}}
    assert config_from_dict(recipe, "test").optim.object_weight == 0.1
    with pytest.raises(ConfigError, match=r"optim\.object_weight: needs structure\.control=on"):
        config_from_dict(recipe, "test", ["structure.control=off"])


def draw(height: int = 7, width: int = 9) -> tuple[Tensor, Tensor]:
    """Probabilities of three classes and blocky segments, some of them id 0."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, height, width, generator=generator)
    coarse = torch.randint(0, 4, (2, 1, -(-height // 3), -(-width // 3)), generator=generator)
    segments = coarse.float().repeat_interleave(3, 2).repeat_interleave(3, 3)
    return logits.softmax(1), segments[:, 0, :height, :width].long()


def test_object_loss_equals_its_equation():
    probability, segments = draw()
    for image, (p, ids) in enumerate(zip(probability, segments, strict=True)):
        total = 0.0
        for each in set(ids.unique().tolist()) - {0}:
            inside = p[:, ids == each]
            total += (inside - inside.mean(1, keepdim=True)).square().sum().item()
        expected = total / int((ids > 0).sum())
        ours = object_loss_per_image(probability, segments)[image].item()
        assert ours == pytest.approx(expected, rel=1e-5)


def test_object_loss_has_the_gradient_of_its_equation():
    """The mean is detached: its own gradient is zero, which finite differences confirm."""
    probability, segments = draw(4, 5)
    p = probability.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: object_loss_per_image(x, segments).sum(), p)


def test_boundary_loss_equals_its_equation():
    probability, segments = draw(12, 13)
    ours = boundary_loss_per_image(probability, segments)
    for image, (p, ids) in enumerate(zip(probability, segments, strict=True)):
        height, width = ids.shape
        steps = [(1, 0), (0, 1), (-1, 0), (0, -1)]

        def inside(i: int, j: int, height: int = height, width: int = width) -> bool:
            return 0 <= i < height and 0 <= j < width

        border = {
            (i, j)
            for i in range(height)
            for j in range(width)
            for a, b in steps
            if inside(i + a, j + b) and ids[i, j] != ids[i + a, j + b]
        }

        def near(i: int, j: int, border: set[tuple[int, int]] = border) -> bool:
            return any((i + a, j + b) in border for a in range(-2, 3) for b in range(-2, 3))

        edges = []
        for i in range(height):
            for j in range(width):
                for a, b in steps[:2]:
                    if not inside(i + a, j + b) or not (ids[i, j] and ids[i + a, j + b]):
                        continue
                    if not (near(i, j) and near(i + a, j + b)):
                        edges.append((p[:, i, j] - p[:, i + a, j + b]).abs().sum().item() / 2)
        expected = sum(edges) / max(1, len(edges))
        assert ours[image].item() == pytest.approx(expected, rel=1e-5)


def test_an_edge_on_a_border_costs_nothing_and_one_beside_it_does():
    segments = torch.ones(1, 8, 20, dtype=torch.long)
    segments[..., 10:] = 2
    costs = []
    for column in (8, 10, 12, 5):
        probability = torch.zeros(1, 2, 8, 20)
        probability[:, 0, :, :column] = 1
        probability[:, 1, :, column:] = 1
        costs.append(boundary_loss_per_image(probability, segments).item())
    assert costs[:3] == [0, 0, 0] and costs[3] > 0


@pytest.mark.parametrize("term", [object_loss_per_image, boundary_loss_per_image])
def test_one_prediction_a_segment_costs_nothing_and_ids_mean_nothing(term):
    probability, segments = draw(12, 13)
    by_segment = torch.rand(4, 3, generator=torch.Generator().manual_seed(1)).softmax(1)
    assert term(by_segment[segments].movedim(-1, 1), segments).abs().max() < 1e-6
    renamed = torch.tensor([0, 65535, 7, 300])[segments]
    assert torch.equal(term(probability, renamed), term(probability, segments))
    assert term(probability, torch.zeros_like(segments)).tolist() == [0, 0]


def test_terms_are_computed_only_when_asked_for_and_are_finite_in_half_precision():
    probability, segments = draw()
    target = torch.zeros_like(segments)
    logits = (300 * probability).half().requires_grad_()
    loss = weighted(object_weight=0.1, boundary_weight=0.2)
    size = BatchSize(num_images=torch.tensor(2.0), pixel_weight=torch.tensor(126.0))
    values = loss(logits, target, size, segments)
    total = 0.5 * values["dice"] + 0.5 * values["cross_entropy"]
    total = total + 0.1 * values["object"] + 0.2 * values["boundary"]
    torch.testing.assert_close(values["loss"], total)
    values["loss"].backward()
    assert torch.isfinite(logits.grad).all()
    assert set(weighted()(logits, target, size)) == {"loss", "dice", "cross_entropy"}


def test_dice_without_weights_is_the_plain_mean():
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 5, 5), torch.randint(0, 3, (2, 5, 5))
    ones = dice_loss_per_image(logits, target, torch.ones(3))
    torch.testing.assert_close(dice_loss_per_image(logits, target), ones)
