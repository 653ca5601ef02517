"""Relative inverse depth by Depth Anything: DINOv2 with a DPT head.

Source: Yang et al., "Depth Anything V2", NeurIPS 2024 (arXiv 2406.09414), and "Depth Anything",
CVPR 2024 (arXiv 2401.10891). The versions differ in their weights and in the layers whose tokens
are passed to the head. Tests compare the network with that of ``transformers`` on random weights;
no official file has been loaded by this project.
"""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.schema import DepthAnythingConfig
from models.layers import Normalize
from models.structure.generator import StructureGenerator, halving
from models.weights import RANDOM, load_official_weights, official_depth_anything
from utils.errors import DataError

PATCH_PX = 14

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_OUTPUT_WIDTH = 32
_UNUSED = ("pretrained.mask_token",)  # in the files; only DINOv2's own training needs it


class DptHead(nn.Module):
    """DPT head: reassembles tokens of four layers, fuses them from coarse to fine, and predicts.

    Differs from the official code by rounding only: the 1x1 convolution of a fusion precedes the
    bilinear upsampling, with which it commutes, and so has a quarter of the pixels. Under autocast
    the last three convolutions stay in float32: in bfloat16 the map would have at most 128 levels
    between a value and its double.

    Args:
        embed_dim: D, width of the tokens.
        widths: channels of the four layers, from the first (finest) to the last.
        features: channels of the fusion.
    """

    def __init__(self, embed_dim: int, widths: Sequence[int], features: int) -> None:
        super().__init__()
        finest, fine, _, coarse = widths
        self.projects = nn.ModuleList(nn.Conv2d(embed_dim, width, 1) for width in widths)
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(finest, finest, 4, stride=4),
                nn.ConvTranspose2d(fine, fine, 2, stride=2),
                nn.Identity(),
                nn.Conv2d(coarse, coarse, 3, stride=2, padding=1),
            ]
        )
        scratch: dict[str, nn.Module] = {}
        for number, width in enumerate(widths, 1):
            scratch[f"layer{number}_rn"] = nn.Conv2d(width, features, 3, padding=1, bias=False)
            scratch[f"refinenet{number}"] = _Fusion(features)
        scratch["output_conv1"] = nn.Conv2d(features, features // 2, 3, padding=1)
        scratch["output_conv2"] = nn.Sequential(
            nn.Conv2d(features // 2, _OUTPUT_WIDTH, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(_OUTPUT_WIDTH, 1, 1),
            nn.ReLU(inplace=True),
        )
        self.scratch = nn.ModuleDict(scratch)

    def forward(self, layers: Sequence[Tensor]) -> Tensor:
        """Predict one value per pixel.

        Args:
            layers: four maps ``(B, D, h, w)``, from the first layer to the last.

        Returns:
            ``(B, 14 * h, 14 * w)`` float32, 0 or more.
        """
        maps = []  # 4, 2, 1 and 1/2 times the token grid
        parts = zip(self.projects, self.resize_layers, layers, strict=True)
        for number, (project, resize, layer) in enumerate(parts, 1):
            maps.append(self.scratch[f"layer{number}_rn"](resize(project(layer))))
        sizes = [tuple(2 * side for side in maps[0].shape[-2:]), *(m.shape[-2:] for m in maps)]
        path: Any = None
        for number in (4, 3, 2, 1):
            fusion = self.scratch[f"refinenet{number}"]
            path = fusion(path, maps[number - 1], sizes[number - 1])
        size = tuple(PATCH_PX * side for side in layers[0].shape[-2:])
        first, second = self.output_layers()
        with torch.autocast(path.device.type, enabled=False):
            x = F.interpolate(first(path.float()), size, mode="bilinear", align_corners=True)
            return second(x).squeeze(1)

    def output_layers(self) -> tuple[nn.Module, nn.Module]:
        """Return the layers that are computed in float32 under any autocast."""
        return self.scratch["output_conv1"], self.scratch["output_conv2"]


class _Fusion(nn.Module):
    """RefineNet fusion of the coarser path with the map of a layer, resized."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(features, features, 1)
        # The coarsest fusion has no path to add to and skips the first unit, whose weights are in
        # the official files nevertheless.
        self.resConfUnit1 = _ResidualUnit(features)
        self.resConfUnit2 = _ResidualUnit(features)

    def forward(self, path: Tensor | None, layer: Tensor, size: tuple[int, int]) -> Tensor:
        x = layer if path is None else path + self.resConfUnit1(layer)
        x = self.out_conv(self.resConfUnit2(x))
        return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


class _ResidualUnit(nn.Module):
    """Residual unit of two 3x3 convolutions, each after a ReLU."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x)), inplace=True))


# Layers whose tokens, after the ViT's final norm, are passed to the head (version 1: the last
# four); channels of the head, by layer; channels of the fusion.
_SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...], int]] = {
    "small": ((2, 5, 8, 11), (48, 96, 192, 384), 64),
    "base": ((2, 5, 8, 11), (96, 192, 384, 768), 128),
    "large": ((4, 11, 17, 23), (256, 512, 1024, 1024), 256),
}


