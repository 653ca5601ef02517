"""Dice, cross entropy, class weights and the consistency terms, against hand-computed values."""

import math

import pytest
import torch
from torch import Tensor

from configs.schema import OptimConfig
from models.losses import (
    SegmentationLoss,
    boundary_loss_per_image,
    build_loss,
    dice_loss_per_image,
    object_loss_per_image,
)
from utils.config import config_from_dict
from utils.errors import ConfigError


def loss_of(logits, target, counts=None, segments=None, **weights):
    settings = {"dice_weight": 0.5, "cross_entropy_weight": 0.5, "label_smoothing": 0.1, **weights}
    loss = SegmentationLoss(**settings)
    return loss(logits, target, loss.counts(target) if counts is None else counts, segments)


def two_classes(*second):
    """Probability of the second class along one row -> ``(1, 2, 1, W)``."""
    second = torch.tensor(second).view(1, 1, -1)
    return torch.stack([1 - second, second], 1)


def test_cross_entropy_by_hand():
    """Two classes, p = (3/4, 1/4), target 0, smoothing 0.1: mass 0.95 on 0 and 0.05 on 1."""
    logits = torch.tensor([math.log(3.0), 0.0]).view(1, 2, 1, 1)
    value = loss_of(logits, torch.zeros(1, 1, 1, dtype=torch.long))["cross_entropy"]
    assert value.item() == pytest.approx(-(0.95 * math.log(0.75) + 0.05 * math.log(0.25)), rel=1e-6)


