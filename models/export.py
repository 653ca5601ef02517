"""A trained network as one file that is deployed without this program: torch.export or ONNX.

The file holds the network alone, at free height and width from 33 px (no multiple is needed) and
any number of images:

    logits (N, C, H, W) = f(image (N, 3, H, W) RGB in [0, 1], structure (N, S, H, W) in [0, 1])

all of float32. The structure maps and their encoding (``datasets.encodings``) stay outside: maps
come from generators that no file can hold, and what they are encoded with is in the metadata.

A ``.pt2`` is read with ``torch.export.load(path).module()``, its metadata with
``torch.export.load(path, extra_files=found)``, where ``found`` is ``{"metadata.json": ""}``; an
``.onnx`` with onnxruntime, whose ``session.get_modelmeta().custom_metadata_map["metadata.json"]``
is the same text.
"""

import importlib.util
import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.frozen_vit import FrozenViT
from models.layers import BicubicResize
from utils.errors import ConfigError, DataError
from utils.files import atomic_path

# Keys' cubic filter has a parameter: PyTorch's, and that of its antialiased kind (as of Pillow).
_SHARP, _ANTIALIASED = -0.75, -0.5


@contextmanager
def exportable(network: nn.Module) -> Iterator[None]:
    """Within the block, those operations of a network are replaced; its weights stay."""
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in _replacements(network)]
    try:
        for owner, name, ours in _replacements(network):
            setattr(owner, name, ours)
        yield
    finally:
        for owner, name, original in before:
            setattr(owner, name, original)


def _replacements(network: nn.Module) -> Iterator[tuple[Any, str, Any]]:
    """Whose attribute, its name, and what it becomes."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.AdaptiveAvgPool2d):
                yield parent, name, PoolByProducts(child.output_size)
            elif isinstance(child, BicubicResize):
                yield parent, name, ResizeByProducts()
    for vit in [module.vit for module in network.modules() if isinstance(module, FrozenViT)]:
        yield sys.modules[type(vit).__module__], "resample_abs_pos_embed", resample_positions
        for module in vit.modules():
            if type(module).__name__ == "RotaryEmbeddingDinoV3":  # not in older versions of timm
                yield type(module), "get_embed", rotary_positions


class PoolByProducts(nn.Module):
    """``nn.AdaptiveAvgPool2d`` to a square grid.

    Args:
        size: side of the grid.
    """

    def __init__(self, size: Any) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> ``(B, C, size, size)``."""
        return _by_products(pooling_matrix, x, (self.size, self.size))


class ResizeByProducts(nn.Module):
    """``BicubicResize``."""

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """``(B, C, h, w)`` -> ``(B, C, *size)``."""
        return _by_products(bicubic_matrix, x, size)


def _by_products(matrix: Callable[[int, int], Tensor], x: Tensor, size: tuple[int, int]) -> Tensor:
    """Rows and columns of ``(..., h, w)`` multiplied to ``(..., *size)``.

    ``matrix(old, new)`` is ``(new, old)``. Of all ways to multiply, F.linear is exported best.
    """
    rows, columns = (matrix(old, new) for old, new in zip(x.shape[-2:], size, strict=True))
    return F.linear(F.linear(x, columns).mT, rows).mT


def pooling_matrix(old: int, new: int) -> Tensor:
    """Means of adaptive pooling, ``(new, old)`` float32.

    Cell i is [⌊i old/new⌋, ⌈(i+1) old/new⌉).
    """
    cell = torch.arange(new).unsqueeze(1)
    first = torch.div(cell * old, new, rounding_mode="floor")
    last = torch.div((cell + 1) * old + new - 1, new, rounding_mode="floor")
    place = torch.arange(old)
    inside = (place >= first) & (place < last)
    return inside.float() / (last - first)


def resample_positions(
    posemb: Tensor, new_size: tuple[int, int], old_size: tuple[int, int], num_prefix_tokens: int
) -> Tensor:
    """What timm's ``resample_abs_pos_embed`` computes, at its defaults.

    Args:
        posemb: ``(1, P + h * w, D)`` position embeddings, those of P prefix tokens first.
        new_size: height and width of the new grid.
        old_size: h and w.
        num_prefix_tokens: P.

    Returns:
        ``(1, P + new h * new w, D)``.
    """
    prefix, grid = posemb[:, :num_prefix_tokens], posemb[:, num_prefix_tokens:]
    grid = grid.unflatten(1, old_size).permute(0, 3, 1, 2)
    resampled = _by_products(antialiased_matrix, grid, new_size)
    return torch.cat([prefix, resampled.flatten(2).transpose(1, 2)], 1)


