"""A network on whole images: classes of one, confusion matrix of many."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from configs.schema import IGNORE_INDEX, EvalConfig
from datasets.loaders import EvalLoader
from datasets.tile_set import SourceImage, Tile
from utils.distributed import DistContext
from utils.errors import DataError
from utils.evaluation.metrics import confusion_matrix
from utils.evaluation.morphology import RADIUS_PX, erode
from utils.evaluation.protocols import LabelPlan
from utils.evaluation.sliding_window import View, Window, mean_logits, predict_strips, stitch, views
from utils.precision import Precision


class StripPredictor(Protocol):
    """What is needed of a ``utils.evaluation.evaluate.Predictor``."""

    def strips(
        self, image: Tensor, maps: dict[str, Tensor], structure_image: Tensor | None = None
    ) -> Iterator[tuple[slice, Tensor]]:
        """Logits of one image from the top down."""


class Canvas:
    """One unit, from the top down: a row is done when no tile and no border can change it.

    Every tile is predicted with its own image and structure maps; their logits are blended where
    they overlap. Eroded labels that the data set lacks are made of the full ones of the whole unit.
    Class indices and targets of the unit are held; images, maps and logits only of the tiles in
    work.

    Args:
        unit: source and places of the tiles.
        labels: kinds of target.
        num_classes: C.
        keep_tiles: for ``finished_tiles``.

    Attributes:
        source: name of the source image.
        targets: ``(H, W)`` uint8 by kind, 255 = ignored, or in no tile.
        prediction: ``(H, W)`` uint8.
        confusions: ``(C, C)`` int64 by kind, of the rows that are done.
    """

    def __init__(
        self, unit: SourceImage, labels: LabelPlan, num_classes: int, *, keep_tiles: bool = False
    ) -> None:
        self.source = unit.source
        self.targets = {
            kind: torch.full(unit.size, IGNORE_INDEX, dtype=torch.uint8)
            for kind in {*labels.kinds, *labels.read}
        }
        self.prediction = torch.zeros(unit.size, dtype=torch.uint8)
        self.confusions = {
            kind: torch.zeros(num_classes, num_classes, dtype=torch.int64) for kind in labels.kinds
        }
        self._unit, self._labels, self._num_classes = unit, labels, num_classes
        self._windows = unit.windows()
        self._keep_tiles = keep_tiles
        self._waiting: list[tuple[Window, Any]] = []  # tiles that are not done
        self._done = 0

    @property
    def target(self) -> Tensor:
        """Of the headline."""
        return self.targets[self._labels.headline]

    def strips(
        self, predictor: StripPredictor, batches: Iterable[Any]
    ) -> Iterator[tuple[slice, Tensor]]:
        """Rows and their logits; each must be told to ``finish`` before the next is asked for.

        Args:
            predictor: of tiles.
            batches: one of each tile (``datasets.dataset.Batch``), in their order.

        Raises:
            DataError: a tile has another size than its place, or tiles that overlap disagree.
        """

        def predictions() -> Iterator[Iterator[tuple[slice, Tensor]]]:
            places = zip(self._unit.tiles, self._windows, batches, strict=True)
            for tile, window, batch in places:
                self._paste(tile, window, batch)
                if self._keep_tiles:
                    self._waiting.append((window, batch))
                yield predictor.strips(batch.image, batch.maps, batch.structure_image)

        yield from stitch(self._windows, predictions(), RADIUS_PX if self._labels.is_made else 0)

    def _paste(self, tile: Tile, window: Window, batch: Any) -> None:
        """Put the targets of a tile into their place. Where tiles overlap, they must agree."""
        expected = (tile.height_px, tile.width_px)
        if (size := tuple(batch.target.shape[1:])) != expected:
            raise DataError(
                f"tile '{tile.id}' is {size} and tiles.csv says {expected} (height, width); "
                "prepare the data set again"
            )
        for kind, target in zip(
            self._labels.read, (batch.target, *batch.more_targets), strict=True
        ):
            place, new = self.targets[kind][window], target[0]
            clash = (place != new) & (place != IGNORE_INDEX) & (new != IGNORE_INDEX)
            if num := int(clash.sum()):
                raise DataError(
                    f"tile '{tile.id}' and others of the source image '{tile.source}' disagree "
                    f"about {num} pixels that they share ({kind} labels); prepare the data set "
                    "again"
                )
            place.copy_(new)

    def finish(self, rows: slice, classes: Tensor) -> None:
        """Take the class indices of rows, and count them."""
        self.prediction[rows] = classes
        self._done = rows.stop
        if self._labels.is_made:
            first = max(0, rows.start - RADIUS_PX)
            around = self.targets["full"][first : rows.stop + RADIUS_PX]
            eroded = torch.from_numpy(erode(around.numpy()))
            self.targets["eroded"][rows] = eroded[rows.start - first : rows.stop - first]
        for kind, confusion in self.confusions.items():
            confusion += confusion_matrix(self.targets[kind][rows], classes, self._num_classes)

    def finished_tiles(self) -> Iterator[tuple[Any, Tensor, Tensor]]:
        """Tiles that are done and were not given before: batch, prediction, confusion matrix.

        They are as the unit is: blended, with the target of the headline.
        """
        tiles, self._waiting = self._waiting, []
        for window, batch in tiles:
            if window[0].stop > self._done:
                self._waiting.append((window, batch))
                continue
            target, prediction = self.target[window], self.prediction[window]
            if self._labels.is_made and self._labels.headline == "eroded":
                batch = replace(batch, target=target.unsqueeze(0))
            if len(self._windows) == 1:
                counts = self.confusions[self._labels.headline]
            else:
                counts = confusion_matrix(target, prediction, self._num_classes)
            yield batch, prediction, counts


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
            classes[rows] = classes_of(logits)
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

        @torch.inference_mode()  # on the generator, it would hold each strip while the next is made
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


def classes_of(logits: Tensor) -> Tensor:
    """The best class of every pixel, the first of equal ones.

    ``(C, H, W)`` -> ``(H, W)`` uint8 on the CPU.
    """
    # On a CPU, argmax over the first axis takes seven times as long as max.
    return logits.max(0).indices.to(torch.uint8).cpu()


def evaluate(
    predictor: Predictor,
    loader: EvalLoader,
    labels: LabelPlan,
    num_classes: int,
    dist: DistContext,
    look: Callable[[Any, Tensor, Tensor], None] | None = None,
    *,
    on_unit: Callable[[Canvas], None] | None = None,
    on_strip: Callable[[Tensor, Tensor, Tensor], None] | None = None,
    num_units: int | None = None,
) -> Tensor:
    """Confusion matrix of a split, counted once over all ranks. Call on all ranks.

    Args:
        predictor: the network.
        loader: this rank's images.
        labels: kinds of label to score on; the loader reads ``labels.read``.
        num_classes: number of classes.
        dist: this process.
        look: called with each *tile* when all of it is done: its batch, class indices ``(H, W)``
            uint8, and confusion matrix. It sees what was scored: tiles of one image are blended.
        on_unit: called with each whole unit, targets and prediction filled in.
        on_strip: called before that, strip by strip: target ``(rows, W)`` uint8 of the headline,
            logits ``(C, rows, W)`` on the device, class indices.
        num_units: the first of this rank only; None: all.

    Returns:
        ``(C, C)`` int64, rows = target, columns = prediction, the same on all ranks.
    """
    if loader.label_kinds != labels.read:
        raise ValueError(f"the loader reads {loader.label_kinds} labels, not {labels.read}")
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    off = not dist.is_main
    with tqdm(loader, desc="evaluate", unit="tile", leave=False, disable=off) as bar:
        batches = iter(bar)
        for unit in loader.source_images[:num_units]:
            canvas = Canvas(unit, labels, num_classes, keep_tiles=look is not None)
            for rows, logits in canvas.strips(predictor, islice(batches, len(unit.tiles))):
                classes = classes_of(logits)
                canvas.finish(rows, classes)
                if on_strip is not None:
                    on_strip(canvas.target[rows], logits, classes)
                del logits  # not held while the next ones are made
                if look is not None:
                    for tile in canvas.finished_tiles():
                        look(*tile)
            confusion += canvas.confusions[labels.headline]
            if on_unit is not None:
                on_unit(canvas)
    return dist.sum(confusion.to(dist.device)).cpu()
