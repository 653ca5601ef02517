"""Frozen vision transformer (figure, left): long-range context from a foundation model.

Only this file and the depth generator know timm. Nothing is downloaded: weights come from a local
file, in timm's or in the official layout (timm converts the latter), or are ``random`` for tests.
"""

import hashlib
import sys
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models import load_state_dict
from torch import Tensor, nn

from models.layers import Normalize
from utils.errors import ConfigError, DataError, MissingDataError
from utils.files import sha256_of

# In published files, and not needed for patch tokens.
_UNUSED = ("head.", "fc_norm.", "mask_token")

_RANDOM_SEED = 0  # random weights are the same ones whenever a network is built


class FrozenViT(nn.Module):
    """A timm ViT that cannot be thawed: eval mode, no gradient, not in checkpoints.

    Differs from the released code, which freezes inside ``forward``, after the optimiser and DDP
    have taken the parameters, and saves them with every checkpoint (fault 21). There, only square
    inputs of 512 px pass (fault 12).

    Args:
        vit: a timm vision transformer built with ``dynamic_img_size=True``.
        identity: name and hash of the weights, kept in checkpoints in their place.
    """

    def __init__(self, vit: Any, identity: dict[str, str]) -> None:
        super().__init__()
        self.identity = identity
        self.channels: int = vit.embed_dim
        self.patch_px: int = vit.patch_embed.patch_size[0]
        self.normalize = Normalize(
            tuple(vit.pretrained_cfg["mean"]), tuple(vit.pretrained_cfg["std"])
        )
        self.vit = vit.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "FrozenViT":
        """Stay in eval mode, whatever the network around is told."""
        return super().train(False)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Nothing: the weights are on the disk already, under ``identity``."""
        return kwargs.get("destination", {})

    def forward(self, picture: Tensor) -> Tensor:
        """Last-layer normalised patch tokens on their own grid.

        The picture is resized up to the next multiple of the patch size in each direction.

        Args:
            picture: ``(B, 3, H, W)`` in [0, 1].

        Returns:
            ``(B, D, ⌈H/patch⌉, ⌈W/patch⌉)``, no gradient.
        """
        height, width = (-(-side // self.patch_px) * self.patch_px for side in picture.shape[-2:])
        with torch.no_grad():
            x = self.normalize(picture)
            if x.shape[-2:] != (height, width):
                x = F.interpolate(x, size=(height, width), mode="bicubic", align_corners=False)
            (tokens,) = self.vit.forward_intermediates(
                x, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True
            )
        return tokens


def load_frozen_vit(name: str, weights: str) -> FrozenViT:
    """Build a timm ViT with weights from a local file.

    Args:
        name: timm model name, e.g. ``vit_small_patch14_reg4_dinov2``.
        weights: path of a weights file, or ``random`` for fixed random weights.

    Raises:
        ConfigError: timm does not know the name.
        MissingDataError: there is no such file.
        DataError: the file does not fit the model.
    """
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name.split('_patch')[0]}*")[:5])
        hint = f"; near it: {near}" if near else "; see timm.list_models('vit_*')"
        raise ConfigError(f"timm has no model '{name}'{hint}")
    if weights == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_RANDOM_SEED)
            vit = timm.create_model(name, num_classes=0, dynamic_img_size=True)
        return FrozenViT(vit, {"name": name, "sha256": _parameter_hash(vit)})
    path = Path(weights)
    if not path.is_file():
        raise MissingDataError(
            f"the weights of {name} are not at {path}; download them from the model's own page "
            "(DINOv2 is Apache-2.0) and set model.rgb_vit.weights and model.structure_vit.weights"
        )
    vit = timm.create_model(name, num_classes=0, dynamic_img_size=True)
    _load_weights(vit, name, path)
    return FrozenViT(vit, {"name": name, "sha256": sha256_of(path)})


def _load_weights(vit: Any, name: str, path: Path) -> None:
    """Fill a timm ViT from a file, in timm's layout or one that timm's own filter translates.

    The loading of timm itself is not used: for a network without a classifier it only logs
    parameters that the file does not have, and leaves them random.
    """
    translate = getattr(sys.modules[type(vit).__module__], "checkpoint_filter_fn", None)
    try:
        weights = load_state_dict(str(path))
        if translate is not None:
            weights = translate(weights, vit)
        missing, unexpected = vit.load_state_dict(weights, strict=False)
    except Exception as error:  # timm and torch raise many kinds for a file that does not fit
        reason = " ".join(str(error).split())[:300]
        raise DataError(f"{path} does not hold the weights of {name}: {reason}") from error
    unexpected = [key for key in unexpected if not key.startswith(_UNUSED)]
    if missing or unexpected:
        raise DataError(
            f"{path} does not hold the weights of {name}: {len(missing)} of its parameters are "
            f"not in the file and {len(unexpected)} in the file are not its own (first: "
            f"{[*missing, *unexpected][0]})"
        )


def _parameter_hash(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