def bicubic_matrix(old: int, new: int) -> Tensor:
    """Weights of bicubic resampling, ``(new, old)`` float32: four places, repeated at the ends.

    Sides of pixels lie on sides of pixels (``align_corners=False``). Places are rounded as PyTorch
    rounds them on CPUs, the scale and the result alone: at 300 px that is 1e-5 of a pixel, ten
    times as much as all other rounding.
    """
    scale = (torch.ones(()) * old / new).double()
    center = ((torch.arange(new) + 0.5).double() * scale - 0.5).float()
    first = center.floor()
    weights = torch.zeros(())
    for step in (-1, 0, 1, 2):
        taken = (first + step).clamp(min=0, max=old - 1).unsqueeze(1) == torch.arange(old)
        weights = weights + taken * _cubic(center - first - step, _SHARP).unsqueeze(1)
    return weights


def antialiased_matrix(old: int, new: int) -> Tensor:
    """The same with a filter that is wider where the new grid is the coarser one.

    What of the filter is beyond the ends is left out; every row has the sum 1.
    """
    scale = torch.ones(()) * old / new
    center = (torch.arange(new) + 0.5) * scale
    distance = torch.arange(old) + 0.5 - center.unsqueeze(1)
    weights = _cubic(distance / scale.clamp(min=1.0), _ANTIALIASED)
    return weights / weights.sum(1, keepdim=True)


def _cubic(x: Tensor, a: float) -> Tensor:
    """Keys' filter: 1 at 0, and 0 at all other whole numbers."""
    x = x.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def rotary_positions(rope: Any, shape: tuple[int, int]) -> Tensor:
    """What timm's ``RotaryEmbeddingDinoV3.get_embed`` computes, ``(h * w, 2 * dim)``."""
    rows, columns = ((torch.arange(side) + 0.5) / side for side in shape)
    places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).flatten(0, 1)
    return torch.cat(rope._get_pos_embed_from_coords(2.0 * places - 1.0), -1)


METADATA = "metadata.json"  # its name inside the file
ONNX_OPSET = 18
SMALLEST_PX = 33  # the coarsest of the four scales has more than one position
TOLERANCE = 1e-4  # largest difference of a logit from that of the network itself
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
MAX_ONNX_BYTES = 2**31 - 2**24  # of weights: an ONNX file holds less than 2 GiB, with its graph

_TRACED = (2, 68, 100)  # images, height, width the operations are recorded at
_CHECKED = ((1, 64, 96), (3, 101, 47), (1, 257, 290))
_MAX_BATCH = 1 << 20  # torch 2.6 compares with the largest int64 and takes no batch without a limit

_Run = Callable[[Tensor, Tensor], Tensor]


def export_network(
    network: nn.Module, structure_channels: int, path: Path, metadata: dict[str, Any]
) -> float:
    """Write a network to a file, and compare the file with it before it gets its name.

    Args:
        network: in eval mode, float32, on the CPU. Its weights stay as they are; nobody else may
            run it in the meantime.
        structure_channels: S.
        path: ends with ``.pt2`` for torch.export or ``.onnx`` for ONNX.
        metadata: plain values kept in the file (classes, palette, structure settings, identity of
            the checkpoint), so that it explains itself; ``inputs``, ``output`` and ``smallest_px``
            are added.

    Returns:
        The largest difference between a logit of the file and of the network, at three sizes.

    Raises:
        ConfigError: the file name has another ending, or packages that write ONNX are missing.
        DataError: the file would be too large, or does not compute what the network does, or this
            version of torch cannot export the network.
    """
    writers = {".pt2": export_program, ".onnx": export_onnx}
    if path.suffix not in writers:
        raise ConfigError(
            f"{path} must end with .pt2 (torch.export) or .onnx (ONNX): the ending says what is "
            "written"
        )
    return writers[path.suffix](network, structure_channels, path, metadata)


