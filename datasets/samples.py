"""A sample, a batch of samples, and the data set that reads them from a tile folder."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from datasets.encodings import StructureEncoder
from datasets.maps import map_path, read_map
from datasets.modalities import store_folder
from datasets.samplers import SampleKey
from datasets.tiles import TileSet
from datasets.transforms import Geometry, draw_color_factors, jitter_colors
from utils.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Samples of one size, members aligned pixel by pixel.

    A whole tile for evaluation is a batch of one.
    """

    tile_ids: tuple[str, ...]
    image: Tensor  # (B, 3, H, W) uint8 RGB
    target: Tensor  # (B, H, W) uint8 class index, 255 = ignore
    maps: dict[str, Tensor]  # store -> (B, H, W) int32 segment ids, or levels of values
    structure_image: Tensor | None  # (B, 3, H, W) uint8, if the maps belong to another image
    color_factors: Tensor  # (B, 3) brightness, contrast, saturation; 1 = unchanged
    present: Tensor  # (B, M) bool, which modalities the network is shown

    def to(self, device: torch.device) -> "Batch":
        """Copy to a device; pinned memory is not waited for."""

        def move(x: Tensor) -> Tensor:
            return x.to(device, non_blocking=True)

        return Batch(
            tile_ids=self.tile_ids,
            image=move(self.image),
            target=move(self.target),
            maps={store: move(ids) for store, ids in self.maps.items()},
            structure_image=None if self.structure_image is None else move(self.structure_image),
            color_factors=move(self.color_factors),
            present=move(self.present),
        )

    def pin_memory(self) -> "Batch":
        """Copy to page-locked memory (called by the loader when a CUDA device is used)."""
        return Batch(
            tile_ids=self.tile_ids,
            image=self.image.pin_memory(),
            target=self.target.pin_memory(),
            maps={store: ids.pin_memory() for store, ids in self.maps.items()},
            structure_image=self.structure_image.pin_memory()
            if self.structure_image is not None
            else None,
            color_factors=self.color_factors.pin_memory(),
            present=self.present.pin_memory(),
        )


def collate(samples: Sequence[Batch]) -> Batch:
    """Join batches of one into one batch."""
    first = samples[0]
    return Batch(
        tile_ids=tuple(tile_id for sample in samples for tile_id in sample.tile_ids),
        image=torch.cat([sample.image for sample in samples]),
        target=torch.cat([sample.target for sample in samples]),
        maps={store: torch.cat([s.maps[store] for s in samples]) for store in first.maps},
        structure_image=torch.cat([s.structure_image for s in samples])  # type: ignore[misc]
        if first.structure_image is not None
        else None,
        color_factors=torch.cat([sample.color_factors for sample in samples]),
        present=torch.cat([sample.present for sample in samples]),
    )


def prepare_inputs(batch: Batch, encoder: StructureEncoder) -> tuple[Tensor, Tensor, Tensor]:
    """What the network and the loss take, computed on the batch's device.

    Returns:
        image ``(B, 3, H, W)`` in [0, 1] with jittered colours, structure ``(B, S, H, W)`` in
        [0, 1], both channels-last, and target ``(B, H, W)`` int64.
    """
    image = jitter_colors(batch.image.float() / 255, batch.color_factors)
    other = None if batch.structure_image is None else batch.structure_image.float() / 255
    structure = encoder(image, batch.maps, other, batch.present)
    image, structure = (x.contiguous(memory_format=torch.channels_last) for x in (image, structure))
    return image, structure, batch.target.long()


class TileDataset(Dataset[Batch]):
    """Tiles with their targets and structure maps.

    Args:
        tile_set: the prepared data set.
        tile_ids: which tiles, in order.
        stores: modality stores to read; empty for ``control: off``.
        shuffled: give every tile the maps of another one (control experiment).
        geometry: random zoom, crop and flips for training; None returns whole tiles.
        color_jitter: largest relative change of brightness, contrast and saturation.
        available: of each modality of the recipe, whether it is there at all.
        dropout: probability that an available modality of a sample is absent; one always stays.
    """

    def __init__(
        self,
        *,
        tile_set: TileSet,
        tile_ids: Sequence[str],
        stores: Sequence[str],
        shuffled: bool = False,
        geometry: Geometry | None = None,
        color_jitter: float = 0.0,
        available: Sequence[bool] = (True,),
        dropout: float = 0.0,
    ) -> None:
        if shuffled and len(tile_ids) < 2:
            raise DataError("structure.control=shuffled needs at least two tiles in every split")
        self.tile_set = tile_set
        self.tile_ids = list(tile_ids)
        self.stores = list(stores)
        self.shuffled = shuffled
        self.geometry = geometry
        self.color_jitter = color_jitter
        self.available = np.array(available)
        self.dropout = dropout

    def __len__(self) -> int:
        return len(self.tile_ids)

    def __getitem__(self, key: SampleKey) -> Batch:
        """Read one sample; the same key gives the same sample in any process at any time."""
        rng = np.random.default_rng(key.seed)
        tile_id = self.tile_ids[key.index]
        members = {
            "image": self.tile_set.read_image(tile_id),
            "target": self.tile_set.read_target(tile_id),
        }
        size = members["image"].shape[:2]
        source = self._partner(key.index, rng) if self.shuffled else tile_id
        for store in self.stores:
            folder = store_folder(self.tile_set.root, store)
            members[store] = _fit(read_map(map_path(folder, source)).astype(np.int32), size)
        if self.shuffled:
            members["structure_image"] = _fit(self.tile_set.read_image(source), size)
        for name, array in members.items():
            if array.shape[:2] != size and not self.shuffled:
                raise DataError(
                    f"tile '{tile_id}' of {self.tile_set.root}: image is {size} and {name} "
                    f"{array.shape[:2]} (height, width); prepare or generate it again"
                )
        if self.geometry is not None:
            members = self.geometry(members, rng)
        colors = draw_color_factors(self.color_jitter, rng)
        return self._as_batch(tile_id, members, colors, self._draw_present(rng))

    def _draw_present(self, rng: np.random.Generator) -> np.ndarray:
        """Which modalities the sample keeps: each independently, and at least one."""
        present = self.available & (rng.random(len(self.available)) >= self.dropout)
        if not present.any():
            present[rng.choice(np.flatnonzero(self.available))] = True
        return present

    def _partner(self, index: int, rng: np.random.Generator) -> str:
        """Another tile: any for training, the next one for evaluation, so that it is repeatable."""
        step = int(rng.integers(1, len(self))) if self.geometry is not None else 1
        return self.tile_ids[(index + step) % len(self)]

    def _as_batch(
        self,
        tile_id: str,
        members: dict[str, np.ndarray],
        color_factors: np.ndarray,
        present: np.ndarray,
    ) -> Batch:
        tensors = {
            name: torch.from_numpy(np.ascontiguousarray(array)).unsqueeze(0)
            for name, array in members.items()
        }
        structure_image = tensors.get("structure_image")
        return Batch(
            tile_ids=(tile_id,),
            image=tensors["image"].movedim(-1, 1),
            target=tensors["target"],
            maps={store: tensors[store] for store in self.stores},
            structure_image=None if structure_image is None else structure_image.movedim(-1, 1),
            color_factors=torch.from_numpy(color_factors).unsqueeze(0),
            present=torch.from_numpy(present).unsqueeze(0),
        )


def _fit(array: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Another tile's member brought to this tile's size, nearest pixel; only used if shuffled."""
    if array.shape[:2] == size:
        return array
    height, width = size
    return np.array(Image.fromarray(array).resize((width, height), Image.Resampling.NEAREST))
