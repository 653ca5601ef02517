"""SAM masks from coarse logits to a segment map: measured, filtered, painted.

Source: Kirillov et al., "Segment Anything", ICCV 2023, appendix B, and the authors' automatic mask
generator, whose masks these are. Logits stay coarse (256 x 256 for SAM); masks are brought to the
size of the image a few at a time, once to be measured and, if they remain, once to be painted.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import groupby

import numpy as np
import torch
from segment_anything.modeling import Sam as SamNetwork
from segment_anything.utils.amg import is_box_near_crop_edge
from torch import Tensor
from torchvision.ops.boxes import batched_nms

from utils.boxes import Box

_THRESHOLD = SamNetwork.mask_threshold  # of logits: 0
_CHUNK_BYTES = {"cpu": 1 << 25, "cuda": 1 << 30}  # of logits at the size of the image
_MOST_IN_INT16 = 32767


@dataclass(frozen=True)
class Crop:
    """A crop of an image, and the linear maps from coarse logits to logits of its pixels.

    The package interpolates twice, to the encoder's picture and from there to the crop, both times
    bilinearly, and cuts off the padding of the picture in between. Both steps are linear and
    separable, so together they are one matrix per axis, computed by applying the package's own two
    calls to unit vectors.

    Attributes:
        box: place of the crop in the image.
        rows: ``(height, h)`` float32.
        columns: ``(width, w)`` float32.
    """

    box: Box
    rows: Tensor
    columns: Tensor

    def logits(self, coarse: Tensor) -> Tensor:
        """Resample ``(K, h, w)`` to ``(K, height, width)``."""
        return self.rows @ (coarse @ self.columns.T)

    def chunks(self, coarse: Tensor) -> Iterator[Tensor]:
        """Yield the result of ``logits`` a few masks at a time."""
        budget = _CHUNK_BYTES["cuda" if coarse.is_cuda else "cpu"]
        for part in coarse.split(max(1, budget // (4 * self.box.height_px * self.box.width_px))):
            yield self.logits(part)


@dataclass(frozen=True)
class Masks:
    """Masks of an image.

    Attributes:
        coarse: ``(K, h, w)`` float32 logits.
        crop: ``(K,)`` int64, index of their crop.
        boxes: ``(K, 4)`` int64 first column, first row, last column, last row, in the image.
        areas: ``(K,)`` int64, in pixels.
        iou: ``(K,)`` float32, as predicted by the network.
        stability: ``(K,)`` float32.
    """

    coarse: Tensor
    crop: Tensor
    boxes: Tensor
    areas: Tensor
    iou: Tensor
    stability: Tensor

    def __len__(self) -> int:
        return len(self.iou)

    def select(self, which: Tensor) -> "Masks":
        """Return some of the masks, by index or bool."""
        return Masks(**{f.name: getattr(self, f.name)[which] for f in fields(self)})

    @staticmethod
    def join(parts: "list[Masks]") -> "Masks":
        """Concatenate the masks of several crops."""
        names = [f.name for f in fields(Masks)]
        return Masks(**{name: torch.cat([getattr(p, name) for p in parts]) for name in names})


def measure(
    coarse: Tensor,
    iou: Tensor,
    crop: Crop,
    number: int,
    offset: float,
    stability_thresh: float,
) -> Masks:
    """Compute box, area and stability of the masks of crop ``number``; unstable ones are dropped.

    Stability is the IoU of the masks at two thresholds, ``offset`` above and below
    that of the masks; 0/0 of an empty mask is NaN, which passes no threshold above 0.
    """
    boxes, areas, stability = [], [], []
    for logits in crop.chunks(coarse):
        inner = _count(logits > _THRESHOLD + offset)
        stability.append(inner / _count(logits > _THRESHOLD - offset))
        areas.append(_count(logits > _THRESHOLD).long())
        boxes.append(_boxes(logits))
    # Boxes were measured in the crop: both of their corners move by the corner of the crop.
    corner = [crop.box.left_px, crop.box.top_px]
    masks = Masks(
        coarse=coarse,
        crop=torch.full(iou.shape, number, device=iou.device),
        boxes=torch.cat(boxes) + torch.tensor([*corner, *corner], device=iou.device),
        areas=torch.cat(areas),
        iou=iou,
        stability=torch.cat(stability),
    )
    return masks if stability_thresh <= 0 else masks.select(masks.stability >= stability_thresh)


def drop_cut_off(masks: Masks, crop: Crop, image_size: tuple[int, int]) -> Masks:
    """Drop masks that end at a border of their crop which is not a border of the image."""
    height, width = image_size
    box = crop.box
    edges = [box.left_px, box.top_px, box.right_px, box.bottom_px]
    boxes = masks.boxes - torch.tensor(edges[:2] * 2, device=masks.boxes.device)
    return masks.select(~is_box_near_crop_edge(boxes, edges, [0, 0, width, height]))


def suppress(masks: Masks, scores: Tensor, iou_thresh: float) -> Masks:
    """Apply non-maximum suppression to boxes with an IoU above the threshold."""
    one_class = torch.zeros(len(masks), device=masks.boxes.device)
    return masks.select(batched_nms(masks.boxes.float(), scores, one_class, iou_thresh))


def paint(masks: Masks, crops: list[Crop], image_size: tuple[int, int]) -> Tensor:
    """Paint masks, which overlap and leave gaps, into one segment map.

    Larger masks are painted first, so a smaller mask covers a larger one. Of two masks of equal
    area, the one that contains the first pixel (in raster order) in which they differ covers the
    other, so the order of the masks does not matter.

    Returns:
        ``(H, W)`` int32 on the device of the masks; 0 = under no mask.
    """
    ids = torch.zeros(image_size, dtype=torch.int32, device=masks.areas.device)
    order = _painting_order(masks, crops, image_size)
    for number, (box, mask) in enumerate(_at_full_size(masks, order, crops)):
        ids[box.slices].masked_fill_(mask, number + 1)
    return ids


def _painting_order(masks: Masks, crops: list[Crop], image_size: tuple[int, int]) -> list[int]:
    """Return the indices of the masks in the order of ``paint``."""
    areas = masks.areas.tolist()
    occurrences = Counter(areas)
    tied = [index for index, area in enumerate(areas) if occurrences[area] > 1]
    # Of two masks, packed into bits, the larger bytes are those with the first pixel.
    pixels = {}
    for index, (box, mask) in zip(tied, _at_full_size(masks, tied, crops), strict=True):
        whole = np.zeros(image_size, dtype=bool)
        whole[box.slices] = mask.cpu().numpy()
        pixels[index] = np.packbits(whole).tobytes()
    return sorted(range(len(areas)), key=lambda index: (-areas[index], pixels.get(index, b"")))


def _at_full_size(
    masks: Masks, order: list[int], crops: list[Crop]
) -> Iterator[tuple[Box, Tensor]]:
    """Yield box of the crop and pixels ``(height, width)`` bool of masks, in this order."""
    crop_of = masks.crop.tolist()
    for number, run in groupby(order, crop_of.__getitem__):  # of masks of one crop
        crop, index = crops[number], torch.tensor(list(run), device=masks.areas.device)
        for logits in crop.chunks(masks.coarse[index]):
            yield from ((crop.box, mask) for mask in logits > _THRESHOLD)


def _count(pixels: Tensor) -> Tensor:
    """Count the true pixels of each ``(K, H, W)`` mask, ``(K,)`` int32.

    Sums of rows in int16 are seven times as fast as in int32; wide rows are summed in parts.
    """
    parts = pixels.split(_MOST_IN_INT16, -1)
    counts = [part.sum(-1, dtype=torch.int16).sum(-1, dtype=torch.int32) for part in parts]
    return torch.stack(counts).sum(0, dtype=torch.int32)


def _boxes(logits: Tensor) -> Tensor:
    """Return first column, first row, last column, last row, ``(K, 4)`` int64; zeros if empty."""
    columns, rows = logits.amax(1) > _THRESHOLD, logits.amax(2) > _THRESHOLD
    first = [side.int().argmax(1) for side in (columns, rows)]
    last = [side.shape[1] - 1 - side.int().flip(1).argmax(1) for side in (columns, rows)]
    return torch.stack([*first, *last], 1) * columns.any(1, keepdim=True)
