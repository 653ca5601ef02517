"""A network on whole images: classes of one, confusion matrix of many."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from configs.schema import EvalConfig
from utils.augmentation import View, mean_logits, views
from utils.distributed import DistContext
from utils.metrics import confusion_matrix
from utils.precision import Precision
from utils.sliding_window import Window, predict_strips

# Of one window: image (1, 3, h, w) uint8, maps (1, h, w) by store, and the image (1, 3, h, w) that
# the maps belong to, if that is another one.
Members = tuple[Tensor, dict[str, Tensor], Tensor | None]


class Encoder(Protocol):
    """What is needed of a ``StructureEncoder``."""

    value_stores: tuple[str, ...]

    def __call__(
        self, image: Tensor, maps: dict[str, Tensor], structure_image: Tensor | None = None
    ) -> Tensor:
        """Structure ``(B, S, H, W)`` in [0, 1] of images and maps."""


class Predictor:
    """Classes of a whole image of any size, in sliding windows.

    Args:
        network: in eval mode, on ``device``.
        encoder: turns image and structure maps of a window into the structure input.
        precision: how the network is computed.
        config: window size, overlap, batch size, test-time augmentation.
        device: where it is computed.
    """

    def __init__(
        self,
        network: nn.Module,
        encoder: Encoder,
        precision: Precision,
        config: EvalConfig,
        device: torch.device,
    ) -> None:
        self._network = network
        self._encoder = encoder
        self._precision = precision
        self._config = config
        self._device = device
        self._views = views(config.scales, config.turns)

    def __call__(
        self,
        image: Tensor,
        maps: dict[str, Tensor],
        structure_image: Tensor | None = None,
        on_strip: Callable[[slice, Tensor, Tensor], None] | None = None,
    ) -> Tensor:
        """Class indices of one image, ``(H, W)`` uint8 on the CPU; arguments as in ``strips``.

        ``on_strip`` is called with rows, their logits, and their class indices on the CPU.
        """
        classes = torch.empty(image.shape[-2:], dtype=torch.uint8)
        for rows, logits in self.strips(image, maps, structure_image):
            # On a CPU, argmax over the first axis takes seven times as long as max.
            classes[rows] = logits.max(0).indices.to(torch.uint8).cpu()
            if on_strip is not None:
                on_strip(rows, logits, classes[rows])
        return classes

    def strips(
        self, image: Tensor, maps: dict[str, Tensor], structure_image: Tensor | None = None
    ) -> Iterator[tuple[slice, Tensor]]:
        """Logits of one image from the top down, as ``strips_of``.

        Args:
            image: ``(1, 3, H, W)`` uint8 RGB.
            maps: segment ids or levels ``(1, H, W)`` int by store.
            structure_image: ``(1, 3, H, W)`` uint8, if the maps belong to another image.
        """

        def cut(window: Window) -> Members:
            part = (..., *window)
            other = None if structure_image is None else structure_image[part]
            return image[part], {store: levels[part] for store, levels in maps.items()}, other

        yield from self.strips_of((image.shape[-2], image.shape[-1]), cut)

    @torch.inference_mode()
    def strips_of(
        self, size: tuple[int, int], cut: Callable[[Window], Members], part: slice = slice(None)
    ) -> Iterator[tuple[slice, Tensor]]:
        """Logits of one image from the top down; a whole survey image of them is never held.

        With test-time augmentation they are logarithms of averaged probabilities.

        Args:
            size: height and width of the image.
            cut: called for every window once, row by row of windows.
            part: rows of the image that are wanted.

        Yields:
            Rows, and their logits ``(C, rows, W)`` float32 on the device.
        """

        def forward(windows: list[Window]) -> Tensor:
            images, maps, others = zip(*map(cut, windows), strict=True)
            picture = self._stack(images).float() / 255
            known = [other for other in others if other is not None]
            other = self._stack(known).float() / 255 if known else None
            stacked = {store: self._stack([m[store] for m in maps]).int() for store in maps[0]}
            predictions = (self._look(view, picture, stacked, other) for view in self._views)
            return mean_logits(predictions, len(self._views))

        yield from predict_strips(
            forward,
            size=size,
            window_px=self._config.window_px,
            overlap_px=self._config.overlap_px,
            batch_size=self._config.batch_size,
            part=part,
        )

    def _stack(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([*parts]).to(self._device)

    def _look(
        self, view: View, image: Tensor, maps: dict[str, Tensor], structure_image: Tensor | None
    ) -> Tensor:
        """Logits of windows, seen in one way; the structure is encoded as the network sees it."""
        other = None if structure_image is None else view.photo(structure_image)
        seen_maps = {
            store: view.levels(x) if store in self._encoder.value_stores else view.ids(x)
            for store, x in maps.items()
        }
        seen = view.photo(image)
        structure = self._encoder(seen, seen_maps, other)
        with self._precision.autocast():
            logits = self._network(_channels_last(seen), _channels_last(structure))
        return view.undo(logits.float(), (image.shape[-2], image.shape[-1]))


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def evaluate(
    predictor: Predictor,
    loader: Iterable[Any],
    num_classes: int,
    dist: DistContext,
    on_prediction: Callable[[Any, Tensor, Tensor], None] | None = None,
    on_strip: Callable[[Any, slice, Tensor, Tensor], None] | None = None,
) -> Tensor:
    """Confusion matrix of a split, counted once over all ranks. Call on all ranks.

    Args:
        predictor: the network.
        loader: this rank's images, one a batch (``datasets.samples.Batch``).
        num_classes: number of classes.
        dist: this process.
        on_prediction: called with each batch, its class indices ``(H, W)`` uint8, and its own
            confusion matrix.
        on_strip: called before that with each batch and, strip by strip, rows, their logits
            ``(C, rows, W)`` on the device, and their class indices.

    Returns:
        ``(C, C)`` int64, rows = target, columns = prediction, the same on all ranks.
    """
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    bar = tqdm(loader, desc="evaluate", unit="image", leave=False, disable=not dist.is_main)
    for batch in bar:
        look = None if on_strip is None else partial(on_strip, batch)
        prediction = predictor(batch.image, batch.maps, batch.structure_image, look)
        counts = confusion_matrix(batch.target[0], prediction, num_classes)
        confusion += counts
        if on_prediction is not None:
            on_prediction(batch, prediction, counts)
    return dist.sum(confusion.to(dist.device)).cpu()
