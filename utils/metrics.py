"""Segmentation scores from a confusion matrix.

Counts are summed over all images first and divided once at the end: the scores of a split are
those of its pixels, not the average of its images' scores.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from configs.schema import IGNORE_INDEX


def confusion_matrix(target: Tensor, prediction: Tensor, num_classes: int) -> Tensor:
    """Count how often each target class is predicted as each class.

    Args:
        target: class indices of any shape and integer dtype, ``0..num_classes-1``; pixels with 255
            are not counted.
        prediction: class indices ``0..num_classes-1``, same shape and device. What it holds where
            the target is 255 does not matter.
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
    counted = target != IGNORE_INDEX
    rows, columns = target[counted].long(), prediction[counted].long()
    # Without this check an index that is too large would be counted as another pair of classes.
    for name, indices in (("target", rows), ("prediction", columns)):
        if indices.numel():
            low, high = (int(bound) for bound in indices.aminmax())
            if low < 0 or high >= num_classes:
                wrong = low if low < 0 else high
                raise ValueError(
                    f"{name} holds class index {wrong}, allowed are 0..{num_classes - 1}"
                )
    pairs = rows.mul_(num_classes).add_(columns)
    return torch.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores as fractions in 0..1, per class and averaged.

    A class *occurs* if the target or the prediction has a pixel of it. The score of a class that
    does not occur is nan, and the means leave it out. A class that occurs in only one of the two
    has no hit: all its scores are 0 and the means count them. If no pixel was counted, everything
    is nan.
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


def scores(confusion: Tensor) -> Scores:
    """Compute the scores of a confusion matrix, in float64.

    Args:
        confusion: ``(C, C)`` pixel counts; rows are target classes, columns predicted ones.

    Raises:
        ValueError: the matrix is not square.
    """
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
        raise ValueError(f"a confusion matrix is square, not {tuple(confusion.shape)}")
    counts = confusion.detach().cpu().double()
    hits, targets, predicted = counts.diagonal(), counts.sum(dim=1), counts.sum(dim=0)
    occurs = targets + predicted > 0

    def share(part: Tensor, whole: Tensor) -> Tensor:
        """``part / whole``; 0 where ``whole`` is 0, nan where the class does not occur."""
        return (part / whole.clamp(min=1)).where(occurs, torch.nan)

    iou = share(hits, targets + predicted - hits)
    f1 = share(2 * hits, targets + predicted)
    precision, recall = share(hits, predicted), share(hits, targets)
    return Scores(
        iou=tuple(iou.tolist()),
        f1=tuple(f1.tolist()),
        precision=tuple(precision.tolist()),
        recall=tuple(recall.tolist()),
        support=tuple(int(count) for count in targets.tolist()),
        miou=iou.nanmean().item(),
        mf1=f1.nanmean().item(),
        mprecision=precision.nanmean().item(),
        mrecall=recall.nanmean().item(),
        oa=(hits.sum() / targets.sum()).item(),
    )
