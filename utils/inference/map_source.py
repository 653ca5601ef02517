"""Source of structure maps for inference, as the classes that make or read them share it."""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext

import numpy as np

from utils.boxes import Box
from utils.inference.inputs import Input


class MapSource(ABC):
    """Source of the maps of a network.

    Attributes:
        kind: a text that changes with the maps that it gives for an image, see ``settings_digest``.
    """

    kind: str

    @abstractmethod
    def of_chunk(
        self, image: Input | None, chunk: Box, pixels: np.ndarray, valid: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Make the maps of a chunk.

        Args:
            image: None: an image without a file.
            chunk: where in the image.
            pixels: ``(h, w, 3)`` uint8 RGB of the chunk.
            valid: ``(h, w)`` bool, its pixels that hold data; None: all of them.

        Returns:
            Ids or levels ``(h, w)`` uint16, or cells ``(K, gh, gw)`` uint8, by store; 0 where there
            is no data.
        """

    def opened(self, image: Input | None) -> AbstractContextManager[None]:
        """Open what is read beside an image, while its chunks are asked for.

        Raises:
            MissingDataError, DataError: a file is missing, or does not fit the image.
        """
        return nullcontext()

    def digest_of(self, image: Input, digest: str) -> str:
        """Return the digest of an image's results, of that of the settings and of files beside it.

        Args:
            image: the image.
            digest: of the settings.
        """
        return digest
