"""Dice + label-smoothed cross entropy on valid pixels; if asked for, agreement with segments.

All terms are sums over images or pixels divided by counts of the *whole* batch, which the caller
knows. So the gradient does not depend on how a batch is divided over ranks.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.schema import IGNORE_INDEX, OptimConfig
from utils.distributed import DistContext
from utils.errors import ConfigError

TOLERANCE_PX = 2  # how far from a segment border an edge of the prediction costs nothing
_NUM_IDS = 1 << 16  # ids are 16 bit on disk; a fixed table size spares the device a wait


@dataclass(frozen=True, kw_only=True)
class BatchSize:
    """The divisors of the loss, over all ranks, as tensors so that the device never waits."""

    num_images: Tensor
    pixel_weight: Tensor  # class weights of all valid pixels summed; their number if unweighted


class SegmentationLoss(nn.Module):
    """Weighted sum of Dice and cross entropy, and optionally of two consistency terms.

    Differs from the released code: ignored pixels are out of every sum of Dice, target and
    prediction (fault 36); cross entropy is divided by the number of valid pixels, not of all
    (fault 37); Dice is taken per image, over the classes its target holds, so that it is a sum
    over images and independent of how they are batched. Class weights and the consistency terms
    are additions, off by default.

    Args:
        dice_weight, cross_entropy_weight: factors of the two terms.
        label_smoothing: share of the target mass spread evenly over all classes.
        class_weights: one factor of 0 or more per class, not all 0; only their ratios matter.
            A pixel counts with the factor of its target, label smoothing or not.
        object_weight, boundary_weight: factors of ``object_loss_per_image`` and
            ``boundary_loss_per_image``; a term with factor 0 is not computed.
    """

    class_weights: Tensor | None  # (C,), moves with the module; in no checkpoint

    def __init__(
        self,
        *,
        dice_weight: float,
        cross_entropy_weight: float,
        label_smoothing: float,
        class_weights: tuple[float, ...] | None = None,
        object_weight: float = 0.0,
        boundary_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.dice_weight = dice_weight
        self.cross_entropy_weight = cross_entropy_weight
        self.label_smoothing = label_smoothing
        self.object_weight = object_weight
        self.boundary_weight = boundary_weight
        factors = None if class_weights is None else torch.tensor(class_weights)
        self.register_buffer("class_weights", factors, persistent=False)

    @property
    def needs_segments(self) -> bool:
        """Whether a consistency term is on, so that ``forward`` needs segment ids."""
        return self.object_weight > 0 or self.boundary_weight > 0

    def measure_batch(self, target: Tensor, dist: DistContext) -> BatchSize:
        """Divisors for one rank's part of a batch, ``(B, H, W)``. Call on all ranks.

        They are the counts of the whole batch over the number of ranks, because DDP averages the
        ranks' gradients and the loss is to be divided by the whole counts once.
        """
        # fp64: millions of factors are added, and every rank must get the same divisor.
        valid = target != IGNORE_INDEX
        weight = valid.sum() if self.class_weights is None else self._factors(target).double().sum()
        images, pixels = dist.sum(torch.stack([weight.new_tensor(len(target)), weight])).unbind()
        return BatchSize(
            num_images=(images / dist.world_size).float(),
            pixel_weight=(pixels / dist.world_size).float(),
        )

    def forward(
        self, logits: Tensor, target: Tensor, size: BatchSize, segments: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Compute the loss in fp32.

        Args:
            logits: ``(B, C, H, W)``.
            target: ``(B, H, W)`` int64 class index, 255 = ignore.
            size: images and valid pixels of the whole batch; 0 valid pixels give a Dice and a
                cross entropy of 0.
            segments: ``(B, H, W)`` int ids, 0..65535, 0 = no segment; needed for the consistency
                terms, which also count pixels that nobody labelled.

        Returns:
            Scalars: the weighted sum ``loss``, its terms ``dice`` and ``cross_entropy``, and
            ``object`` and ``boundary`` where their factors are above 0.
        """
        logits = logits.float()
        values = {
            "dice": dice_loss_per_image(logits, target, self.class_weights).sum() / size.num_images,
            "cross_entropy": self._cross_entropy(logits, target)
            / size.pixel_weight.clamp(min=1e-6),
        }
        loss = self.dice_weight * values["dice"]
        loss = loss + self.cross_entropy_weight * values["cross_entropy"]
        if self.needs_segments:
            assert segments is not None, "the recipe was checked to have a segment modality"
            probability = logits.softmax(1)
            for name, factor, term in (
                ("object", self.object_weight, object_loss_per_image),
                ("boundary", self.boundary_weight, boundary_loss_per_image),
            ):
                if factor > 0:
                    values[name] = term(probability, segments).sum() / size.num_images
                    loss = loss + factor * values[name]
        return {"loss": loss, **values}

    def _cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        """Sum over the valid pixels, each times its target's factor."""
        # PyTorch's own class weights would also weigh the mass smoothed onto the other classes.
        weighted = self.class_weights is not None
        entropy = F.cross_entropy(
            logits,
            target,
            ignore_index=IGNORE_INDEX,
            label_smoothing=self.label_smoothing,
            reduction="none" if weighted else "sum",
        )
        return (entropy * self._factors(target)).sum() if weighted else entropy

    def _factors(self, target: Tensor) -> Tensor:
        """Each pixel's class weight, 0 where the target is to be ignored."""
        assert self.class_weights is not None
        valid = target != IGNORE_INDEX
        return self.class_weights[torch.where(valid, target, 0)] * valid