def export_program(
    network: nn.Module, structure_channels: int, path: Path, metadata: dict[str, Any]
) -> float:
    """Write a torch.export package; arguments, result and errors as in ``export_network``."""
    text = _text(structure_channels, metadata)
    with atomic_path(path) as partial, _quiet():
        with _readable(path):
            program = _record(network, structure_channels)
        with partial.open("wb") as file:
            torch.export.save(program, file, extra_files={METADATA: text})
        with partial.open("rb") as file:
            run = torch.export.load(file).module()
        return _check(run, network, structure_channels, path)


def export_onnx(
    network: nn.Module, structure_channels: int, path: Path, metadata: dict[str, Any]
) -> float:
    """Write an ONNX file of one part; arguments, result and errors as in ``export_network``."""
    num_bytes = sum(weight.nbytes for weight in network.parameters())
    if num_bytes > MAX_ONNX_BYTES:
        raise DataError(
            f"the weights take {num_bytes / 2**30:.1f} GiB, and an ONNX file holds less than 2 "
            f"GiB; export to {path.with_suffix('.pt2')}"
        )
    _check_packages()
    text = _text(structure_channels, metadata)
    with atomic_path(path) as partial, _quiet():
        with _readable(path):
            program = torch.onnx.export(
                _record(network, structure_channels),
                input_names=["image", "structure"],
                output_names=["logits"],
                opset_version=ONNX_OPSET,
                dynamo=True,
                verbose=False,
            )
        assert program is not None
        program.model.metadata_props[METADATA] = text
        program.save(partial, external_data=False)
        return _check(_onnx_run(partial), network, structure_channels, path)


def _check_packages() -> None:
    if missing := [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]:
        raise ConfigError(
            f"to write an ONNX file and to check it, {', '.join(missing)} must be installed: "
            f"pip install {' '.join(missing)}"
        )


def _text(structure_channels: int, metadata: dict[str, Any]) -> str:
    """All metadata as JSON."""
    inputs = {
        "image": "(N, 3, H, W) float32, RGB in [0, 1]",
        "structure": f"(N, {structure_channels}, H, W) float32 in [0, 1]",
    }
    output = {"logits": "(N, number of classes, H, W) float32"}
    added = {"inputs": inputs, "output": output, "smallest_px": SMALLEST_PX}
    return json.dumps({**metadata, **added}, ensure_ascii=False)


def _record(network: nn.Module, structure_channels: int) -> torch.export.ExportedProgram:
    """The operations of the network, at free sizes."""
    batch = torch.export.Dim("batch", min=1, max=_MAX_BATCH)
    height = torch.export.Dim("height", min=SMALLEST_PX)
    width = torch.export.Dim("width", min=SMALLEST_PX)
    free = {0: batch, 2: height, 3: width}
    inputs = _inputs(structure_channels, *_TRACED)
    with torch.no_grad(), exportable(network):
        return torch.export.export(network, inputs, dynamic_shapes=(free, free), strict=False)


def _inputs(structure_channels: int, *size: int) -> tuple[Tensor, Tensor]:
    """Image and structure of random pixels."""
    number, height, width = size
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(number, 3, height, width, generator=generator)
    return image, torch.rand(number, structure_channels, height, width, generator=generator)


def _onnx_run(path: Path) -> _Run:
    """An ONNX file as a function of tensors."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(image: Tensor, structure: Tensor) -> Tensor:
        inputs = {"image": image.numpy(), "structure": structure.numpy()}
        return torch.from_numpy(session.run(["logits"], inputs)[0])

    return run


def _check(run: _Run, network: nn.Module, structure_channels: int, path: Path) -> float:
    """The largest difference of what was written; an error if it is above the tolerance."""
    largest = 0.0
    for size in _CHECKED:
        inputs = _inputs(structure_channels, *size)
        with torch.no_grad():
            difference = float((run(*inputs) - network(*inputs)).abs().max())
        if not difference <= TOLERANCE:  # also if it is not a number
            raise DataError(
                f"{path} was not written: its logits would differ from those of the network by "
                f"{difference:.2g} at {size[0]} x {size[1]} x {size[2]} px, {TOLERANCE} is allowed"
            )
        largest = max(largest, difference)
    return largest


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Errors of an exporter, of which there are many kinds, as one sentence."""
    try:
        yield
    except Exception as error:
        reason = str(error).strip().partition("\n")[0][:300]
        raise DataError(
            f"{path} was not written: torch {torch.__version__} cannot export this network "
            f"({type(error).__name__}: {reason}); a newer torch may, 2.14 is tested"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters say of their own insides: the file is checked instead."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
