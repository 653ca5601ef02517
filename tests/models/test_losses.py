import math

import pytest
import torch

from configs.schema import OptimConfig
from models.losses import (
    BatchSize,
    SegmentationLoss,
    boundary_loss_per_image,
    dice_loss_per_image,
    object_loss_per_image,
)
from utils.distributed import DistContext

CPU = DistContext(rank=0, local_rank=0, world_size=1, device=torch.device("cpu"))


def loss_of(logits, target, size=None, segments=None, **weights):
    settings = {"dice_weight": 0.5, "cross_entropy_weight": 0.5, "label_smoothing": 0.1, **weights}
    loss = SegmentationLoss(**settings)
    return loss(logits, target, size or loss.measure_batch(target, CPU), segments)


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


def test_parts_of_a_batch_add_up_to_the_whole():
    """What two ranks compute with the divisors of the whole batch sums to one rank's loss."""
    torch.manual_seed(0)
    logits, target = torch.randn(4, 3, 5, 5), torch.randint(0, 3, (4, 5, 5))
    target[0, :4] = 255  # uneven numbers of valid pixels
    whole = BatchSize(num_images=torch.tensor(4.0), pixel_weight=(target != 255).sum().float())
    parts = [loss_of(logits[half], target[half], whole)["loss"] for half in ([0, 1], [2, 3])]
    torch.testing.assert_close(sum(parts), loss_of(logits, target)["loss"])


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


def test_parts_of_a_batch_add_up_with_every_term_on():
    torch.manual_seed(0)
    logits, target = torch.randn(4, 3, 12, 12), torch.randint(0, 3, (4, 12, 12))
    target[0, :9] = 255
    # Large enough for pairs away from borders; two images have pixels without a segment.
    segments = torch.randint(0, 3, (4, 1, 2)).repeat_interleave(12, 1).repeat_interleave(6, 2)
    segments[1:3, :3] = 0
    settings = {"class_weights": (2.0, 0.5, 1.0), "object_weight": 0.7, "boundary_weight": 0.3}
    expected = loss_of(logits, target, None, segments, **settings)
    assert min(expected["object"], expected["boundary"]) > 0
    weight = torch.tensor(settings["class_weights"])[target[target != 255]].sum()
    whole = BatchSize(num_images=torch.tensor(4.0), pixel_weight=weight)
    parts = [
        loss_of(logits[i : i + 1], target[i : i + 1], whole, segments[i : i + 1], **settings)
        for i in range(4)
    ]
    for name, value in expected.items():
        torch.testing.assert_close(sum(part[name] for part in parts), value)


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