def build_loss(config: OptimConfig, num_classes: int) -> SegmentationLoss:
    """The loss of a recipe for a data set of ``num_classes``.

    Raises:
        ConfigError: there is not exactly one class weight per class.
    """
    weights = config.class_weights
    if weights is not None and len(weights) != num_classes:
        raise ConfigError(
            f"optim.class_weights: has {len(weights)} entries, but the data set has {num_classes} "
            "classes; give one per class in the data set's order, or null for no weights"
        )
    return SegmentationLoss(
        dice_weight=config.dice_weight,
        cross_entropy_weight=config.cross_entropy_weight,
        label_smoothing=config.label_smoothing,
        class_weights=weights,
        object_weight=config.object_weight,
        boundary_weight=config.boundary_weight,
    )


def dice_loss_per_image(
    logits: Tensor, target: Tensor, class_weights: Tensor | None = None
) -> Tensor:
    """``1 - mean_c (2 Σ p t + 1) / (Σ p + Σ t + 1)`` over the classes in each image's target.

    Args:
        logits: ``(B, C, H, W)``.
        target: ``(B, H, W)`` int64, 255 = ignore.
        class_weights: ``(C,)``, 0 or more; makes the mean over the classes a weighted one.

    Returns:
        ``(B,)`` in [0, 1]; 0 for an image without a valid pixel of a class that counts.
    """
    num_classes = logits.shape[1]
    valid = target != IGNORE_INDEX
    probability = logits.softmax(1) * valid.unsqueeze(1)
    # An extra class takes the ignored pixels, so that every index is legal, and is cut off again.
    hot = F.one_hot(torch.where(valid, target, num_classes), num_classes + 1)[..., :-1]
    hot = hot.movedim(-1, 1).to(probability.dtype)
    overlap = (probability * hot).sum((2, 3))
    area, mass = hot.sum((2, 3)), probability.sum((2, 3))
    share = (area > 0).to(probability.dtype)
    if class_weights is not None:
        share = share * class_weights
    loss = (1 - (2 * overlap + 1) / (mass + area + 1)) * share
    return loss.sum(1) / share.sum(1).clamp(min=1e-6)


