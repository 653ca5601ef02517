"""Segmentation of one image of any size: read, generate maps and predict, chunk by chunk."""

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial

import numpy as np
import torch
from torch import Tensor

from configs.schema import Config
from datasets.encodings import StructureEncoder
from utils.boxes import Box
from utils.evaluation.evaluate import Predictor, WindowInputs, classes_of
from utils.inference.chunks import ChunkGrid
from utils.inference.inputs import Input
from utils.inference.maps import MapSource, generated_maps
from utils.precision import Precision
from utils.threads import Stopwatch, read_ahead
from utils.training.checkpoint import Checkpoint, load_network

# Rows and columns of an image -> their pixels (h, w, 3) uint8 RGB.
Read = Callable[[slice, slice], np.ndarray]
# A chunk and its pixels -> ids or levels (h, w) uint16 by store.
MakeMaps = Callable[[Box, np.ndarray], dict[str, np.ndarray]]


class Segmenter:
    """A trained network with everything that segmenting an image takes.

    Args:
        checkpoint: from ``train.py``.
        config: its recipe, possibly overridden.
        device: where to compute.
        maps: source of structure maps; None: they are generated from the images.

    Attributes:
        watch: seconds spent in ``read``, ``structure`` and ``wait`` (for both).

    Raises:
        ConfigError, DataError: as ``utils.inference.maps.generated_maps``.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        config: Config,
        device: torch.device,
        maps: MapSource | None = None,
    ) -> None:
        self.watch = Stopwatch()
        self._config = config
        self._maps = maps or generated_maps(checkpoint, config, device)
        encoder = StructureEncoder(config.structure)
        precision = Precision(config.run.precision, device)
        network = load_network(
            checkpoint,
            config.model,
            structure_channels=encoder.num_channels,
            pictures=encoder.pictures,
            frozen_dtype=precision.dtype,
        ).to(device)
        self._predictor = Predictor(network, encoder, precision, config.eval, device)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Segment an image in memory: ``(H, W, 3)`` uint8 RGB -> ``(H, W)`` uint8 class indices."""
        strips = self.strips(None, image.shape[:2], lambda rows, columns: image[rows, columns])
        return torch.cat([classes_of(logits) for _, logits in strips]).numpy()

    def split_rows(self, size: tuple[int, int], num_parts: int) -> list[slice]:
        """Split the rows of an image among ranks, as ``ChunkGrid.split_rows``."""
        return self._grid(size).split_rows(num_parts)

    def strips(
        self,
        image: Input | None,
        size: tuple[int, int],
        read: Read,
        rows: slice | None = None,
    ) -> Iterator[tuple[slice, Tensor]]:
        """Yield the logits of an image from the top down, as ``segment_strips``.

        Args:
            image: its file; None: an image in memory.
            size: height and width.
            read: returns pixels.
            rows: range to predict; None: all.
        """
        make_maps = partial(self._maps.of_chunk, image)
        grid = self._grid(size)
        return segment_strips(self._predictor, grid, size, read, make_maps, self.watch, rows)

    def _grid(self, size: tuple[int, int]) -> ChunkGrid:
        config = self._config.eval
        superpixels = self._config.structure.selected().get("superpixels")
        segment_px = getattr(superpixels, "segment_size_px", None)
        return ChunkGrid(size, config.window_px, config.overlap_px, segment_px)


def segment_strips(
    predictor: Predictor,
    grid: ChunkGrid,
    size: tuple[int, int],
    read: Read,
    make_maps: MakeMaps,
    watch: Stopwatch,
    rows: slice | None = None,
) -> Iterator[tuple[slice, Tensor]]:
    """Yield the logits of an image of any size from the top down.

    A thread reads the next chunks and makes their maps while the network predicts. Memory grows
    with the width of the image only: two rows of chunks, and the logits of one row of windows.

    Args:
        predictor: the network.
        grid: the chunks of the image, for the windows of the predictor.
        size: height and width of the image.
        read: called in the thread, once a chunk, in order.
        make_maps: called in the thread as well.
        watch: adds up the seconds of ``read``, ``structure`` and ``wait`` (for both).
        rows: range to predict; None: all.

    Yields:
        Rows and their logits ``(C, rows, W)``, float32, on the predictor's device.
    """
    rows = slice(0, size[0]) if rows is None else rows

    def load(chunk: Box) -> tuple[Box, WindowInputs]:
        with watch.time("read"):
            pixels = read(*chunk.slices)
        with watch.time("structure"):
            maps = make_maps(chunk, pixels)
        array = np.require(pixels, requirements=["C", "W"])  # as PyTorch wants it
        image = torch.from_numpy(array).movedim(-1, 0).unsqueeze(0)
        return chunk, (image, {s: torch.from_numpy(m).unsqueeze(0) for s, m in maps.items()}, None)

    held: dict[Box, WindowInputs] = {}

    def crop(window: Box) -> WindowInputs:
        chunk = grid.of_window(window)
        while chunk not in held:
            with watch.time("wait"):
                loaded, inputs = next(loading)
            # Windows come row by row: none of a further window lies in a chunk above this one.
            for above in [other for other in held if other.top_px < loaded.top_px]:
                del held[above]
            held[loaded] = inputs
        image, maps, _ = held[chunk]
        inside = (
            ...,
            slice(window.top_px - chunk.top_px, window.bottom_px - chunk.top_px),
            slice(window.left_px - chunk.left_px, window.right_px - chunk.left_px),
        )
        return image[inside], {store: levels[inside] for store, levels in maps.items()}, None

    ahead = grid.num_across + 1  # the next row of chunks is loaded while this one is predicted
    with closing(read_ahead(load, grid.covering(rows), num_threads=1, ahead=ahead)) as loading:
        yield from predictor.strips_of(size, crop, rows)


def confidence_of(logits: Tensor) -> np.ndarray:
    """Return the highest softmax probability: logits ``(C, H, W)`` -> ``(H, W)`` uint8, 255 = 1."""
    best = 1 / (logits - logits.max(0).values).exp_().sum(0)
    return (255 * best).round().to(torch.uint8).cpu().numpy()
