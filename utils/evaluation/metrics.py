"""Segmentation scores from a confusion matrix.

Counts are summed over all images first and divided once at the end: the scores of a split are
those of its pixels, not the average of its images' scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from configs.schema import IGNORE_INDEX

_PART_PX = 1 << 18  # pixels counted at a time, so that intermediate arrays stay in the cache


def confusion_matrix(target: Tensor, prediction: Tensor, num_classes: int) -> Tensor:
    """Count how often each target class is predicted as each class.

    Args:
        target: uint8 class indices of any shape; pixels with 255 are not counted.
        prediction: uint8 class indices, same shape and device; any value where the target is 255.
        num_classes: number of classes C.

    Returns:
        ``(C, C)`` int64 on the same device; rows are target classes, columns predicted ones.
        Matrices of several images, batches or ranks are added.

    Raises:
        ValueError: the shapes differ, or a counted pixel holds an index outside ``0..C-1``.
    """
    if target.shape != prediction.shape:
        raise ValueError(
            f"target is {tuple(target.shape)} and prediction {tuple(prediction.shape)}; "
            "they must have one shape"
        )
    # Counting all pairs of bytes is about five times as fast as selecting the counted pixels first.
    table = torch.zeros(256 * 256, dtype=torch.int64, device=target.device)
    parts = (x.flatten().split(_PART_PX) for x in (target, prediction))
    for rows, columns in zip(*parts, strict=True):
        table += torch.bincount(rows.int().mul_(256).add_(columns), minlength=len(table))
    table = table.view(256, 256)
    table[IGNORE_INDEX] = 0
    for name, counts in (("target", table.sum(1)), ("prediction", table.sum(0))):
        if counts[num_classes:].any():
            index = int(counts.nonzero().max())
            raise ValueError(f"{name} holds class index {index}, allowed are 0..{num_classes - 1}")
    return table[:num_classes, :num_classes].clone()


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores as fractions in 0..1, per class and averaged.

    A class *occurs* if the target or the prediction has a pixel of it. The score of a class that
    does not occur is nan, and the means leave it out. A class that occurs in only one of the two
    has no hit: all its scores are 0 and the means count them. If no pixel was counted, everything
    is nan. The means may leave out further classes on request; oa and kappa cover all classes.
    """

    iou: tuple[float, ...]  # hits / (target or prediction)
    f1: tuple[float, ...]  # harmonic mean of precision and recall, also called Dice
    precision: tuple[float, ...]  # hits / predicted pixels
    recall: tuple[float, ...]  # hits / target pixels, also called class accuracy
    support: tuple[int, ...]  # target pixels
    miou: float
    mf1: float
    mprecision: float
    mrecall: float
    oa: float  # overall accuracy: hits of all classes / all counted pixels
    # Cohen (1960): agreement beyond chance with the same class frequencies, 1 = perfect; nan where
    # chance alone would be perfect (one class everywhere in both).
    kappa: float


def scores(confusion: Tensor, left_out: Sequence[int] = ()) -> Scores:
    """Return the scores of a confusion matrix, in float64.

    Args:
        confusion: ``(C, C)`` pixel counts; rows are target classes, columns predicted ones.
        left_out: indices of classes excluded from the means. Their pixels stay in the matrix, so
            confusing another class with them still costs that class.
    """
    counts = confusion.detach().cpu().double()
    hits, targets, predicted = counts.diagonal(), counts.sum(dim=1), counts.sum(dim=0)
    occurs = targets + predicted > 0
    excluded = torch.tensor(left_out, dtype=torch.long)

    def fraction(part: Tensor, whole: Tensor) -> Tensor:
        """Return ``part / whole``: 0 where ``whole`` is 0, nan where the class does not occur."""
        return (part / whole.clamp(min=1)).where(occurs, torch.nan)

    def mean(values: Tensor) -> float:
        """Return the mean over the classes that occur and are not left out."""
        return values.index_fill(0, excluded, torch.nan).nanmean().item()

    total = targets.sum()
    oa = hits.sum() / total
    by_chance = (targets / total * (predicted / total)).sum()
    iou = fraction(hits, targets + predicted - hits)
    f1 = fraction(2 * hits, targets + predicted)
    precision, recall = fraction(hits, predicted), fraction(hits, targets)
    return Scores(
        iou=tuple(iou.tolist()),
        f1=tuple(f1.tolist()),
        precision=tuple(precision.tolist()),
        recall=tuple(recall.tolist()),
        support=tuple(int(count) for count in targets.tolist()),
        miou=mean(iou),
        mf1=mean(f1),
        mprecision=mean(precision),
        mrecall=mean(recall),
        oa=oa.item(),
        kappa=((oa - by_chance) / (1 - by_chance)).item() if by_chance < 1 else torch.nan,
    )