def test_dice_by_hand():
    """Two pixels of class 0, p = 3/4 each: 1 - (2 * 1.5 + 1) / (1.5 + 2 + 1) = 1/9."""
    logits = torch.tensor([math.log(3.0), 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 2)
    value = dice_loss_per_image(logits, torch.zeros(1, 1, 2, dtype=torch.long))
    assert value.item() == pytest.approx(1 / 9, rel=1e-6)


@pytest.mark.parametrize("weights", [None, (2.0, 0.5, 1.0, 3.0)])
def test_fault_36_and_37_ignored_pixels_change_nothing(weights):
    torch.manual_seed(0)
    logits, target = torch.randn(2, 4, 6, 5), torch.randint(0, 4, (2, 6, 5))
    wide = torch.cat([logits, 50 * torch.randn(2, 4, 6, 7)], -1).requires_grad_()
    padded = torch.cat([target, torch.full((2, 6, 7), 255)], -1)
    ours = loss_of(wide, padded, class_weights=weights)
    expected = loss_of(logits, target, class_weights=weights)
    for name in expected:
        torch.testing.assert_close(ours[name], expected[name])
    ours["loss"].backward()
    assert wide.grad[..., 5:].abs().max() == 0
    assert wide.grad[..., :5].abs().min() > 0


def test_all_ignored_gives_zero_loss_and_zero_gradient():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    value = loss_of(logits, torch.full((1, 4, 4), 255))["loss"]
    value.backward()
    assert value.item() == 0
    assert logits.grad.abs().max() == 0


def test_a_perfect_prediction_has_almost_no_dice_loss():
    target = torch.randint(0, 3, (1, 8, 8))
    logits = 50 * torch.nn.functional.one_hot(target, 3).movedim(-1, 1).float()
    assert dice_loss_per_image(logits, target).item() < 1e-5


def test_half_precision_logits_are_computed_in_fp32():
    logits = (300 * torch.randn(1, 3, 8, 8)).half().requires_grad_()
    values = loss_of(logits, torch.randint(0, 3, (1, 8, 8)))
    assert all(value.dtype == torch.float32 and value.isfinite() for value in values.values())


def test_label_smoothing_does_not_move_class_weights_to_other_classes():
    """p = (3/4, 1/4), a pixel of each class, weights 3 and 1: (3 a + b) / 4."""
    logits = torch.tensor([math.log(3.0), 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 2)
    value = loss_of(logits, torch.tensor([[[0, 1]]]), class_weights=(3.0, 1.0))["cross_entropy"]
    likely, unlikely = -math.log(0.75), -math.log(0.25)
    first, second = 0.95 * likely + 0.05 * unlikely, 0.05 * likely + 0.95 * unlikely
    assert value.item() == pytest.approx((3 * first + second) / 4, rel=1e-6)


CONSISTENT = {"object_weight": 0.7, "boundary_weight": 0.3}


@pytest.mark.parametrize("class_weights", [None, (2.0, 0.5, 1.0)])
@pytest.mark.parametrize("consistency", [{}, CONSISTENT])
def test_parts_of_a_batch_add_up_to_the_whole(class_weights, consistency):
    """What ranks and micro-batches compute with the counts of the effective batch."""
    torch.manual_seed(0)
    logits, target = torch.randn(4, 3, 12, 12), torch.randint(0, 3, (4, 12, 12))
    target[0, :9] = 255  # uneven numbers of valid pixels
    # Large enough for pairs away from borders; two images have pixels without a segment.
    segments = torch.randint(0, 3, (4, 1, 2)).repeat_interleave(12, 1).repeat_interleave(6, 2)
    segments[1:3, :3] = 0
    settings = {"class_weights": class_weights, **consistency}
    expected = loss_of(logits, target, None, segments, **settings)
    assert min(expected.values()) > 0 and len(expected) == 3 + len(consistency)
    valid = target[target != 255]
    weight = len(valid) if class_weights is None else torch.tensor(class_weights)[valid].sum()
    counts = torch.tensor([4.0, weight])
    for size in (1, 2):
        spans = [slice(first, first + size) for first in range(0, 4, size)]
        parts = [loss_of(logits[i], target[i], counts, segments[i], **settings) for i in spans]
        for name, value in expected.items():
            torch.testing.assert_close(sum(part[name] for part in parts), value)


def test_counts_are_of_images_and_of_the_weights_of_valid_pixels():
    target = torch.tensor([[[0, 1, 255]], [[2, 2, 255]]], dtype=torch.uint8)
    weights = {"dice_weight": 1, "cross_entropy_weight": 1, "label_smoothing": 0}
    assert SegmentationLoss(**weights).counts(target).tolist() == [2, 4]
    loss = SegmentationLoss(**weights, class_weights=(0.5, 1.0, 3.0))
    assert loss.counts(target).tolist() == [2, 7.5]
    assert loss.counts(target.long()).dtype == torch.float64


def test_object_loss_by_hand():
    """Two segments of two pixels and one pixel without: (2 * 2 * 0.2^2 + 0) / 4 = 0.04."""
    probability = two_classes(0.1, 0.5, 0.7, 0.7, 0.9)
    value = object_loss_per_image(probability, torch.tensor([[[3, 3, 9, 9, 0]]]).int())
    assert value.item() == pytest.approx(0.04, rel=1e-5)


def test_boundary_loss_by_hand():
    """The border is pixels 4 and 5, so 2 to 7 are near it: only pairs 01, 12 and 78 count."""
    segments = torch.tensor([[[1] * 5 + [2] * 4]]).int()
    at_the_border = two_classes(0.0, 0.0, 0.0, 0.2, 0.9, 0.3, 0.6, 1.0, 1.0)
    elsewhere = two_classes(0.0, 0.1, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.9)
    assert boundary_loss_per_image(at_the_border, segments).item() == 0
    value = boundary_loss_per_image(elsewhere, segments).item()
    assert value == pytest.approx((0.1 + 0.3 + 0.5) / 3, rel=1e-5)


def test_consistency_gradients_reach_only_the_pixels_that_count():
    row = two_classes(0.1, 0.2, 0.4, 0.5, 0.7, 0.3, 0.6, 0.8, 0.9).requires_grad_()
    object_loss_per_image(row, torch.tensor([[[0, 1, 1, 0, 2, 2, 5, 0, 0]]])).sum().backward()
    reached = (row.grad.abs().sum(1) > 1e-6).int().flatten().tolist()
    assert reached == [0, 1, 1, 0, 1, 1, 0, 0, 0]  # segment 5 has one pixel, which always agrees
    row.grad = None
    boundary_loss_per_image(row, torch.tensor([[[1] * 5 + [2] * 4]])).sum().backward()
    reached = (row.grad.abs().sum(1) > 0).int().flatten().tolist()
    assert reached == [1, 0, 1, 0, 0, 0, 0, 1, 1]  # the edges at pixel 1 rise evenly: no net pull


@pytest.mark.parametrize("key", ["object_weight", "boundary_weight"])
def test_negative_consistency_weights_are_refused(key):
    assert list(OptimConfig(**{key: -0.1}).problems()) == [(key, "must be 0 or more")]
    assert not list(OptimConfig(**{key: 0.1}).problems())


def test_class_weights_by_hand():
    """Pixels of class 0 and 1, p = (3/4, 1/4) both, weights 3 and 1."""
    logits = torch.tensor([math.log(3.0), 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 2)
    target = torch.tensor([[[0, 1]]])
    values = loss_of(logits, target, label_smoothing=0, class_weights=(3.0, 1.0))
    expected = -(3 * math.log(0.75) + math.log(0.25)) / 4
    assert values["cross_entropy"].item() == pytest.approx(expected, rel=1e-6)
    # Dice of class 0: 1 - (2 * 3/4 + 1) / (3/2 + 1 + 1); of class 1: 1 - (2/4 + 1) / (1/2 + 2)
    expected = (3 * (1 - 2.5 / 3.5) + (1 - 1.5 / 2.5)) / 4
    assert values["dice"].item() == pytest.approx(expected, rel=1e-6)


def test_equal_class_weights_change_nothing():
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 5, 6), torch.randint(0, 3, (2, 5, 6))
    target[0, :2] = 255
    ours = loss_of(logits, target, class_weights=(7.0, 7.0, 7.0))
    expected = loss_of(logits, target)
    for name, value in expected.items():
        torch.testing.assert_close(ours[name], value)


def test_a_class_of_weight_0_is_not_learned():
    torch.manual_seed(0)
    target = torch.randint(0, 3, (1, 6, 6))
    logits = torch.randn(1, 3, 6, 6, requires_grad=True)
    values = loss_of(logits, target, label_smoothing=0, class_weights=(1.0, 0.0, 1.0))
    values["cross_entropy"].backward()
    gradient = logits.grad.abs().sum(1)
    assert gradient[target == 1].max() == 0 and gradient[target != 1].min() > 0


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
    weights = {"object_weight": 0.1, "boundary_weight": 0.2}
    values = loss_of(logits, target, None, segments, **weights)
    total = 0.5 * values["dice"] + 0.5 * values["cross_entropy"]
    total = total + 0.1 * values["object"] + 0.2 * values["boundary"]
    torch.testing.assert_close(values["loss"], total)
    values["loss"].backward()
    assert torch.isfinite(logits.grad).all()
    assert set(loss_of(logits, target)) == {"loss", "dice", "cross_entropy"}


def test_dice_without_weights_is_the_plain_mean():
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 5, 5), torch.randint(0, 3, (2, 5, 5))
    ones = dice_loss_per_image(logits, target, torch.ones(3))
    torch.testing.assert_close(dice_loss_per_image(logits, target), ones)
