"""Dice + label-smoothed cross entropy on valid pixels, and optional segment-consistency terms.

All terms are sums over images or pixels divided by counts of the *effective* batch, which the
caller knows. The gradient is therefore independent of how a batch is divided over ranks.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.schema import IGNORE_INDEX, OptimConfig
from utils.errors import ConfigError

TOLERANCE_PX = 2  # distance from a segment border within which edges of the prediction are free
_NUM_IDS = 1 << 16  # ids are 16 bit on disk; a fixed table size avoids a device synchronisation


class SegmentationLoss(nn.Module):
    """Weighted sum of Dice and cross entropy, and optionally of two consistency terms.

    Differs from the released code: ignored pixels are excluded from every sum of Dice, target and
    prediction (fault 36); cross entropy is divided by the number of valid pixels, not of all
    (fault 37); Dice is computed per image, over the classes of its target, so that it is a sum
    over images and independent of batching. Class weights and the consistency terms are additions,
    off by default.

    Args:
        config: factors of the terms, label smoothing and class weights. Of the class weights, only
            the ratios matter; a pixel is weighted by the factor of its target, with or without
            label smoothing. A consistency term with factor 0 is not computed.
        num_classes: number of classes of the data set.

    Raises:
        ConfigError: the number of class weights is not that of the classes.
    """

    class_weights: Tensor | None  # (C,), moves with the module; in no checkpoint

    def __init__(self, config: OptimConfig, num_classes: int) -> None:
        super().__init__()
        weights = config.class_weights
        if weights is not None and len(weights) != num_classes:
            raise ConfigError(
                f"optim.class_weights: has {len(weights)} entries, but the data set has "
                f"{num_classes} classes; give one per class in the data set's order, or null for "
                "no weights"
            )
        self.config = config
        factors = None if weights is None else torch.tensor(weights)
        self.register_buffer("class_weights", factors, persistent=False)

    @property
    def needs_segments(self) -> bool:
        """Return True if a consistency term is on, so that ``forward`` needs segment ids."""
        return self.config.object_weight > 0 or self.config.boundary_weight > 0

    def counts(self, target: Tensor) -> Tensor:
        """Return the divisors of the loss for a target ``(B, H, W)``.

        Returns:
            ``(2,)`` float64: number of images, and sum of the pixels' class weights (the number of
            valid pixels if unweighted). Tensors, so that the device is never synchronised; float64,
            because millions of weights are added and all ranks must get the same divisor.
        """
        weight = self._pixel_weights(target).sum(dtype=torch.float64)
        return torch.stack([torch.full_like(weight, len(target)), weight])

    def forward(
        self, logits: Tensor, target: Tensor, counts: Tensor, segments: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Compute the loss in fp32.

        Args:
            logits: ``(B, C, H, W)``.
            target: ``(B, H, W)`` int64 class index, 255 = ignore.
            counts: of the effective batch, see ``counts``. Without valid pixels, Dice and cross
                entropy are 0.
            segments: ``(B, H, W)`` int ids, 0..65535, 0 = no segment; needed for the consistency
                terms, which include unlabelled pixels.

        Returns:
            Scalars: the weighted sum ``loss``, its terms ``dice`` and ``cross_entropy``, and
            ``object`` and ``boundary`` where their factors are above 0.
        """
        config, logits = self.config, logits.float()
        num_images, pixel_weight = counts.float().unbind()
        dice = dice_loss_per_image(logits, target, self.class_weights).sum() / num_images
        entropy = self._cross_entropy(logits, target) / pixel_weight.clamp(min=1e-6)
        values = {"dice": dice, "cross_entropy": entropy}
        loss = config.dice_weight * dice + config.cross_entropy_weight * entropy
        if self.needs_segments:
            assert segments is not None, "the recipe was checked to have a segment modality"
            probability = logits.softmax(1)
            for name, factor, term in (
                ("object", config.object_weight, object_loss_per_image),
                ("boundary", config.boundary_weight, boundary_loss_per_image),
            ):
                if factor > 0:
                    values[name] = term(probability, segments).sum() / num_images
                    loss = loss + factor * values[name]
        return {"loss": loss, **values}

    def _cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        """Sum the cross entropy over the valid pixels, each times the weight of its target."""
        # PyTorch's own class weights would also scale the mass smoothed onto the other classes.
        weighted = self.class_weights is not None
        entropy = F.cross_entropy(
            logits,
            target,
            ignore_index=IGNORE_INDEX,
            label_smoothing=self.config.label_smoothing,
            reduction="none" if weighted else "sum",
        )
        return (entropy * self._pixel_weights(target)).sum() if weighted else entropy

    def _pixel_weights(self, target: Tensor) -> Tensor:
        """Return the class weight of each pixel (1 if unweighted), 0 where it is ignored."""
        valid = target != IGNORE_INDEX
        if self.class_weights is None:
            return valid
        return self.class_weights[torch.where(valid, target, 0).long()] * valid