class DepthAnythingNetwork(nn.Module):
    """DINOv2 with a DPT head; parameters have the names of the official files."""

    def __init__(self, model_type: str) -> None:
        super().__init__()
        version, size = model_type.split("_")
        self.layers, widths, features = _SIZES[size]
        name = f"vit_{size}_patch14_dinov2"
        vit: Any = timm.create_model(name, pretrained=False, num_classes=0, dynamic_img_size=True)
        if version == "v1":
            depth = len(vit.blocks)
            self.layers = tuple(range(depth - 4, depth))
        self.pretrained = vit
        self.depth_head = DptHead(vit.embed_dim, widths, features)

    def forward(self, pictures: Tensor) -> Tensor:
        """Predict the relative inverse depth of pictures of one size.

        Args:
            pictures: ``(B, 3, H, W)``, normalised by ImageNet's mean and standard deviation; H and
                W are multiples of 14.

        Returns:
            ``(B, H, W)`` float32, 0 or more, larger is nearer.
        """
        vit = self.pretrained
        patches = vit.patch_embed(pictures)  # (B, h, w, D)
        grid = tuple(patches.shape[1:3])
        first = vit.cls_token.expand(len(patches), -1, -1)
        x = torch.cat([first, patches.flatten(1, 2)], 1) + resize_positions(vit.pos_embed, grid)
        found = []
        for number, block in enumerate(vit.blocks):
            x = block(x)
            if number in self.layers:
                found.append(vit.norm(x)[:, 1:].mT.unflatten(2, grid))
        return self.depth_head(found)


