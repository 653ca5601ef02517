"""Dice, cross entropy, class weights and the consistency terms, against hand-computed values."""

import math

import pytest
import torch
from torch import Tensor

from configs.schema import OptimConfig
from models.losses import (
    SegmentationLoss,
    boundary_loss_per_image,
    dice_loss_per_image,
    object_loss_per_image,
)
from utils.config import config_from_dict
from utils.errors import ConfigError

CONSISTENT = {"object_weight": 0.7, "boundary_weight": 0.3}


def loss_of(logits, target, counts=None, segments=None, **weights):
    loss = SegmentationLoss(OptimConfig(**weights), logits.shape[1])
    return loss(logits, target, loss.counts(target) if counts is None else counts, segments)


LIKELY, UNLIKELY = -math.log(0.75), -math.log(0.25)
SMOOTH_LIKELY, SMOOTH_UNLIKELY = 0.95 * LIKELY + 0.05 * UNLIKELY, 0.05 * LIKELY + 0.95 * UNLIKELY
WEIGHTED_DICE = (3 * 2 / 7 + 2 / 5) / 4


@pytest.mark.parametrize(
    ("target", "smoothing", "weights", "cross_entropy", "dice"),
    [
        # Dice of class 0: 1 - (2 * 2 * 3/4 + 1) / (2 * 3/4 + 2 + 1); class 1 is in no target.
        ([0, 0], 0.0, None, LIKELY, 1 / 9),
        ([0, 0], 0.1, None, SMOOTH_LIKELY, 1 / 9),
        # 1 - (2 * 3/4 + 1) / (2 * 3/4 + 1 + 1) and 1 - (2 * 1/4 + 1) / (2 * 1/4 + 1 + 1)
        ([0, 1], 0.0, None, (LIKELY + UNLIKELY) / 2, (2 / 7 + 2 / 5) / 2),
        ([0, 1], 0.0, (3.0, 1.0), (3 * LIKELY + UNLIKELY) / 4, WEIGHTED_DICE),
        # Smoothing moves no class weight to another class.
        ([0, 1], 0.1, (3.0, 1.0), (3 * SMOOTH_LIKELY + SMOOTH_UNLIKELY) / 4, WEIGHTED_DICE),
    ],
)
def test_cross_entropy_and_dice_by_hand(target, smoothing, weights, cross_entropy, dice):
    """Two pixels with the probabilities 3/4 and 1/4."""
    logits = torch.tensor([math.log(3.0), 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 2)
    values = loss_of(
        logits, torch.tensor([[target]]), label_smoothing=smoothing, class_weights=weights
    )
    assert values["cross_entropy"].item() == pytest.approx(cross_entropy, rel=1e-6)
    assert values["dice"].item() == pytest.approx(dice, rel=1e-6)
    assert values["loss"].item() == pytest.approx((cross_entropy + dice) / 2, rel=1e-6)


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


def test_an_image_without_valid_pixels_has_no_loss_and_the_others_keep_theirs():
    logits, target = torch.randn(2, 3, 5, 5, requires_grad=True), torch.randint(0, 3, (2, 5, 5))
    target[0] = 255
    first, second = dice_loss_per_image(logits, target)
    assert first == 0
    torch.testing.assert_close(second, dice_loss_per_image(logits[1:], target[1:])[0])
    value = loss_of(logits[:1], target[:1])["loss"]
    value.backward()
    assert value == 0 and logits.grad.abs().max() == 0


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
    counts = torch.tensor([4.0, weight], dtype=torch.float64)
    loss = SegmentationLoss(OptimConfig(class_weights=class_weights), 3)
    torch.testing.assert_close(loss.counts(target.byte()), counts)  # of the type as well
    for size in (1, 2):
        spans = [slice(first, first + size) for first in range(0, 4, size)]
        parts = [loss_of(logits[i], target[i], counts, segments[i], **settings) for i in spans]
        for name, value in expected.items():
            torch.testing.assert_close(sum(part[name] for part in parts), value)


def draw(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Probabilities of three classes and segments of 7 px, some of them id 0."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, height, width, generator=generator)
    coarse = torch.randint(0, 4, (2, -(-height // 7), -(-width // 7)), generator=generator)
    segments = coarse.repeat_interleave(7, 1).repeat_interleave(7, 2)
    return logits.softmax(1), segments[:, :height, :width]


def literal_object_loss(p: Tensor, ids: Tensor) -> float:
    total = 0.0
    for each in set(ids.unique().tolist()) - {0}:
        inside = p[:, ids == each]
        total += (inside - inside.mean(1, keepdim=True)).square().sum().item()
    return total / int((ids > 0).sum())


def literal_boundary_loss(p: Tensor, ids: Tensor) -> float:
    height, width = ids.shape
    pixels = [(i, j) for i in range(height) for j in range(width)]
    pairs = [((i, j), (i + 1, j)) for i, j in pixels if i + 1 < height]
    pairs += [((i, j), (i, j + 1)) for i, j in pixels if j + 1 < width]
    border = {pixel for pair in pairs if ids[pair[0]] != ids[pair[1]] for pixel in pair}
    near = {(i, j) for i, j in pixels for a, b in border if max(abs(i - a), abs(j - b)) <= 2}
    edges = [
        (p[:, a[0], a[1]] - p[:, b[0], b[1]]).abs().sum().item() / 2
        for a, b in pairs
        if ids[a] and ids[b] and not (a in near and b in near)
    ]
    return sum(edges) / max(1, len(edges))


@pytest.mark.parametrize(
    ("term", "literal"),
    [
        (object_loss_per_image, literal_object_loss),
        (boundary_loss_per_image, literal_boundary_loss),
    ],
)
def test_consistency_terms_equal_their_equations_and_ids_mean_nothing(term, literal):
    probability, segments = draw(15, 20)
    ours = term(probability, segments)
    expected = [literal(p, ids) for p, ids in zip(probability, segments, strict=True)]
    assert ours.tolist() == pytest.approx(expected, rel=1e-5) and min(expected) > 0
    renamed = torch.tensor([0, 65535, 7, 300])[segments]
    assert torch.equal(term(probability, renamed), ours)
    assert term(probability, torch.zeros_like(segments)).tolist() == [0, 0]


def test_object_loss_has_the_gradient_of_its_equation():
    """The mean is detached: its own gradient is zero, which finite differences confirm."""
    probability, segments = draw(9, 4)
    p = probability.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: object_loss_per_image(x, segments).sum(), p)


def test_terms_are_computed_only_when_asked_for_and_are_finite_in_half_precision():
    probability, segments = draw(7, 9)
    target = torch.zeros_like(segments)
    logits = (300 * probability).half().requires_grad_()
    values = loss_of(logits, target, None, segments, **CONSISTENT)
    assert all(value.dtype == torch.float32 and value.isfinite() for value in values.values())
    total = 0.5 * values["dice"] + 0.5 * values["cross_entropy"]
    total = total + 0.7 * values["object"] + 0.3 * values["boundary"]
    torch.testing.assert_close(values["loss"], total)
    values["loss"].backward()
    assert torch.isfinite(logits.grad).all()
    assert set(loss_of(logits, target)) == {"loss", "dice", "cross_entropy"}


def test_a_consistency_term_without_segments_is_refused():
    overrides = ["optim.boundary_weight=0.1", "structure.control=off"]
    with pytest.raises(ConfigError, match=r"optim\.boundary_weight: needs structure\.control=on"):
        config_from_dict({"name": "a", "data": {"root": "b"}}, "test", overrides)


def test_weights_of_another_number_of_classes_are_refused():
    with pytest.raises(ConfigError, match=r"optim\.class_weights: has 2 entries, but .* has 5 cl"):
        SegmentationLoss(OptimConfig(class_weights=(1.0, 2.0)), 5)
