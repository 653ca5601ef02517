"""A network on whole images: logits of one, confusion matrix of many."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from configs.schema import EvalConfig
from utils.distributed import DistContext
from utils.metrics import confusion_matrix
from utils.precision import Precision
from utils.sliding_window import Window, predict_windows

Encoder = Callable[[Tensor, dict[str, Tensor], Tensor | None], Tensor]


class Predictor:
    """Logits of a whole image of any size, in sliding windows.

    Args:
        network: in eval mode, on ``device``.
        encoder: turns image and structure maps of a window into the structure input.
        precision: how the network is computed.
        config: window size, overlap and batch size.
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

    @torch.inference_mode()
    def __call__(
        self, image: Tensor, maps: dict[str, Tensor], structure_image: Tensor | None = None
    ) -> Tensor:
        """Predict one image.

        Args:
            image: ``(1, 3, H, W)`` uint8 RGB.
            maps: segment ids ``(1, H, W)`` int by store.
            structure_image: ``(1, 3, H, W)`` uint8, if the maps belong to another image.

        Returns:
            Logits ``(C, H, W)`` float32 on the CPU.
        """

        def forward(windows: list[Window]) -> Tensor:
            def cut(x: Tensor) -> Tensor:
                parts = [x[..., rows, columns] for rows, columns in windows]
                return torch.cat(parts).to(self._device)

            picture = cut(image).float() / 255
            other = None if structure_image is None else cut(structure_image).float() / 255
            structure = self._encoder(
                picture, {store: cut(ids) for store, ids in maps.items()}, other
            )
            with self._precision.autocast():
                return self._network(_channels_last(picture), _channels_last(structure))

        return predict_windows(
            forward,
            size=(image.shape[-2], image.shape[-1]),
            window_px=self._config.window_px,
            overlap_px=self._config.overlap_px,
            batch_size=self._config.batch_size,
        )


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def evaluate(
    predictor: Predictor,
    loader: Iterable[Any],
    num_classes: int,
    dist: DistContext,
    on_prediction: Callable[[Any, Tensor, Tensor], None] | None = None,
) -> Tensor:
    """Confusion matrix of a split, counted once over all ranks. Call on all ranks.

    Args:
        predictor: the network.
        loader: this rank's images, one a batch (``datasets.samples.Batch``).
        num_classes: number of classes.
        dist: this process.
        on_prediction: called with each batch, its class indices ``(H, W)`` uint8, and its own
            confusion matrix.

    Returns:
        ``(C, C)`` int64, rows = target, columns = prediction, the same on all ranks.
    """
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    bar = tqdm(loader, desc="evaluate", unit="image", leave=False, disable=not dist.is_main)
    for batch in bar:
        logits = predictor(batch.image, batch.maps, batch.structure_image)
        prediction = logits.argmax(0).to(torch.uint8)
        counts = confusion_matrix(batch.target[0], prediction, num_classes)
        confusion += counts
        if on_prediction is not None:
            on_prediction(batch, prediction, counts)
    return dist.sum(confusion.to(dist.device)).cpu()