def resize_positions(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resize the position embedding to another grid of patches, as DINOv2's authors do.

    Bicubic without antialiasing, by a factor that is larger by 0.1 patches: of n patches, patch i
    is sampled at ``(i + 0.5) * 37 / (n + 0.1) - 0.5`` of the 37 learned ones. Neither timm (which
    also antialiases) nor ``transformers`` 5.23 has the 0.1; the official code has.

    Args:
        positions: ``(1, 1 + 37 * 37, D)``, class token first.
        grid: rows and columns of patches.

    Returns:
        ``(1, 1 + rows * columns, D)``.
    """
    side = math.isqrt(positions.shape[1] - 1)
    if grid == (side, side):
        return positions
    patches = positions[:, 1:].mT.unflatten(2, (side, side))
    factors = tuple((count + 0.1) / side for count in grid)
    patches = F.interpolate(patches, scale_factor=factors, mode="bicubic", align_corners=False)
    return torch.cat([positions[:, :1], patches.flatten(2).mT], 1)


def load_depth_anything(
    config: DepthAnythingConfig, device: torch.device, dtype: torch.dtype = torch.float32
) -> tuple[DepthAnythingNetwork, str]:
    """Build Depth Anything with the weights of a local file; nothing is downloaded.

    Args:
        config: names the model and its file.
        device: device of the network.
        dtype: dtype of the computation. The weights of linear layers and convolutions are stored in
            a half dtype, too, which spares autocast a cast for every batch.

    Returns:
        The network in eval mode, and the SHA-256 of the file or ``random``.

    Raises:
        MissingDataError: there is no such file.
        DataError: the file is damaged or of another model.
    """
    model_type, checkpoint = config.model_type, config.checkpoint
    if checkpoint == RANDOM:
        network, digest = _random(model_type), RANDOM
    else:
        official = official_depth_anything(model_type)
        if checkpoint is not None and "metric" in Path(checkpoint).name:  # of the same layout
            raise DataError(
                f"{checkpoint} is named like weights of metric depth, which need another last "
                f"layer; give {official.file}, or rename it if it holds relative depth"
            )
        with torch.device("meta"):  # nothing is initialised at random first
            network = DepthAnythingNetwork(model_type)
        digest = load_official_weights(network, checkpoint, official, unused=_UNUSED)
    network = network.float()
    if dtype != torch.float32:
        kept = {m for layer in network.depth_head.output_layers() for m in layer.modules()}
        for module in set(network.modules()) - kept:
            if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
                module.to(dtype)
    return network.to(device).eval().requires_grad_(False), digest


def _random(model_type: str) -> DepthAnythingNetwork:
    """Build a network with fixed random weights whose maps are not constant."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(0)  # of the CPU only
        network = DepthAnythingNetwork(model_type)
    for name, parameter in network.named_parameters():
        if name.endswith("gamma"):
            nn.init.ones_(parameter)  # timm's layer scale of 1e-5 would suppress the picture
    # Keep the input of the last ReLU from being negative everywhere.
    network.depth_head.get_parameter("scratch.output_conv2.2.weight").data.abs_()
    return network


class DepthAnything(StructureGenerator):
    """Relative inverse depth of images, as computed by ``infer_image`` of the official code.

    Differs from the official code: the image is resized in float32, not in float64. PyTorch's
    bicubic interpolation is that of OpenCV (a = -0.75, no antialiasing, edges repeated). Version
    1's script resizes the map to the image with ``align_corners=False``; here it is True for both.

    Args:
        config: the settings; ``images_per_batch`` is one on the CPU, where more are no faster, and
            halved for good when the device runs out of memory.
        network: in eval mode, on the device of the computation.
        weights_sha256: SHA-256 of the weights file; ``random`` or None without a file.
        dtype: dtype of the network (autocast); its output is always float32.
    """

    kind = "values"

    def __init__(
        self,
        config: DepthAnythingConfig,
        network: DepthAnythingNetwork,
        weights_sha256: str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.weights_sha256 = weights_sha256
        self.device = next(network.parameters()).device
        self.images_per_batch = config.images_per_batch if self.device.type == "cuda" else 1
        self._input_size_px = config.input_size_px
        self._dtype = dtype
        self._network = network
        self._normalize = Normalize(_MEAN, _STD).to(self.device)

    @torch.no_grad()
    def generate_batch(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Compute the depth of images of any sizes, each as ``generate`` does, up to rounding.

        Returns:
            ``(H, W)`` float32 maps, 0 or more, larger is nearer, each on a scale of its own.
        """
        too_large = (
            "Depth Anything does not fit the memory of the device even with one image at a time; "
            f"lower structure.depth_anything.input_size_px={self._input_size_px}, take a smaller "
            "structure.depth_anything.model_type, or run.device=cpu"
        )
        groups: dict[tuple[int, int], list[int]] = {}  # images by the size of their network input
        for index, image in enumerate(images):
            size = network_size(image.shape[0], image.shape[1], self._input_size_px)
            groups.setdefault(size, []).append(index)
        maps: dict[int, np.ndarray] = {}
        for size, left in groups.items():
            while left:
                compute = partial(self._compute_first, [images[index] for index in left], size)
                self.images_per_batch, depths = halving(self.images_per_batch, compute, too_large)
                maps.update(zip(left, depths, strict=False))
                left = left[len(depths) :]
        return [maps[index] for index in range(len(images))]

    def _compute_first(
        self, images: Sequence[np.ndarray], size: tuple[int, int], count: int
    ) -> list[np.ndarray]:
        """Return the maps of the first images, of one input size."""
        pictures = torch.cat([self._preprocess(image, size) for image in images[:count]])
        with torch.autocast(self.device.type, self._dtype, self._dtype != torch.float32):
            depths = self._network(pictures)
        maps = []
        for depth, image in zip(depths, images, strict=False):
            resized = F.interpolate(
                depth[None, None], image.shape[:2], mode="bilinear", align_corners=True
            )
            maps.append(resized[0, 0].cpu().numpy())
        return maps

    def _preprocess(self, image: np.ndarray, size: tuple[int, int]) -> Tensor:
        """Resize and normalise ``(H, W, 3)`` uint8 to ``(1, 3, *size)``."""
        pixels = torch.tensor(np.ascontiguousarray(image), device=self.device)
        picture = pixels.permute(2, 0, 1)[None] / 255
        picture = F.interpolate(picture, size, mode="bicubic", align_corners=False)
        return self._normalize(picture)


def network_size(height: int, width: int, input_size_px: int) -> tuple[int, int]:
    """Return height and width of the network's input for an image.

    The shorter side becomes ``input_size_px``, the other keeps the aspect ratio; both are rounded
    to the nearest multiple of 14, or to the next larger one if that is below ``input_size_px``.
    """
    scale = max(input_size_px / height, input_size_px / width)

    def fit(side: int) -> int:
        nearest = PATCH_PX * round(scale * side / PATCH_PX)
        return nearest if nearest >= input_size_px else nearest + PATCH_PX

    return fit(height), fit(width)
