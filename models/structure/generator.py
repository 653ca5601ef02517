"""Interface of structure generators: RGB image -> segments, values, or numbers of cells."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from configs.schema import MapKind
from utils.errors import DataError

T = TypeVar("T")


class StructureGenerator(ABC):
    """Computes structure maps of RGB images; equal batches of images give equal maps.

    Attributes:
        kind: content of the maps.
        weights_sha256: SHA-256 of the weights file; None for a generator without weights.
        images_per_batch: best number of images for ``generate_batch``.
    """

    kind: MapKind
    weights_sha256: str | None
    images_per_batch: int

    @abstractmethod
    def generate_batch(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Compute the maps of images of any sizes, each as ``generate`` does, up to rounding."""

    def generate(self, image: np.ndarray) -> np.ndarray:
        """Compute the map of one image.

        Args:
            image: ``(H, W, 3)`` uint8 RGB.

        Returns:
            Segments: ``(H, W)`` uint16 ids in canonical form: 1..K in raster order of the segments'
            first pixels, 0 = pixel without a segment. Values: ``(H, W)`` float32, finite. Cells:
            ``(K, gh, gw)`` uint8 levels, 1 or more.

        Raises:
            DataError: more segments than a 16-bit map can hold, or not enough memory on the device.
        """
        return self.generate_batch([image])[0]


class FittedGenerator(StructureGenerator):
    """A generator that is fitted to images of the training split before it computes any map."""

    @abstractmethod
    def fit(self, windows: Iterable[tuple[np.ndarray, np.ndarray | None]]) -> dict[str, Tensor]:
        """Fit to windows of images.

        Args:
            windows: ``(h, w, 3)`` uint8 RGB, and ``(gh, gw)`` bool: its cells that hold data;
                None: all of them.

        Returns:
            The fit, float32 tensors by name.

        Raises:
            DataError: no cell of any window holds data.
        """

    @abstractmethod
    def use(self, fit: Mapping[str, Tensor], source: str) -> None:
        """Take over a result of ``fit``; ``weights_sha256`` then covers it as well.

        Raises:
            DataError: it is none of these settings; ``source`` names its file.
        """


def halving(size: int, compute: Callable[[int], T], too_large: str) -> tuple[int, T]:
    """Return ``compute(size)``, halving the size while the device runs out of memory; and the size.

    Raises:
        DataError: ``too_large``, if not even size 1 fits.
    """
    while True:
        try:
            return size, compute(size)
        except torch.OutOfMemoryError as error:
            if size == 1:
                raise DataError(too_large) from error
        size //= 2
        torch.cuda.empty_cache()
