"""Principal components of the tokens of a frozen ViT, on a grid of cells.

The picture is resized so that every cell of ``cell_px`` becomes one patch of the ViT. Large
pictures are mapped in windows, of which the components are blended. The components are fitted once,
on a sample of the training split: channels are standardised, since the layers of a ViT differ in
scale.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from configs.schema import FeaturesConfig
from models.frozen_vit import FrozenViT
from models.structure.generator import FittedGenerator, halving
from utils.boxes import cell_grid, ramp, window_starts
from utils.errors import ConfigError, DataError

LIMIT = 4.0  # standard deviations of a component that its levels span on either side
_STEPS = 254  # between the levels 1 and 255
_LEAST_STD = 1e-6  # of a channel or component that is constant


class _Span(NamedTuple):
    """Extent of a window along one axis of an image."""

    pixels: slice
    cells: slice
    weight: np.ndarray  # of its cells in the map of the image; the weights of a cell sum to one


class _Window(NamedTuple):
    """A window of an image."""

    image: int  # index
    rows: _Span
    columns: _Span

    @property
    def grid(self) -> tuple[int, int]:
        return len(self.rows.weight), len(self.columns.weight)


class Features(FittedGenerator):
    """Principal components of the tokens of several layers, in levels 1..255.

    A level is linear in the component, from -4 to 4 of its standard deviations in the fit.

    Args:
        config: the settings; ``images_per_batch`` is one on the CPU, where more are no faster, and
            halved for good when the device runs out of memory.
        vit: on the device of the computation.

    Raises:
        ConfigError: more components than channels.
    """

    kind = "cells"

    def __init__(self, config: FeaturesConfig, vit: FrozenViT) -> None:
        self.device = vit.normalize.mean.device
        self.weights_sha256 = vit.identity["sha256"]  # of the ViT alone, until there is a fit
        self.images_per_batch = config.images_per_batch if self.device.type == "cuda" else 1
        self._config, self._vit = config, vit
        self._num_channels = len(vit.layers) * vit.channels
        self._fit: dict[str, Tensor] | None = None
        if config.num_components > self._num_channels:
            raise ConfigError(
                f"structure.features.num_components is {config.num_components}, and {config.name} "
                f"with layers={config.layers} has {self._num_channels} channels"
            )

    def use(self, fit: Mapping[str, Tensor], source: str) -> None:
        """Take over a result of ``fit``, see ``FittedGenerator``."""
        channels, components = self._num_channels, self._config.num_components
        shapes: dict[str, tuple[int, ...]]
        shapes = {"mean": (channels,), "std": (channels,), "scale": (components,)}
        shapes["basis"] = (channels, components)
        found = {key: tuple(value.shape) for key, value in fit.items()}
        if found != shapes or not all(bool(value.isfinite().all()) for value in fit.values()):
            raise DataError(
                f"{source} holds no fit of {self._config.name} with {components} components; "
                "it is damaged, or of other settings"
            )
        digest = hashlib.sha256(self._vit.identity["sha256"].encode())
        for key in sorted(shapes):
            digest.update(fit[key].cpu().contiguous().numpy().astype("<f4").tobytes())
        self.weights_sha256 = digest.hexdigest()
        self._fit = {key: fit[key].to(self.device, torch.float32) for key in shapes}

    @torch.no_grad()
    def fit(self, windows: Iterable[tuple[np.ndarray, np.ndarray | None]]) -> dict[str, Tensor]:
        """Fit the components to windows of images, see ``FittedGenerator``.

        Returns:
            ``mean`` and ``std`` of the channels, ``(C,)``; ``basis`` ``(C, K)``, the first
            eigenvectors of their correlation, whose largest entries are positive; and the standard
            deviations of the components, ``scale`` ``(K,)``.
        """
        size = self._num_channels
        count, total = 0, torch.zeros(size, dtype=torch.float64, device=self.device)
        products = total.new_zeros(size, size)
        for pixels, valid in windows:
            grid = cell_grid(pixels.shape[:2], self._config.cell_px)
            tokens = self._tokens([pixels], grid)[0].double()  # (C, gh, gw)
            kept = torch.ones(grid, dtype=torch.bool) if valid is None else torch.from_numpy(valid)
            tokens = tokens[:, kept.to(self.device)]
            count += tokens.shape[1]
            total += tokens.sum(1)
            products += tokens @ tokens.T
        if count == 0:
            raise DataError("no cell of the training images holds data; there is nothing to fit")
        mean = total / count
        covariance = products / count - torch.outer(mean, mean)
        std = covariance.diagonal().clamp(min=0).sqrt().clamp(min=_LEAST_STD)
        values, vectors = torch.linalg.eigh((covariance / torch.outer(std, std)).cpu())
        first = torch.arange(size - 1, size - 1 - self._config.num_components, -1)
        basis, scale = vectors[:, first], values[first].clamp(min=0).sqrt().clamp(min=_LEAST_STD)
        largest = basis.gather(0, basis.abs().argmax(0, keepdim=True))
        fit = {"mean": mean, "std": std, "basis": basis * largest.sign(), "scale": scale}
        return {key: value.cpu().float() for key, value in fit.items()}

    @torch.no_grad()
    def generate_batch(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Compute the components of images of any sizes, each as ``generate`` does.

        Returns:
            ``(K, ⌈H / cell_px⌉, ⌈W / cell_px⌉)`` uint8 levels, 1 or more.
        """
        too_large = (
            "a window of the features does not fit the memory of the device; lower "
            f"structure.features.window_px={self._config.window_px}, take a smaller "
            "structure.features.name, or run.device=cpu"
        )
        grids = [cell_grid(image.shape[:2], self._config.cell_px) for image in images]
        sums = [np.zeros((self._config.num_components, *grid), np.float32) for grid in grids]
        groups: dict[tuple[int, int], list[_Window]] = {}  # by the size of the ViT's input
        for index, image in enumerate(images):
            for spans in product(*map(self._spans, image.shape[:2], grids[index])):
                window = _Window(index, *spans)
                groups.setdefault(window.grid, []).append(window)
        for grid, left in groups.items():
            while left:
                crops = [images[i][rows.pixels, columns.pixels] for i, rows, columns in left]
                compute = partial(self._first_components, crops, grid)
                self.images_per_batch, found = halving(self.images_per_batch, compute, too_large)
                for (i, rows, columns), components in zip(left, found, strict=False):
                    weight = np.outer(rows.weight, columns.weight)
                    sums[i][:, rows.cells, columns.cells] += weight * components.numpy()
                left = left[len(found) :]
        return [_levels(components) for components in sums]

    def _spans(self, length: int, count: int) -> list[_Span]:
        """Return the windows along an axis of ``count`` cells; to the nearest pixel, of cells."""
        most = self._config.window_px // self._config.cell_px
        overlap = max(1, self._config.window_overlap_px // self._config.cell_px)
        starts, side = window_starts(count, most, overlap), min(most, count)
        shared = [side - (after - before) for before, after in pairwise(starts)]
        ramps = [ramp(side, *ends) for ends in zip([0, *shared], [*shared, 0], strict=True)]
        total = np.zeros(count, np.float32)
        for start, weight in zip(starts, ramps, strict=True):
            total[start : start + side] += weight
        spans = []
        for start, weight in zip(starts, ramps, strict=True):
            cells = slice(start, start + side)
            pixels = slice(*(round(edge * length / count) for edge in (start, start + side)))
            spans.append(_Span(pixels, cells, weight / total[cells]))
        return spans

    def _first_components(
        self, crops: Sequence[np.ndarray], grid: tuple[int, int], count: int
    ) -> list[Tensor]:
        """Return the components of the first crops, ``(K, *grid)`` float32 on the CPU."""
        fit = self._fit
        assert fit is not None, "a fit comes before the maps"
        tokens = self._tokens(crops[:count], grid).movedim(1, -1)
        components = ((tokens - fit["mean"]) / fit["std"]) @ fit["basis"] / fit["scale"]
        return list(components.movedim(-1, 1).cpu())

    def _tokens(self, crops: Sequence[np.ndarray], grid: tuple[int, int]) -> Tensor:
        """Return the tokens of all layers, ``(B, C, *grid)`` float32."""
        pictures = []
        for crop in crops:
            pixels = torch.tensor(np.ascontiguousarray(crop), device=self.device)
            pictures.append(self._vit.prepare(pixels.permute(2, 0, 1)[None] / 255, grid))
        return torch.cat([layer.float() for layer in self._vit.tokens(torch.cat(pictures))], 1)


def _levels(components: np.ndarray) -> np.ndarray:
    """Return components as levels 1..255, uint8."""
    scaled = (np.clip(components, -LIMIT, LIMIT) + LIMIT) / (2 * LIMIT)
    return (1 + np.rint(scaled * _STEPS)).astype(np.uint8)
