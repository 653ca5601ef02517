"""Object recall by object size.

An object is a 4-connected region of one class in the target. It is detected if at least half of its
pixels have its class in the prediction. Ignored pixels belong to no object; an object cut by them
or by the edge of the image counts with its visible size.
"""

from dataclasses import dataclass

import numpy as np

from configs.schema import IGNORE_INDEX
from utils.regions import connected_groups, touching_runs

# Areas in pixels at which the size classes begin after the first: squares of 16, 32, 64 and 128 px.
# A car of 4.5 m x 1.8 m has 3240 px at 0.05 m (Potsdam) and 1000 px at 0.09 m (Vaihingen).
AREAS_PX = (256, 1024, 4096, 16384)
SIZE_NAMES = ("<256", "256-1023", "1024-4095", "4096-16383", ">=16384")
COUNTS = ("pixels", "pixels_correct", "objects", "objects_detected")


@dataclass(frozen=True, kw_only=True)
class ObjectScores:
    """Fractions in 0..1 by class and size; nan where there is no such object."""

    num_objects: np.ndarray  # (C, sizes) int64
    detected: np.ndarray  # (C, sizes): fraction of the objects with half their pixels correct
    recall: np.ndarray  # (C, sizes): fraction of correct pixels of these objects


def object_counts(target: np.ndarray, prediction: np.ndarray, num_classes: int) -> np.ndarray:
    """Count objects and their pixels; counts of several images are added.

    Args:
        target: ``(H, W)`` uint8 class indices, 255 = ignored.
        prediction: ``(H, W)`` uint8 class indices.
        num_classes: number of classes C.

    Returns:
        ``(C, len(SIZE_NAMES), len(COUNTS))`` int64.
    """
    classes, area, right = _objects(target, target == prediction)
    size = np.searchsorted(AREAS_PX, area, side="right")
    cell = classes.astype(np.int64) * len(SIZE_NAMES) + size
    counts = np.zeros((num_classes * len(SIZE_NAMES), len(COUNTS)), dtype=np.int64)
    for column, weights in enumerate((area, right, np.ones_like(area), 2 * right >= area)):
        # Sums of whole numbers in float64 are exact below 2**53.
        counts[:, column] = np.bincount(cell, weights=weights, minlength=len(counts))
    return counts.reshape(num_classes, -1, len(COUNTS))


def _objects(target: np.ndarray, is_right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return class, area and number of correct pixels of each object.

    Runs of equal pixels in a row are joined instead of single pixels.
    """
    starts, pairs = touching_runs(target)
    lengths = np.diff(starts, append=target.size)
    classes = target.ravel()[starts]
    root = connected_groups(starts.size, pairs)
    right = np.add.reduceat(is_right.ravel(), starts, dtype=np.int64)
    area = np.bincount(root, weights=lengths, minlength=starts.size).astype(np.int64)
    right = np.bincount(root, weights=right, minlength=starts.size).astype(np.int64)
    is_object = (root == np.arange(starts.size)) & (classes != IGNORE_INDEX)
    return classes[is_object], area[is_object], right[is_object]


def object_scores(counts: np.ndarray) -> ObjectScores:
    """Return the scores of summed counts."""
    pixels, correct, objects, detected = np.moveaxis(counts, -1, 0)

    def fraction(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
        return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)

    return ObjectScores(
        num_objects=objects,
        detected=fraction(detected, objects),
        recall=fraction(correct, pixels),
    )
