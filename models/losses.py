"""0.5 Dice + 0.5 label-smoothed cross entropy, on valid pixels only.

Both terms are sums over images or pixels divided by counts of the *whole* batch, which the caller
knows. So the gradient does not depend on how a batch is divided over ranks.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.schema import IGNORE_INDEX, OptimConfig
from utils.distributed import DistContext


@dataclass(frozen=True, kw_only=True)
class BatchSize:
    """The divisors of the loss, over all ranks, as tensors so that the device never waits."""

    num_images: Tensor
    num_valid_pixels: Tensor


def measure_batch(target: Tensor, dist: DistContext) -> BatchSize:
    """Divisors for one rank's part of a batch. Call on all ranks.

    They are the counts of the whole batch over the number of ranks, because DDP averages the
    ranks' gradients and the loss is to be divided by the whole counts once.
    """
    valid = (target != IGNORE_INDEX).sum()
    images, pixels = dist.sum(torch.stack([valid.new_tensor(len(target)), valid])).unbind()
    return BatchSize(num_images=images / dist.world_size, num_valid_pixels=pixels / dist.world_size)


class SegmentationLoss(nn.Module):
    """Weighted sum of Dice and cross entropy.

    Differs from the released code: ignored pixels are out of every sum of Dice, target and
    prediction (fault 36); cross entropy is divided by the number of valid pixels, not of all
    (fault 37); Dice is taken per image, over the classes its target holds, so that it is a sum
    over images and independent of how they are batched.

    Args:
        dice_weight, cross_entropy_weight: factors of the two terms.
        label_smoothing: share of the target mass spread evenly over all classes.
    """

    def __init__(
        self, *, dice_weight: float, cross_entropy_weight: float, label_smoothing: float
    ) -> None:
        super().__init__()
        self.dice_weight = dice_weight
        self.cross_entropy_weight = cross_entropy_weight
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, target: Tensor, size: BatchSize) -> dict[str, Tensor]:
        """Compute the loss in fp32.

        Args:
            logits: ``(B, C, H, W)``.
            target: ``(B, H, W)`` int64 class index, 255 = ignore.
            size: images and valid pixels of the whole batch; 0 valid pixels give a loss of 0.

        Returns:
            Scalars: ``dice``, ``cross_entropy`` and their weighted sum ``loss``.
        """
        logits = logits.float()
        entropy = F.cross_entropy(
            logits,
            target,
            ignore_index=IGNORE_INDEX,
            label_smoothing=self.label_smoothing,
            reduction="sum",
        ) / size.num_valid_pixels.clamp(min=1e-6)
        dice = dice_loss_per_image(logits, target).sum() / size.num_images
        loss = self.dice_weight * dice + self.cross_entropy_weight * entropy
        return {"loss": loss, "dice": dice, "cross_entropy": entropy}


def build_loss(config: OptimConfig) -> SegmentationLoss:
    """The loss of a recipe."""
    return SegmentationLoss(
        dice_weight=config.dice_weight,
        cross_entropy_weight=config.cross_entropy_weight,
        label_smoothing=config.label_smoothing,
    )


def dice_loss_per_image(logits: Tensor, target: Tensor) -> Tensor:
    """``1 - mean_c (2 Σ p t + 1) / (Σ p + Σ t + 1)`` over the classes in each image's target.

    Args:
        logits: ``(B, C, H, W)``.
        target: ``(B, H, W)`` int64, 255 = ignore.

    Returns:
        ``(B,)``; 0 for an image without a valid pixel.
    """
    num_classes = logits.shape[1]
    valid = target != IGNORE_INDEX
    probability = logits.softmax(1) * valid.unsqueeze(1)
    # An extra class takes the ignored pixels, so that every index is legal, and is cut off again.
    hot = F.one_hot(torch.where(valid, target, num_classes), num_classes + 1)[..., :-1]
    hot = hot.movedim(-1, 1).to(probability.dtype)
    overlap = (probability * hot).sum((2, 3))
    area, mass = hot.sum((2, 3)), probability.sum((2, 3))
    present = area > 0
    loss = (1 - (2 * overlap + 1) / (mass + area + 1)) * present
    return loss.sum(1) / present.sum(1).clamp(min=1)