def object_loss_per_image(probability: Tensor, segments: Tensor) -> Tensor:
    """Spread of the prediction inside segments: pixels of one segment should agree.

    ``Σ_i ||p_i - m_s(i)||² / N`` over the ``N`` pixels ``i`` of an image that lie in a segment,
    where ``m_s`` is the mean of ``p`` over segment ``s``.

    Source: the idea of the object consistency loss of SAM_RS (Ma et al., IEEE TGRS 2024); the
    formula is ours, bounded by the probabilities and without a limit on the number of segments.

    Args:
        probability: ``(B, C, H, W)`` in [0, 1], summing to 1 over the classes.
        segments: ``(B, H, W)`` int ids, 0..65535, 0 = no segment; ids mean nothing but sameness.

    Returns:
        ``(B,)`` in [0, 1): 0 if every segment has one prediction, or there is no segment.
    """
    slot = torch.arange(len(segments), device=segments.device).view(-1, 1, 1) * _NUM_IDS
    slot = (slot + segments).flatten()
    values = probability.movedim(1, -1).flatten(0, -2)
    # The distances to a mean sum to zero, so no gradient reaches p through m: detaching it changes
    # nothing and spares the backward pass a scatter over all pixels.
    fixed = values.detach()
    total = fixed.new_zeros(len(segments) * _NUM_IDS, fixed.shape[1]).index_add_(0, slot, fixed)
    area = fixed.new_zeros(len(total)).index_add_(0, slot, torch.ones_like(fixed[:, 0]))
    mean = (total / area.clamp(min=1).unsqueeze(1))[slot]
    inside = segments > 0
    spread = (values - mean).square().sum(1).view(segments.shape) * inside
    return spread.sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)


def boundary_loss_per_image(probability: Tensor, segments: Tensor) -> Tensor:
    """Strength of the prediction's edges away from segment borders: edges should follow borders.

    ``Σ_(i,j) e_ij / M`` with ``e_ij = 1/2 Σ_c |p_ic - p_jc|`` over the ``M`` pairs of direct
    neighbours that both lie in a segment and not both within 2 px of a border. A border is a pixel
    with a direct neighbour of another id, so an edge may lie up to 2 px beside the border.

    This asks for precision only. Segments divide classes further, so most borders are no edge of
    the classes, and asking for an edge at each of them would be wrong. The mean over the pairs
    that count, rather than over all, keeps the term comparable between fine and coarse segments.

    Source: the idea of the boundary loss of SAM_RS (Ma et al., IEEE TGRS 2024); the formula is
    ours.

    Args:
        probability: ``(B, C, H, W)`` in [0, 1], summing to 1 over the classes.
        segments: ``(B, H, W)`` int ids, 0 = no segment; ids mean nothing but sameness.

    Returns:
        ``(B,)`` in [0, 1]: 0 if all edges lie at borders, or no pair counts.
    """
    border = torch.zeros_like(segments, dtype=torch.bool)
    for axis in (-2, -1):
        before, after = _neighbours(segments, axis)
        for side in _neighbours(border, axis):
            side.logical_or_(before != after)
    near = F.max_pool2d(border.float(), 2 * TOLERANCE_PX + 1, stride=1, padding=TOLERANCE_PX) > 0
    total, count = probability.new_zeros(len(segments)), probability.new_zeros(len(segments))
    for axis in (-2, -1):
        both_inside = torch.logical_and(*_neighbours(segments > 0, axis))
        counts = both_inside & ~torch.logical_and(*_neighbours(near, axis))
        before, after = _neighbours(probability, axis)
        edge = (before - after).abs().sum(1) / 2
        total = total + (edge * counts).sum((1, 2))
        count = count + counts.sum((1, 2))
    return total / count.clamp(min=1)


def _neighbours(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """All but the last and all but the first along an axis, as views: direct neighbours."""
    length = x.shape[axis] - 1
    return x.narrow(axis, 0, length), x.narrow(axis, 1, length)
