"""DPT: tokens of four layers of a vision transformer -> one dense map.

Source: Ranftl, Bochkovskiy, Koltun, "Vision Transformers for Dense Prediction", ICCV 2021, section
3.1 and figure 1, in the form of Depth Anything (Yang et al., CVPR 2024 and NeurIPS 2024): the class
token is left out, there is no batch norm, and the last layer is a ReLU. Modules are named as in the
official checkpoints.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_OUTPUT_WIDTH = 32


class DptHead(nn.Module):
    """Reassemble, fuse from coarse to fine, and predict.

    Differs from the official code where it makes no difference but rounding: the 1x1 convolution of
    a fusion comes before the bilinear upsampling, with which it commutes, and so sees a quarter of
    the pixels. Under autocast the last three convolutions stay in float32: in bfloat16 the map
    would have no more than 128 levels between a value and its double.

    Args:
        embed_dim: D, width of the tokens.
        widths: channels of the four layers, from the first (finest) to the last.
        features: channels of the fusion.
        patch_px: side of a token's patch.
    """

    def __init__(
        self, embed_dim: int, widths: tuple[int, int, int, int], features: int, patch_px: int
    ) -> None:
        super().__init__()
        self.patch_px = patch_px
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
        """Predict one value a pixel.

        Args:
            layers: four of ``(B, D, h, w)``, from the first layer to the last.

        Returns:
            ``(B, h * patch_px, w * patch_px)`` float32, 0 or more.
        """
        maps = []  # of 4, 2, 1 and 1/2 times the tokens' grid
        for number, layer in enumerate(layers, 1):
            x = self.resize_layers[number - 1](self.projects[number - 1](layer))
            maps.append(self.scratch[f"layer{number}_rn"](x))
        sizes = [tuple(2 * side for side in maps[0].shape[-2:]), *(m.shape[-2:] for m in maps)]
        path: Any = None
        for number in (4, 3, 2, 1):
            fusion = self.scratch[f"refinenet{number}"]
            path = fusion(path, maps[number - 1], sizes[number - 1])
        height, width = (self.patch_px * side for side in layers[0].shape[-2:])
        return self._predict(path, (height, width))

    def output_layers(self) -> tuple[nn.Module, nn.Module]:
        """Those that are computed in float32 whatever the surrounding autocast says."""
        return self.scratch["output_conv1"], self.scratch["output_conv2"]

    def _predict(self, path: Tensor, size: tuple[int, int]) -> Tensor:
        first, second = self.output_layers()
        with torch.autocast(path.device.type, enabled=False):
            x = first(path.float())
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=True)
            return second(x).squeeze(1)


class _Fusion(nn.Module):
    """RefineNet's fusion of the coarser path with the map of a layer, brought to a new size."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(features, features, 1)
        # The coarsest fusion has no path to add to and leaves the first unit out; the official
        # files hold its weights all the same.
        self.resConfUnit1 = _ResidualUnit(features)
        self.resConfUnit2 = _ResidualUnit(features)

    def forward(self, path: Tensor | None, layer: Tensor, size: tuple[int, int]) -> Tensor:
        x = layer if path is None else path + self.resConfUnit1(layer)
        x = self.out_conv(self.resConfUnit2(x))
        return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


class _ResidualUnit(nn.Module):
    """Two 3x3 convolutions, each after a ReLU, around which the input is added."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x)), inplace=True))
