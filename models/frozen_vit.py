"""Frozen vision transformer (figure, left): long-range context from a foundation model.

Only this file and the depth generator know timm. Weights come from a local file, in timm's or in
the official layout (timm converts the latter), or are ``random`` for tests.
"""

import contextlib
import hashlib
import io
import sys
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import load_state_dict
from torch import Tensor, nn

from models.layers import BicubicResize, Normalize
from models.weights import OfficialFile, find_weights, official_file
from utils.errors import ConfigError, DataError

# In published files, and not needed for patch tokens.
_UNUSED = ("head.", "fc_norm.", "mask_token")

_RANDOM_SEED = 0  # random weights are the same ones whenever a network is built


class FrozenViT(nn.Module):
    """A timm ViT that cannot be thawed: eval mode, no gradient, not in checkpoints.

    Differs from the released code, which freezes inside ``forward``, after the optimiser and DDP
    have taken the parameters, and saves them with every checkpoint (fault 21). There, only square
    inputs of 512 px pass (fault 12).

    Args:
        vit: a timm vision transformer that takes any picture size.
        identity: name and hash of the weights, kept in checkpoints in their place.
        num_layers: 1: the last layer's tokens; n: those of n evenly spaced layers, the last one
            included, each through the final norm, joined on channels.
        dtype: what it is computed in. A half dtype also stores the weights of linear layers and
            convolutions, which autocast would only cast again at every step: the same numbers in
            half the memory. Float32 leaves it to the surrounding autocast.
    """

    def __init__(
        self,
        vit: Any,
        identity: dict[str, str],
        num_layers: int = 1,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        depth = len(vit.blocks)
        if num_layers > depth:
            raise ConfigError(
                f"{identity['name']} has {depth} layers; num_layers={num_layers} asks for more"
            )
        self.identity = identity
        self.layers = [depth * (i + 1) // num_layers - 1 for i in range(num_layers)]
        self.channels: int = num_layers * vit.embed_dim
        self.patch_px: int = vit.patch_embed.patch_size[0]
        self.dtype = dtype
        self.normalize = Normalize(
            tuple(vit.pretrained_cfg["mean"]), tuple(vit.pretrained_cfg["std"])
        )
        self.resize = BicubicResize()
        self.vit = vit.requires_grad_(False)
        if dtype != torch.float32:
            for module in vit.modules():
                if isinstance(module, (nn.Linear, nn.Conv2d)):
                    module.to(dtype)
        self.eval()

    def train(self, mode: bool = True) -> "FrozenViT":
        """Stay in eval mode, whatever the network around is told."""
        return super().train(False)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Nothing: the weights are on the disk already, under ``identity``."""
        return kwargs.get("destination", {})

    def forward(self, picture: Tensor) -> Tensor:
        """Normalised patch tokens on their own grid.

        The picture is resized up to the next multiple of the patch size in each direction.

        Args:
            picture: ``(B, 3, H, W)`` in [0, 1].

        Returns:
            ``(B, num_layers * D, ⌈H/patch⌉, ⌈W/patch⌉)``, no gradient.
        """
        with torch.no_grad():
            if self.dtype == torch.float32:
                return self._tokens(picture)
            with torch.autocast(picture.device.type, dtype=self.dtype):
                return self._tokens(picture)

    def _tokens(self, picture: Tensor) -> Tensor:
        patch = self.patch_px
        height, width = ((side + patch - 1) // patch * patch for side in picture.shape[-2:])
        x = self.resize(self.normalize(picture), (height, width))
        tokens = self.vit.forward_intermediates(
            x, indices=self.layers, norm=True, output_fmt="NCHW", intermediates_only=True
        )
        return torch.cat(tokens, 1)


def load_frozen_vit(
    name: str,
    weights: str | None,
    *,
    num_layers: int = 1,
    dtype: torch.dtype = torch.float32,
) -> FrozenViT:
    """Build a timm ViT with weights from a local file, on the current default device.

    Args:
        name: timm model name, e.g. ``vit_small_patch14_reg4_dinov2``.
        weights: path of a weights file; None: the official file in ``weights/``; ``random`` for
            fixed random weights.
        num_layers: see ``FrozenViT``.
        dtype: see ``FrozenViT``.

    Raises:
        ConfigError: timm does not know the name, or it has fewer layers.
        MissingDataError: there is no such file.
        DataError: the file does not fit the model, or is not the official one of its name.
    """
    if weights == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_RANDOM_SEED)
            vit = _create(name)
        identity = {"name": name, "sha256": _parameter_hash(vit)}
        return FrozenViT(vit, identity, num_layers, dtype)
    vit = _create(name)
    path, digest = find_weights(name, weights, published_weights(name))
    _load_weights(vit, name, path)
    return FrozenViT(vit, {"name": name, "sha256": digest}, num_layers, dtype)


def published_weights(name: str) -> OfficialFile:
    """The weights file that the authors of a ViT publish.

    Raises:
        ConfigError: timm does not know the name.
    """
    _check_name(name)
    known = timm.models.get_pretrained_cfg(name)
    fields = ("url", "license", "hf_hub_id")
    return official_file(name, {field: getattr(known, field, None) for field in fields})


def _check_name(name: str) -> None:
    if timm.is_model(name):
        return
    near = ", ".join(timm.list_models(f"*{name.split('_patch')[0]}*")[:5])
    hint = f"; near it: {near}" if near else "; see timm.list_models('vit_*')"
    raise ConfigError(f"timm has no model '{name}'{hint}")


def _create(name: str) -> Any:
    _check_name(name)
    return timm.create_model(name, num_classes=0, dynamic_img_size=True)


def _load_weights(vit: Any, name: str, path: Path) -> None:
    """Fill a timm ViT from a file, in timm's layout or one that timm's own filter translates.

    The loading of timm itself is not used: for a network without a classifier it only logs
    parameters that the file does not have, and leaves them random.

    The tests pin the official layouts of DINOv2 and DINOv3 with random weights; no real file was
    ever loaded. Off the 37x37 grid of its training, DINOv2 without registers gets positions
    resampled as timm does it (antialiased), which its authors did only with registers.
    """
    translate = getattr(sys.modules[type(vit).__module__], "checkpoint_filter_fn", None)
    try:
        published = load_state_dict(str(path))
        weights = dict(published)  # timm takes entries out
        if translate is not None:
            with contextlib.redirect_stdout(io.StringIO()):  # timm prints what it passes over
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
    if "storage_tokens" in published:
        _finish_dinov3(vit, name, path, published)


def _finish_dinov3(vit: Any, name: str, path: Path, published: dict[str, Tensor]) -> None:
    """What timm passes over in an official DINOv3 file, or an error where that would matter.

    The periods of the rotary positions are published rounded to bfloat16, and the official forward
    takes them as they are, where timm computes them anew. Biases of queries and values are taken
    by the timm models called ``..._qkvb`` only, biases of keys by none; the official forward
    multiplies the biases by a mask, which is 0 for the keys.
    """
    for key, bias in published.items():
        if not key.endswith(".attn.qkv.bias"):
            continue
        used = bias * published.get(f"{key}_mask", torch.ones_like(bias))
        query, keys, value = (bool(part.any()) for part in used.chunk(3))
        if keys:
            raise DataError(f"{path} has key biases ({key}), which no timm model can take")
        if (query or value) and key.replace("qkv.bias", "q_bias") not in vit.state_dict():
            architecture, dot, tag = name.partition(".")
            raise DataError(
                f"{path} has biases ({key}) that {name} would leave out; take the model "
                f"{architecture}_qkvb{dot}{tag}"
            )
    if (periods := published.get("rope_embed.periods")) is not None:
        vit.rope.periods.copy_(periods)


def _parameter_hash(module: nn.Module) -> str:
    """SHA-256 of random weights; ``meta`` for those that are shapes only."""
    if any(tensor.is_meta for tensor in module.state_dict().values()):
        return "meta"
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