def sum_terms(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the sum of each term over the micro-batches of a step."""
    return {name: torch.stack([part[name] for part in parts]).sum() for name in parts[0]}


def dice_loss_per_image(
    logits: Tensor, target: Tensor, class_weights: Tensor | None = None
) -> Tensor:
    """Return ``1 - mean_c (2 Σ p t + 1) / (Σ p + Σ t + 1)`` over the classes of each target.

    Args:
        logits: ``(B, C, H, W)``.
        target: ``(B, H, W)`` integer, 255 = ignore.
        class_weights: ``(C,)``, 0 or more; weights of the mean over the classes.

    Returns:
        ``(B,)`` in [0, 1]; 0 for an image without a valid pixel of a class with a weight.
    """
    valid = target != IGNORE_INDEX
    probability = logits.softmax(1) * valid.unsqueeze(1)
    # Boolean one-hot target (B, C, H, W); the ignore index equals no class.
    classes = torch.arange(logits.shape[1], device=target.device).view(-1, 1, 1)
    is_class = target.unsqueeze(1) == classes
    overlap = (probability * is_class).sum((2, 3))
    area, mass = is_class.sum((2, 3)).to(probability.dtype), probability.sum((2, 3))
    weight = (area > 0).to(probability.dtype)
    if class_weights is not None:
        weight = weight * class_weights
    loss = (1 - (2 * overlap + 1) / (mass + area + 1)) * weight
    return loss.sum(1) / weight.sum(1).clamp(min=1e-6)


def object_loss_per_image(probability: Tensor, segments: Tensor) -> Tensor:
    """Return the variance of the prediction inside segments: a segment should have one class.

    ``Σ_i ||p_i - m_s(i)||² / N`` over the ``N`` pixels ``i`` of an image that lie in a segment,
    where ``m_s`` is the mean of ``p`` over segment ``s``. After the object consistency loss of
    SAM_RS (Ma et al., IEEE TGRS 2024); the formula is ours.

    Args:
        probability: ``(B, C, H, W)`` in [0, 1], summing to 1 over the classes.
        segments: ``(B, H, W)`` int ids, 0..65535, 0 = no segment.

    Returns:
        ``(B,)`` in [0, 1): 0 if every segment has one prediction, or there is no segment.
    """
    # One row of the table per image and id, so that equal ids of two images stay apart.
    row = torch.arange(len(segments), device=segments.device).view(-1, 1, 1) * _NUM_IDS
    row = (row + segments).flatten()
    values = probability.movedim(1, -1).flatten(0, -2)
    # Deviations from a mean sum to zero, so no gradient reaches p through m: detaching it changes
    # nothing and saves the backward pass a scatter over all pixels.
    fixed = F.pad(values.detach(), (0, 1), value=1)  # the last column counts pixels
    sums = fixed.new_zeros(len(segments) * _NUM_IDS, fixed.shape[1]).index_add_(0, row, fixed)[row]
    mean = sums[:, :-1] / sums[:, -1:]
    inside = segments > 0
    deviation = (values - mean).square().sum(1).view(segments.shape) * inside
    return deviation.sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)


def boundary_loss_per_image(probability: Tensor, segments: Tensor) -> Tensor:
    """Return the strength of the prediction's edges away from segment borders.

    ``Σ_(i,j) e_ij / M`` with ``e_ij = 1/2 Σ_c |p_ic - p_jc|`` over the ``M`` pairs of 4-neighbours
    that both lie in a segment and not both within 2 px of a border. A border is a pixel with a
    4-neighbour of another id. Segments divide classes further, so edges are asked to lie at
    borders, not borders to have edges. After the boundary loss of SAM_RS (Ma et al., IEEE TGRS
    2024); the formula is ours.

    Args:
        probability: ``(B, C, H, W)`` in [0, 1], summing to 1 over the classes.
        segments: ``(B, H, W)`` int ids, 0 = no segment.

    Returns:
        ``(B,)`` in [0, 1]: 0 if all edges lie at borders, or no pair counts.
    """
    # Both pixels of every pair with two ids are borders; dilate them by the tolerance.
    border = torch.zeros_like(segments, dtype=torch.bool)
    for axis in (-2, -1):
        before, after = _neighbours(segments, axis)
        for side in _neighbours(border, axis):
            side.logical_or_(before != after)
    near = F.max_pool2d(border.float(), 2 * TOLERANCE_PX + 1, stride=1, padding=TOLERANCE_PX) > 0
    # Mean edge strength over the pairs inside segments and away from borders, on both axes.
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
    """Return all but the last and all but the first along an axis, as views."""
    length = x.shape[axis] - 1
    return x.narrow(axis, 0, length), x.narrow(axis, 1, length)
