import math

import pytest
import torch

from models.losses import BatchSize, SegmentationLoss, dice_loss_per_image, measure_batch
from utils.distributed import DistContext

CPU = DistContext(rank=0, local_rank=0, world_size=1, device=torch.device("cpu"))


def loss_of(logits, target, size=None, **weights):
    settings = {"dice_weight": 0.5, "cross_entropy_weight": 0.5, "label_smoothing": 0.1, **weights}
    return SegmentationLoss(**settings)(logits, target, size or measure_batch(target, CPU))


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


def test_fault_36_and_37_ignored_pixels_change_nothing():
    torch.manual_seed(0)
    logits, target = torch.randn(2, 4, 6, 5), torch.randint(0, 4, (2, 6, 5))
    wide = torch.cat([logits, 50 * torch.randn(2, 4, 6, 7)], -1).requires_grad_()
    padded = torch.cat([target, torch.full((2, 6, 7), 255)], -1)
    ours, expected = loss_of(wide, padded), loss_of(logits, target)
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
    whole = BatchSize(num_images=torch.tensor(4.0), num_valid_pixels=(target != 255).sum().float())
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
