"""Peer of the loader benchmark: the common loading pipeline of the field, with OpenCV.

Every member is a PNG file and is decoded as a whole, the whole tile is resized by a random scale,
and a crop of it is flipped and normalised in float.
"""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
READ = {"image": cv2.IMREAD_COLOR, "target": cv2.IMREAD_GRAYSCALE}
FILL = {"image": 0, "target": 255, "segments": 0, "height": 0}


class ClassicLoader:
    """Batches of training crops.

    Args:
        folder: ``MEMBER/ID.png`` of every member in ``FILL``.
        tile_ids: the tiles.
        crop_px: side of the crops.
        scale_range: range of the random scale of the whole tile.
        keep_decoded: decode every file only once, to measure the transforms alone.
    """

    def __init__(
        self,
        folder: Path,
        tile_ids: Sequence[str],
        crop_px: int,
        scale_range: tuple[float, float],
        keep_decoded: bool = False,
    ) -> None:
        self._folder, self._tile_ids = folder, tile_ids
        self._crop_px, self._scale_range = crop_px, scale_range
        self._decoded = {t: self._read(t) for t in tile_ids} if keep_decoded else {}
        cv2.setNumThreads(1)

    def batch(self, seeds: Sequence[int]) -> dict[str, Tensor]:
        """Return a sample per seed: image float32 ``(B, 3, H, W)``, the others ``(B, H, W)``."""
        samples = [self._sample(seed) for seed in seeds]
        return {name: torch.from_numpy(np.stack([s[name] for s in samples])) for name in FILL}

    def _read(self, tile_id: str) -> dict[str, np.ndarray]:
        paths = {name: self._folder / name / f"{tile_id}.png" for name in FILL}
        members = {}
        for name, path in paths.items():
            member = cv2.imread(str(path), READ.get(name, cv2.IMREAD_UNCHANGED))
            assert member is not None, path
            members[name] = member
        members["image"] = cv2.cvtColor(members["image"], cv2.COLOR_BGR2RGB)
        return members

    def _sample(self, seed: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        tile_id = self._tile_ids[seed % len(self._tile_ids)]
        members = self._decoded.get(tile_id) or self._read(tile_id)
        scale, crop = rng.uniform(*self._scale_range), self._crop_px
        height, width = (round(scale * length) for length in members["image"].shape[:2])
        top, left = (int(rng.integers(max(0, side - crop) + 1)) for side in (height, width))
        flips = rng.random(3) < 0.5
        sample = {}
        for name, member in members.items():
            linear = name in ("image", "height")
            method = cv2.INTER_LINEAR if linear else cv2.INTER_NEAREST
            member = cv2.resize(member, (width, height), interpolation=method)
            below, right = max(0, crop - height), max(0, crop - width)
            if below or right:
                fill = (FILL[name],) * 3
                edge = cv2.BORDER_CONSTANT
                member = cv2.copyMakeBorder(member, 0, below, 0, right, edge, value=fill)
            member = member[top : top + crop, left : left + crop]
            member = cv2.flip(member, 1) if flips[0] else member
            member = cv2.flip(member, 0) if flips[1] else member
            member = cv2.rotate(member, cv2.ROTATE_90_CLOCKWISE) if flips[2] else member
            sample[name] = member
        image = (sample["image"].astype(np.float32) / 255 - MEAN) / STD
        return {
            "image": image.transpose(2, 0, 1),
            "target": sample["target"].astype(np.int64),
            "segments": sample["segments"].astype(np.int32),
            "height": sample["height"].astype(np.float32) / 65535,
        }
