"""Frozen vision transformer (figure, left): long-range context from a foundation model.

Weights come from a local file, in timm's or in the official layout (timm converts the latter), or
are ``random`` for tests. Only this file and the depth generator use timm.
"""

import hashlib
import io
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models import load_state_dict
from torch import Tensor, nn

from models.layers import Normalize
from models.weights import RANDOM, OfficialFile, check_layout, find_weights, official_vit
from utils.errors import ConfigError, DataError

_UNUSED = ("head.", "fc_norm.", "mask_token")  # in published files; patch tokens do not need them
MEMORY_BYTES = 4 << 30  # of tokens that a ViT remembers
_RANDOM_SEED = 0  # random weights are equal whenever a network is built


class FrozenViT(nn.Module):
    """Frozen timm ViT: always in eval mode, without gradients, not in checkpoints.

    Differs from the released code, which freezes inside ``forward``, after the optimiser and DDP
    have taken the parameters, and saves them with every checkpoint (fault 21); it accepts only
    square inputs of 512 px (fault 12).

    Args:
        vit: a timm vision transformer that accepts any image size.
        identity: name and hash of the weights, kept in checkpoints in their place.
        layers: which are read, see ``layer_indices``.
        input_scale: side of the ViT's input over side of the picture.
        dtype: of the computation. A half dtype also stores the weights of linear layers and
            convolutions, which autocast would otherwise cast at every step: the same numbers in
            half the memory. Float32 leaves the dtype to the surrounding autocast.
    """

    def __init__(
        self,
        vit: Any,
        identity: dict[str, str],
        layers: str | Sequence[int],
        input_scale: float,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.identity = identity
        self.layers = layer_indices(layers, len(vit.blocks), identity["name"])
        self.input_scale = input_scale
        self.channels: int = vit.embed_dim
        self.patch_px: int = vit.patch_embed.patch_size[0]
        self.dtype = dtype
        self._kept: dict[bytes, list[Tensor]] = {}
        self._memory: dict[bytes, list[Tensor]] | None = None  # ``_kept`` inside ``remembering``
        self.normalize = Normalize(*(vit.pretrained_cfg[key] for key in ("mean", "std")))
        self.vit = vit.requires_grad_(False)
        if dtype != torch.float32:
            for module in vit.modules():
                if isinstance(module, (nn.Linear, nn.Conv2d)):
                    module.to(dtype)
        self.eval()

    def train(self, mode: bool = True) -> "FrozenViT":
        """Stay in eval mode, whatever the mode of the surrounding network."""
        return super().train(False)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return nothing: the weights are on disk already, named by ``identity``."""
        return kwargs.get("destination", {})

    def forward(self, picture: Tensor) -> list[Tensor]:
        """Return the patch tokens of every layer on their own grid, each through the final norm.

        The picture is resized (bicubic) by ``input_scale``, and up to the next multiple of the
        patch size on each axis.

        Args:
            picture: ``(B, 3, H, W)`` in [0, 1].

        Returns:
            For each layer ``(B, D, ⌈sH/patch⌉, ⌈sW/patch⌉)`` with the input scale s, no gradient.
        """
        if self._memory is None:
            tokens = self._compute(picture)
        elif (key := picture_hash(picture)) in self._memory:
            tokens = self._memory[key]
        else:
            tokens = self._compute(picture)
            held = sum(layer.nbytes for layers in self._memory.values() for layer in layers)
            if held + sum(layer.nbytes for layer in tokens) <= MEMORY_BYTES:
                self._memory[key] = tokens
        return [layer.to(picture.dtype) for layer in tokens]

    def _compute(self, picture: Tensor) -> list[Tensor]:
        scale, patch = self.input_scale, self.patch_px
        grid = [math.ceil(scale * side / patch) for side in picture.shape[-2:]]
        return self.tokens(self.prepare(picture, grid))

    @torch.no_grad()
    def prepare(self, picture: Tensor, grid: Sequence[int]) -> Tensor:
        """Normalise a picture and resize it (bicubic) to these rows and columns of patches."""
        sides = [self.patch_px * count for count in grid]
        return F.interpolate(self.normalize(picture), sides, mode="bicubic", align_corners=False)

    @torch.no_grad()
    def tokens(self, prepared: Tensor) -> list[Tensor]:
        """Return the tokens of every layer of pictures from ``prepare``, see ``forward``."""
        is_full, device_type = self.dtype == torch.float32, prepared.device.type
        with nullcontext() if is_full else torch.autocast(device_type, dtype=self.dtype):
            return self.vit.forward_intermediates(
                prepared, indices=self.layers, norm=True, output_fmt="NCHW", intermediates_only=True
            )

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """Keep the tokens of every picture seen inside the block for the next such block.

        For the validations of a run, which predict the same windows each time. On the CPU only:
        on a GPU, computing tokens takes less time than moving them. Beyond 4 GiB, no further
        pictures are kept.
        """
        memory, self._memory = self._memory, self._kept if self._is_on_cpu() else None
        try:
            yield
        finally:
            self._memory = memory

    def _is_on_cpu(self) -> bool:
        return next(self.vit.parameters()).device.type == "cpu"


@contextmanager
def remembered_tokens(network: nn.Module) -> Iterator[None]:
    """Let all frozen ViTs of a network remember tokens inside the block."""
    with ExitStack() as stack:
        for module in network.modules():
            if isinstance(module, FrozenViT):
                stack.enter_context(module.remembering())
        yield


def picture_hash(picture: Tensor) -> bytes:
    """Return a hash of the shape and the values of a picture on the CPU."""
    digest = hashlib.blake2b(str(tuple(picture.shape)).encode())
    digest.update(picture.contiguous().numpy().data)
    return digest.digest()


def layer_indices(layers: str | Sequence[int], depth: int, name: str) -> list[int]:
    """Return the layers that are read, from 0.

    Args:
        layers: ``last``, ``four_last`` or ``four_even`` (every quarter of the depth, as in
            facebookresearch/dinov3), or numbers from 1.
        depth: of the ViT.
        name: of the ViT, for the error.

    Raises:
        ConfigError: the ViT has fewer layers.
    """
    if isinstance(layers, str):
        spaced = {
            "last": [depth],
            "four_last": [depth - 3, depth - 2, depth - 1, depth],
            "four_even": [depth * quarter // 4 for quarter in (1, 2, 3, 4)],
        }[layers]
    else:
        spaced = list(layers)
    if not 1 <= min(spaced) <= max(spaced) <= depth or len(set(spaced)) < len(spaced):
        raise ConfigError(f"{name} has {depth} layers; layers={layers} asks for others")
    return [number - 1 for number in spaced]


def load_frozen_vit(
    name: str,
    weights: str | None,
    *,
    layers: str | Sequence[int] = "four_even",
    input_scale: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> FrozenViT:
    """Build a timm ViT with weights from a local file, on the current default device.

    Args:
        name: timm model name, e.g. ``vit_small_patch14_reg4_dinov2``.
        weights: path of a weights file; None: the official file in ``weights/``; ``random``:
            fixed random weights.
        layers: see ``FrozenViT``.
        input_scale: see ``FrozenViT``.
        dtype: see ``FrozenViT``.

    Raises:
        ConfigError: timm does not know the name, or the model has fewer layers.
        MissingDataError: there is no such file.
        DataError: the file does not fit the model, or is not the official one of its name.
    """
    official, is_random = published_weights(name), weights == RANDOM
    with torch.random.fork_rng(devices=[], enabled=is_random):
        if is_random:
            torch.manual_seed(_RANDOM_SEED)
        vit = timm.create_model(name, num_classes=0, dynamic_img_size=True)
    if is_random:
        digest = _parameter_hash(vit)
    else:
        path, digest = find_weights(weights, official)
        _load_weights(vit, name, path)
    return FrozenViT(vit, {"name": name, "sha256": digest}, layers, input_scale, dtype)


def published_weights(name: str) -> OfficialFile:
    """Return the weights file published by the authors of a ViT.

    Raises:
        ConfigError: timm does not know the name.
    """
    with suppress(RuntimeError):  # an unknown tag
        if timm.is_model(name):
            return official_vit(name, timm.models.get_pretrained_cfg(name))
    near = ", ".join(timm.list_models(f"{name.split('_patch')[0]}*")[:5])
    hint = f"; similar names: {near}" if near else "; see timm.list_models('vit_*')"
    raise ConfigError(f"timm has no model '{name}'{hint}")


def _load_weights(vit: Any, name: str, path: Path) -> None:
    """Load a file into a timm ViT, in timm's layout or one that timm's own filter translates.

    timm's own loading is not used: for a network without a classifier it only logs parameters that
    the file lacks, and leaves them random.

    The tests pin the official layouts of DINOv2 and DINOv3 with random weights. Of real weights,
    DINOv2 ViT-S/14 was run, from a copy in the official layout (docs/model.md). Off the 37x37
    grid of its training, DINOv2 without registers gets positions resampled as timm does it
    (antialiased), which its authors did only with registers.
    """
    refusal = f"{path} does not hold the weights of {name}"
    translate = getattr(sys.modules[type(vit).__module__], "checkpoint_filter_fn", None)
    try:
        published = load_state_dict(str(path))
        weights = dict(published)  # timm removes entries
        if translate is not None:
            with redirect_stdout(io.StringIO()):  # timm prints the names it skips
                weights = translate(weights, vit)
        weights = {key: value for key, value in weights.items() if not key.startswith(_UNUSED)}
    except Exception as error:  # timm and torch raise many types for a file that does not fit
        reason = " ".join(str(error).split())[:300]
        raise DataError(f"{refusal}: {reason}") from error
    remedy = "give a file in timm's layout or the official one"
    check_layout(vit.state_dict(), weights, refusal=refusal, remedy=remedy)
    vit.load_state_dict(weights)
    if "storage_tokens" in published:
        _finish_dinov3(vit, name, path, published)


def _finish_dinov3(vit: Any, name: str, path: Path, published: dict[str, Tensor]) -> None:
    """Load what timm skips in an official DINOv3 file; refuse biases that it would ignore.

    The official forward uses periods of the rotary positions rounded to bfloat16, as published;
    timm computes them anew. It multiplies the biases by a mask that is 0 for the keys. Biases of
    queries and values are used only by the timm models named ``..._qkvb``, those of keys by none.
    """
    for key, bias in published.items():
        if not key.endswith(".attn.qkv.bias"):
            continue
        used = bias * published.get(f"{key}_mask", torch.ones_like(bias))
        query, keys, value = (bool(part.any()) for part in used.chunk(3))
        if keys:
            raise DataError(f"{path} has key biases ({key}), which no timm model supports")
        if (query or value) and key.replace("qkv.bias", "q_bias") not in vit.state_dict():
            architecture, dot, tag = name.partition(".")
            raise DataError(
                f"{path} has biases ({key}) that {name} would ignore; use the model "
                f"{architecture}_qkvb{dot}{tag}"
            )
    if (periods := published.get("rope_embed.periods")) is not None:
        vit.rope.periods.copy_(periods)


def _parameter_hash(module: nn.Module) -> str:
    """Return the SHA-256 of random weights, or ``meta`` for weights on the meta device."""
    if any(tensor.is_meta for tensor in module.state_dict().values()):
        return "meta"
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
