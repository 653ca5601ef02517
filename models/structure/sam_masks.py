"""From SAM's coarse mask logits to masks of the image: measured, thinned out, painted.

Source: Kirillov et al., "Segment Anything", ICCV 2023, appendix B, and the authors' automatic mask
generator, whose masks these are. Logits stay coarse (256 x 256 for SAM); masks are brought to the
image's size a few at a time, once to be measured and, those that stay, once to be painted.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from segment_anything.utils.amg import is_box_near_crop_edge
from torch import Tensor
from torchvision.ops.boxes import batched_nms

_CHUNK_BYTES = {"cpu": 1 << 25, "cuda": 1 << 30}  # of logits at the image's size


@dataclass(frozen=True)
class Frame:
    """A crop of an image, and how its coarse logits become logits of its pixels.

    The package interpolates twice, to the encoder's picture and from it to the crop, each time
    bilinearly, and cuts the picture's padding off in between. Both are linear and separable, so
    together they are one matrix an axis; its entries are what the package's own two calls make of
    unit vectors.

    Attributes:
        top: first row of the crop in the image; ``left``, ``height``, ``width`` likewise.
        rows: ``(height, h)`` float32.
        columns: ``(width, w)`` float32.
    """

    top: int
    left: int
    height: int
    width: int
    rows: Tensor
    columns: Tensor

    def logits(self, coarse: Tensor) -> Tensor:
        """``(K, h, w)`` -> ``(K, height, width)``."""
        return self.rows @ (coarse @ self.columns.T)

    def chunks(self, coarse: Tensor) -> Iterator[Tensor]:
        """The same a few masks at a time."""
        budget = _CHUNK_BYTES["cuda" if coarse.is_cuda else "cpu"]
        for part in coarse.split(max(1, budget // (4 * self.height * self.width))):
            yield self.logits(part)


def resampling(coarse: int, picture: int, used: int, length: int, device: torch.device) -> Tensor:
    """The matrix of ``Frame`` for one axis.

    Args:
        coarse: length of the logits.
        picture: length of the encoder's picture.
        used: how much of it shows the crop; the rest is padding.
        length: of the crop.
        device: where the matrix is wanted.

    Returns:
        ``(length, coarse)`` float32.
    """
    unit = torch.eye(coarse, device=device)[None, None]
    fine = F.interpolate(unit, (picture, coarse), mode="bilinear", align_corners=False)
    fine = fine[:, :, :used]
    return F.interpolate(fine, (length, coarse), mode="bilinear", align_corners=False)[0, 0]


@dataclass(frozen=True)
class Masks:
    """Masks of an image.

    Attributes:
        coarse: ``(K, h, w)`` float32 logits.
        frame: ``(K,)`` int64, index of the crop they belong to.
        boxes: ``(K, 4)`` int64 first column, first row, last column, last row, in the image.
        areas: ``(K,)`` int64, pixels.
        iou: ``(K,)`` float32, as the network predicts it.
        stability: ``(K,)`` float32.
        points: ``(K, 2)`` float64 x, y of the prompt, in pixels of the image.
    """

    coarse: Tensor
    frame: Tensor
    boxes: Tensor
    areas: Tensor
    iou: Tensor
    stability: Tensor
    points: Tensor

    def __len__(self) -> int:
        return len(self.iou)

    def pick(self, which: Tensor) -> "Masks":
        """Some of them, by index or bool."""
        return Masks(**{f.name: getattr(self, f.name)[which] for f in fields(self)})

    @staticmethod
    def join(parts: "list[Masks]") -> "Masks":
        """The masks of several crops."""
        names = [f.name for f in fields(Masks)]
        return Masks(**{name: torch.cat([getattr(p, name) for p in parts]) for name in names})


def measure(
    masks: Masks, frame: Frame, mask_threshold: float, offset: float, stability_thresh: float
) -> Masks:
    """Box, area and stability of masks that have none yet; the unstable ones are dropped.

    Stability is the IoU of the masks at two thresholds, ``offset`` above and below
    ``mask_threshold``; 0/0 of an empty mask is NaN, which passes no threshold but 0.
    """
    boxes, areas, stability = [], [], []
    for logits in frame.chunks(masks.coarse):
        inner = _count(logits > mask_threshold + offset)
        stability.append(inner / _count(logits > mask_threshold - offset))
        areas.append(_count(logits > mask_threshold).long())
        boxes.append(_boxes(logits, mask_threshold))
    corner = torch.tensor([frame.left, frame.top] * 2, device=masks.boxes.device)
    measured = Masks(
        coarse=masks.coarse,
        frame=masks.frame,
        boxes=torch.cat([masks.boxes[:0], *boxes]) + corner,
        areas=torch.cat([masks.areas[:0], *areas]),
        iou=masks.iou,
        stability=torch.cat([masks.stability[:0], *stability]),
        points=masks.points,
    )
    if stability_thresh <= 0:
        return measured
    return measured.pick(measured.stability >= stability_thresh)


def drop_cut_off(masks: Masks, frame: Frame, image_size: tuple[int, int]) -> Masks:
    """Drop masks that end at a border of their crop which is no border of the image."""
    height, width = image_size
    crop = [frame.left, frame.top, frame.left + frame.width, frame.top + frame.height]
    boxes = masks.boxes - torch.tensor(crop[:2] * 2, device=masks.boxes.device)
    return masks.pick(~is_box_near_crop_edge(boxes, crop, [0, 0, width, height]))


def suppress(masks: Masks, scores: Tensor, iou_thresh: float) -> Masks:
    """Non-maximum suppression: of masks whose boxes overlap more, the best scored stays."""
    one_class = torch.zeros(len(masks), device=masks.boxes.device)
    return masks.pick(batched_nms(masks.boxes.float(), scores, one_class, iou_thresh))


def paint(
    masks: Masks, frames: list[Frame], image_size: tuple[int, int], mask_threshold: float
) -> Tensor:
    """One segment map of masks that overlap and leave gaps.

    Larger masks are painted first, so a smaller mask lies over a larger one. Of two masks of equal
    area the one that holds the first pixel (in raster order) in which they differ lies on top, so
    the order of the masks never matters.

    Returns:
        ``(H, W)`` int32 on the device of the masks; 0 = under no mask.
    """
    ids = torch.zeros(image_size, dtype=torch.int32, device=masks.areas.device)
    order = _painting_order(masks, frames, image_size, mask_threshold)
    for number, (top, left, mask) in enumerate(_at_full_size(masks, order, frames, mask_threshold)):
        window = ids[top : top + mask.shape[0], left : left + mask.shape[1]]
        window.masked_fill_(mask, number + 1)
    return ids


def _painting_order(
    masks: Masks, frames: list[Frame], image_size: tuple[int, int], mask_threshold: float
) -> list[int]:
    areas = masks.areas.tolist()
    order = sorted(range(len(areas)), key=lambda index: -areas[index])
    tied = {area for area in areas if areas.count(area) > 1}
    equal = [index for index in order if areas[index] in tied]
    keys = {}
    for index, (top, left, mask) in zip(
        equal, _at_full_size(masks, equal, frames, mask_threshold), strict=True
    ):
        whole = np.zeros(image_size, dtype=bool)
        whole[top : top + mask.shape[0], left : left + mask.shape[1]] = mask.cpu().numpy()
        keys[index] = np.packbits(whole).tobytes()
    return sorted(order, key=lambda index: (-areas[index], keys.get(index, b"")))


def _at_full_size(
    masks: Masks, order: list[int], frames: list[Frame], mask_threshold: float
) -> Iterator[tuple[int, int, Tensor]]:
    """First row, first column and pixels ``(height, width)`` bool of masks, in this order."""
    frame_of = masks.frame.tolist()
    start = 0
    while start < len(order):
        end = start + 1
        while end < len(order) and frame_of[order[end]] == frame_of[order[start]]:
            end += 1
        frame = frames[frame_of[order[start]]]
        index = torch.tensor(order[start:end], device=masks.areas.device)
        for logits in frame.chunks(masks.coarse[index]):
            yield from ((frame.top, frame.left, mask) for mask in logits > mask_threshold)
        start = end


def _count(pixels: Tensor) -> Tensor:
    """Number of true pixels of each ``(K, H, W)`` mask, int32; int16 rows halve the traffic."""
    return pixels.sum(-1, dtype=torch.int16).sum(-1, dtype=torch.int32)


def _boxes(logits: Tensor, threshold: float) -> Tensor:
    """First column, first row, last column, last row, ``(K, 4)`` int64; zeros if empty."""
    columns, rows = logits.amax(1) > threshold, logits.amax(2) > threshold
    first = [side.int().argmax(1) for side in (columns, rows)]
    last = [side.shape[1] - 1 - side.int().flip(1).argmax(1) for side in (columns, rows)]
    return torch.stack([*first, *last], 1) * columns.any(1, keepdim=True)
