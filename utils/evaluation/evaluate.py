"""Prediction of whole images, and the confusion matrix of a split."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor, nn
from tqdm import tqdm

from configs.schema import IGNORE_INDEX, EvalConfig
from datasets.dataset import Batch
from datasets.encodings import StructureEncoder
from datasets.loaders import EvalLoader
from datasets.tile_set import SourceImage, Tile
from utils.boxes import Box
from utils.distributed import DistContext
from utils.errors import DataError
from utils.evaluation.metrics import confusion_matrix
from utils.evaluation.morphology import RADIUS_PX, erode
from utils.evaluation.protocols import LabelPlan
from utils.evaluation.sliding_window import View, mean_logits, predict_strips, stitch, views
from utils.geometry import cut_maps
from utils.precision import Precision

# One window: image (1, 3, h, w) uint8, maps (1, h, w), or cells (1, K, gh, gw), by store, and the
# image (1, 3, h, w) that the maps belong to, if it is another one (structure.control=shuffled).
WindowInputs = tuple[Tensor, dict[str, Tensor], Tensor | None]


@dataclass(frozen=True, eq=False)
class Predictor:
    """Sliding-window prediction of whole images of any size."""

    network: nn.Module  # in eval mode, on ``device``
    encoder: StructureEncoder
    precision: Precision
    config: EvalConfig  # window size, overlap, batch size, test-time augmentation
    device: torch.device

    def __call__(
        self, image: Tensor, maps: dict[str, Tensor], structure_image: Tensor | None = None
    ) -> Tensor:
        """Return the class indices of one image, ``(H, W)`` uint8 on the CPU; see ``strips``."""
        strips = self.strips(image, maps, structure_image)
        return torch.cat([classes_of(logits) for _, logits in strips])

    def strips(
        self, image: Tensor, maps: dict[str, Tensor], structure_image: Tensor | None = None
    ) -> Iterator[tuple[slice, Tensor]]:
        """Return the logits of one image from the top down, as ``strips_of``.

        Args:
            image: ``(1, 3, H, W)`` uint8 RGB.
            maps: segment ids or levels ``(1, H, W)`` int, or cells ``(1, K, gh, gw)``, by store.
            structure_image: ``(1, 3, H, W)`` uint8, if the maps belong to another image.
        """
        size = (image.shape[-2], image.shape[-1])

        def crop(window: Box) -> WindowInputs:
            part = (..., *window.slices)
            other = None if structure_image is None else structure_image[part]
            return image[part], cut_maps(maps, size, window, self.encoder.cell_px), other

        return self.strips_of(size, crop)

    def strips_of(
        self,
        size: tuple[int, int],
        crop: Callable[[Box], WindowInputs],
        part: slice = slice(None),
        is_wanted: Callable[[Box], bool] | None = None,
    ) -> Iterator[tuple[slice, Tensor]]:
        """Return the logits of one image from the top down; those of a large one are never held.

        With test-time augmentation they are the logarithms of averaged probabilities.

        Args:
            size: height and width of the image.
            crop: called once for each window, row by row of windows.
            part: requested rows of the image.
            is_wanted: tells windows that are predicted, as in ``predict_strips``.

        Returns:
            Iterator of rows and their logits ``(C, rows, W)`` float32 on the device.
        """
        seen = views(self.config.scales, self.config.turns)

        @torch.inference_mode()  # as decorator of the generator it would keep each strip alive
        def forward(windows: list[Box]) -> Tensor:
            images, maps, others = zip(*map(crop, windows), strict=True)
            picture = self._stack(images).float() / 255
            other = None if others[0] is None else self._stack(others).float() / 255
            stacked = {store: self._stack([m[store] for m in maps]).int() for store in maps[0]}
            predictions = (self._predict(view, picture, stacked, other) for view in seen)
            return mean_logits(predictions, len(seen))

        return predict_strips(
            forward,
            size=size,
            window_px=self.config.window_px,
            overlap_px=self.config.overlap_px,
            batch_size=self.config.batch_size,
            part=part,
            is_wanted=is_wanted,
        )

    def _stack(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([*parts]).to(self.device)

    def _predict(
        self, view: View, image: Tensor, maps: dict[str, Tensor], structure_image: Tensor | None
    ) -> Tensor:
        """Return the logits of windows under one view.

        The structure is encoded after the view is applied, from the pixels that the network gets.
        """
        viewed = view.photo(image)
        other = None if structure_image is None else view.photo(structure_image)
        size, viewed_maps = (image.shape[-2], image.shape[-1]), {}
        for store, x in maps.items():
            if store in self.encoder.cell_px:
                viewed_maps[store] = view.cells(x, size, self.encoder.cell_px[store])
            else:
                is_value = store in self.encoder.value_stores
                viewed_maps[store] = view.levels(x) if is_value else view.ids(x)
        inputs = (viewed, *self.encoder(viewed, viewed_maps, other))
        with self.precision.autocast():
            logits = self.network(*map(_channels_last, inputs))
        return view.undo(logits.float(), size)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def classes_of(logits: Tensor) -> Tensor:
    """Return the class with the largest logit, the first one of a tie.

    ``(C, H, W)`` -> ``(H, W)`` uint8 on the CPU.
    """
    # On a CPU, argmax over the first axis takes seven times as long as max.
    return logits.max(0).indices.to(torch.uint8).cpu()


class TileAssembler:
    """Assembly of the tiles of one source image, row by row from the top down.

    Each tile is predicted from its own image and structure maps, and the logits are blended where
    tiles overlap. A row is complete once no later tile and no erosion can change it. Eroded labels
    that the data set lacks are computed from the full labels of the whole source image. Class
    indices and targets of the source image are held; images, maps and logits only of the tiles in
    progress.

    Attributes:
        source: id of the source image.
        targets: ``(H, W)`` uint8 by kind of label, 255 = ignored or outside all tiles.
        prediction: ``(H, W)`` uint8.
        confusions: ``(C, C)`` int64 by kind of label, over the complete rows.
    """

    def __init__(self, source_image: SourceImage, labels: LabelPlan, num_classes: int) -> None:
        size = source_image.size
        self.source = source_image.source
        self.targets = {
            kind: torch.full(size, IGNORE_INDEX, dtype=torch.uint8)
            for kind in {*labels.kinds, *labels.read}
        }
        self.prediction = torch.zeros(size, dtype=torch.uint8)
        self.confusions = {
            kind: torch.zeros(num_classes, num_classes, dtype=torch.int64) for kind in labels.kinds
        }
        self._tiles, self._places = source_image.tiles, source_image.boxes
        self._labels, self._num_classes = labels, num_classes
        self._pending: list[tuple[Box, Batch]] = []  # tiles with rows that are not complete
        self._num_complete = 0  # rows

    @property
    def target(self) -> Tensor:
        """Return the headline target, ``(H, W)`` uint8."""
        return self.targets[self._labels.headline]

    def strips(
        self, predictor: Predictor, batches: Iterable[Batch]
    ) -> Iterator[tuple[slice, Tensor]]:
        """Predict all tiles, one batch each in their order, blend them, and count complete rows.

        Yields:
            Complete rows and their logits ``(C, rows, W)``.

        Raises:
            DataError: a tile differs in size from its entry in tiles.csv, or overlapping tiles
                have different labels.
        """

        def predictions() -> Iterator[Iterator[tuple[slice, Tensor]]]:
            for tile, place, batch in zip(self._tiles, self._places, batches, strict=True):
                self._paste(tile, place, batch)
                self._pending.append((place, batch))
                yield predictor.strips(batch.image, batch.maps, batch.structure_image)

        delay_px = RADIUS_PX if self._labels.is_made else 0
        for rows, logits in stitch(self._places, predictions(), delay_px):
            self._finish(rows, classes_of(logits))
            yield rows, logits
            del logits  # released before the next ones are computed

    def _paste(self, tile: Tile, place: Box, batch: Batch) -> None:
        """Write the targets of a tile into the source image; overlapping tiles must agree."""
        expected = (tile.height_px, tile.width_px)
        if (size := tuple(batch.target.shape[1:])) != expected:
            raise DataError(
                f"tile '{tile.id}' is {size} and tiles.csv says {expected} (height, width); "
                "prepare the data set again"
            )
        targets = (batch.target, *batch.more_targets)
        for kind, target in zip(self._labels.read, targets, strict=True):
            old, new = self.targets[kind][place.slices], target[0]
            clash = (old != new) & (old != IGNORE_INDEX) & (new != IGNORE_INDEX)
            if num := int(clash.sum()):
                raise DataError(
                    f"tile '{tile.id}' and other tiles of the source image '{tile.source}' "
                    f"disagree on {num} shared pixels ({kind} labels); prepare the data set again"
                )
            old.copy_(new)

    def _finish(self, rows: slice, classes: Tensor) -> None:
        """Store the class indices of complete rows, and count them."""
        self.prediction[rows] = classes
        self._num_complete = rows.stop
        if self._labels.is_made:
            first = max(0, rows.start - RADIUS_PX)
            around = self.targets["full"][first : rows.stop + RADIUS_PX]
            eroded = torch.from_numpy(erode(around.numpy()))
            self.targets["eroded"][rows] = eroded[rows.start - first : rows.stop - first]
        for kind, confusion in self.confusions.items():
            confusion += confusion_matrix(self.targets[kind][rows], classes, self._num_classes)

    def finished_tiles(self) -> Iterator[tuple[Batch, Tensor, Tensor]]:
        """Yield each newly complete tile: batch, prediction ``(h, w)`` and confusion matrix.

        Prediction and target are those of the source image: blended, with the headline labels.
        """
        pending, self._pending = self._pending, []
        for place, batch in pending:
            if place.bottom_px > self._num_complete:
                self._pending.append((place, batch))
                continue
            target, prediction = self.target[place.slices], self.prediction[place.slices]
            if self._labels.is_made and self._labels.headline == "eroded":
                batch = replace(batch, target=target.unsqueeze(0))
            yield batch, prediction, confusion_matrix(target, prediction, self._num_classes)


def evaluate(
    predictor: Predictor,
    loader: EvalLoader,
    labels: LabelPlan,
    num_classes: int,
    dist: DistContext,
    on_tile: Callable[[Batch, Tensor, Tensor], None] | None = None,
    *,
    on_image: Callable[[TileAssembler], None] | None = None,
    on_strip: Callable[[Tensor, Tensor, Tensor], None] | None = None,
    num_images: int | None = None,
) -> Tensor:
    """Return the confusion matrix of a split, counted once over all ranks. Call on all ranks.

    Args:
        predictor: the network.
        loader: this rank's tiles.
        labels: kinds of label to score on; the loader reads ``labels.read``.
        num_classes: number of classes C.
        dist: this process.
        on_tile: called with each complete *tile*: its batch, class indices ``(h, w)`` uint8 and
            confusion matrix, as scored (tiles of one source image are blended).
        on_image: called with each complete source image, targets and prediction filled in.
        on_strip: called before ``on_image``, strip by strip: headline target ``(rows, W)`` uint8,
            logits ``(C, rows, W)`` on the device, class indices ``(rows, W)`` uint8.
        num_images: only the first source images of this rank; None: all.

    Returns:
        ``(C, C)`` int64, rows = target, columns = prediction, the same on all ranks.
    """
    if loader.label_kinds != labels.read:
        raise ValueError(f"the loader reads {loader.label_kinds} labels, not {labels.read}")
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    off = not dist.is_main
    with tqdm(loader, desc="evaluate", unit="tile", leave=False, disable=off) as bar:
        batches = iter(bar)
        for image in loader.source_images[:num_images]:
            assembler = TileAssembler(image, labels, num_classes)
            for rows, logits in assembler.strips(predictor, islice(batches, len(image.tiles))):
                if on_strip is not None:
                    on_strip(assembler.target[rows], logits, assembler.prediction[rows])
                del logits  # released before the next ones are computed
                for tile in assembler.finished_tiles():
                    if on_tile is not None:
                        on_tile(*tile)
            confusion += assembler.confusions[labels.headline]
            if on_image is not None:
                on_image(assembler)
    return dist.sum(confusion.to(dist.device)).cpu()
