"""Segmentation of one image of any size: read, generate maps and predict, chunk by chunk."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial

import numpy as np
import torch
from torch import Tensor

from configs.schema import Config, EvalConfig
from utils.boxes import Box
from utils.evaluation.evaluate import Predictor, WindowInputs, classes_of
from utils.evaluation.setup import load_predictor
from utils.geometry import cut_maps
from utils.inference.arguments import checked_image
from utils.inference.chunks import ChunkGrid
from utils.inference.inputs import Input
from utils.inference.map_source import MapSource
from utils.inference.maps import generated_maps
from utils.inference.sensors import ArrayMaps, TrainedSensor, trained_sensors
from utils.inference.validity import ReadMask, ValidCells
from utils.malloc import return_freed_memory
from utils.threads import Stopwatch, read_ahead
from utils.training.checkpoint import Checkpoint

# Rows and columns of an image -> their pixels (h, w, 3) uint8 RGB.
Read = Callable[[slice, slice], np.ndarray]


class Segmenter:
    """Segmentation of images by a trained network; ``load_segmenter`` makes one.

    Args:
        predictor: the network.
        maps: source of structure maps.
        config: size and overlap of the predictor's windows.
        segment_px: side of a superpixel if the maps hold superpixels.
        sensors: those that the network reads, for images in memory.

    Attributes:
        watch: seconds spent in ``read``, ``structure`` and ``wait`` (for both).
    """

    def __init__(
        self,
        predictor: Predictor,
        maps: MapSource,
        config: EvalConfig,
        segment_px: int | None = None,
        sensors: Mapping[str, TrainedSensor] | None = None,
    ) -> None:
        self.watch = Stopwatch()
        self._predictor, self._maps, self._sensors = predictor, maps, sensors or {}
        self._config, self._segment_px = config, segment_px

    def __call__(self, image: np.ndarray, **sensors: np.ndarray) -> np.ndarray:
        """Segment an image in memory: ``(H, W, 3)`` uint8 RGB -> ``(H, W)`` uint8 class indices.

        Args:
            image: the image.
            sensors: by name ``(H, W)`` numbers in the unit of the training set, NaN where there is
                no data, of every sensor that the network reads.

        Raises:
            DataError: it is no such image, or sensor; the message says how to convert it.
        """
        image = checked_image(image)
        if sensors or self._sensors:
            maps = ArrayMaps(self._maps, self._sensors, sensors, image.shape[:2])
            return Segmenter(self._predictor, maps, self._config, self._segment_px)(image)
        strips = self.strips(None, image.shape[:2], lambda rows, columns: image[rows, columns])
        return torch.cat([classes_of(logits) for _, logits in strips]).numpy()

    def digest_of(self, image: Input, digest: str) -> str:
        """Return the digest of the results of an image, see ``MapSource.digest_of``."""
        return self._maps.digest_of(image, digest)

    def split_rows(self, size: tuple[int, int], num_parts: int) -> list[slice]:
        """Split the rows of an image among ranks, as ``ChunkGrid.split_rows``."""
        return self._grid(size).split_rows(num_parts)

    def _grid(self, size: tuple[int, int]) -> ChunkGrid:
        return ChunkGrid(size, self._config.window_px, self._config.overlap_px, self._segment_px)

    def strips(
        self,
        image: Input | None,
        size: tuple[int, int],
        read: Read,
        rows: slice | None = None,
        read_mask: ReadMask | None = None,
    ) -> Iterator[tuple[slice, Tensor]]:
        """Yield the logits of an image of any size from the top down.

        A thread reads the next chunks and makes their maps while the network predicts. Memory grows
        with the width of the image only: two rows of chunks, and the logits of one row of windows.

        Args:
            image: its file; None: an image in memory.
            size: height and width.
            read: returns pixels; called in the thread, once a chunk, in order.
            rows: range to predict; None: all.
            read_mask: tells pixels that hold data; None: all do. Chunks and windows without any
                are skipped, which changes no pixel that holds data.

        Yields:
            Rows that some predicted window covers, and their logits ``(C, rows, W)``, float32, on
            the predictor's device.
        """
        with self._maps.opened(image):
            yield from self._strips(image, size, read, rows or slice(0, size[0]), read_mask)

    def _strips(
        self,
        image: Input | None,
        size: tuple[int, int],
        read: Read,
        rows: slice,
        read_mask: ReadMask | None,
    ) -> Iterator[tuple[slice, Tensor]]:
        """Yield the logits of an image whose sensors are open, see ``strips``."""
        grid = self._grid(size)
        chunks, is_wanted = [*grid.covering(rows)], None
        if read_mask is not None:
            with self.watch.time("read"):
                bottom = max(chunk.bottom_px for chunk in chunks)
                cells = ValidCells(read_mask, size, slice(chunks[0].top_px, bottom))
            is_wanted = cells.any_in
            chunks = [chunk for chunk in chunks if is_wanted(chunk)]
        held: dict[Box, WindowInputs] = {}

        def crop(window: Box) -> WindowInputs:
            chunk = grid.of_window(window)
            while chunk not in held:
                with self.watch.time("wait"):
                    loaded, inputs = next(loading)
                # Windows come row by row: none of a further window lies in a chunk above this one.
                if above := [other for other in held if other.top_px < loaded.top_px]:
                    for other in above:
                        del held[other]
                    return_freed_memory()
                held[loaded] = inputs
            pixels, maps, _ = held[chunk]
            top, left = window.top_px - chunk.top_px, window.left_px - chunk.left_px
            inside = Box(top, left, window.height_px, window.width_px)
            extent, sides = (chunk.height_px, chunk.width_px), self._predictor.encoder.cell_px
            cut = cut_maps(maps, extent, inside, sides)
            return pixels[(..., *inside.slices)], cut, None

        load = partial(self._load, image, read, read_mask)
        ahead = grid.num_across + 1  # the next row of chunks is loaded while this one is predicted
        with closing(read_ahead(load, chunks, num_threads=1, ahead=ahead)) as loading:
            yield from self._predictor.strips_of(size, crop, rows, is_wanted)

    def _load(
        self, image: Input | None, read: Read, read_mask: ReadMask | None, chunk: Box
    ) -> tuple[Box, WindowInputs]:
        """Read a chunk and make its maps."""
        with self.watch.time("read"):
            pixels = read(*chunk.slices)
            valid = None if read_mask is None else read_mask(*chunk.slices)
        with self.watch.time("structure"):
            maps = self._maps.of_chunk(image, chunk, pixels, valid)
        array = np.require(pixels, requirements=["C", "W"])  # as PyTorch wants it
        tensor = torch.from_numpy(array).movedim(-1, 0).unsqueeze(0)
        return chunk, (tensor, {s: torch.from_numpy(m).unsqueeze(0) for s, m in maps.items()}, None)


def load_segmenter(
    checkpoint: Checkpoint, config: Config, device: torch.device, maps: MapSource | None = None
) -> Segmenter:
    """Load everything that segmenting an image takes.

    Args:
        checkpoint: from ``train.py``.
        config: its recipe, possibly overridden.
        device: where to compute.
        maps: source of structure maps; None: they are generated from the images, and sensors are
            given with each image.

    Raises:
        ConfigError, DataError: as ``utils.inference.maps.generated_maps``.
    """
    sensors = trained_sensors(config.structure, checkpoint.identity.maps)
    maps = maps or generated_maps(checkpoint, config, device, given=sensors)
    predictor = load_predictor(checkpoint, config, device)
    superpixels = config.structure.selected().get("superpixels")
    segment_px = getattr(superpixels, "segment_size_px", None)
    return Segmenter(predictor, maps, config.eval, segment_px, sensors)


def confidence_of(logits: Tensor) -> np.ndarray:
    """Return the highest softmax probability: logits ``(C, H, W)`` -> ``(H, W)`` uint8, 255 = 1."""
    best = 1 / (logits - logits.max(0).values).exp_().sum(0)
    return (255 * best).round().to(torch.uint8).cpu().numpy()
