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
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.exportable import exportable
from utils.errors import ConfigError, DataError
from utils.files import atomic_path

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
