"""Export of a trained network to a file that needs no code of this project: torch.export or ONNX.

The file holds the network alone, at one height and width and for any number of images:

    logits (N, C, H, W) = f(image (N, 3, H, W) RGB in [0, 1], structure (N, S, H, W) in [0, 1])

all of float32; with a structure map of cells, its ``cells (N, K, gh, gw)`` in [0, 1] come third.
Larger images are predicted in windows of that size. The structure maps and their encoding
(``datasets.encodings``) stay outside: generators cannot be exported, and the settings of the
encoding are in the metadata.

Load a ``.pt2`` with ``torch.export.load(path).module()`` and its metadata with
``torch.export.load(path, extra_files=found)``, where ``found`` is ``{"metadata.json": ""}``. Load
an ``.onnx`` with onnxruntime; ``session.get_modelmeta().custom_metadata_map["metadata.json"]`` is
the same text.
"""

import importlib.util
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from utils.errors import ConfigError, DataError
from utils.files import atomic_path

METADATA = "metadata.json"  # its name inside the file
ONNX_OPSET = 18
SMALLEST_PX = 33  # below, the coarsest of the four scales has a single position
TOLERANCE = 1e-4  # largest accepted difference between a logit of the file and of the network
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
MAX_ONNX_BYTES = 2**31 - 2**24  # of weights: an ONNX file holds less than 2 GiB, with its graph

_TRACED_BATCH, _CHECKED_BATCHES = 2, (1, 3)


def export_network(
    network: nn.Module,
    shapes: Sequence[tuple[int, ...]],
    path: Path,
    metadata: dict[str, Any],
) -> float:
    """Write a network to a file, and compare the file with the network before it gets its name.

    Args:
        network: in eval mode, float32, on the CPU.
        shapes: of image, structure and any cells, for one window.
        path: ends with ``.pt2`` for torch.export or ``.onnx`` for ONNX.
        metadata: plain values stored in the file (classes, palette, structure settings, identity
            of the checkpoint); ``inputs`` and ``output`` are added.

    Returns:
        The largest difference between a logit of the file and of the network.

    Raises:
        ConfigError: another file extension, an input size that is too small, or missing packages.
        DataError: the file would be too large, or does not compute the network's logits, or this
            version of torch cannot export the network.
    """
    _check_request(network, path, shapes[0][1:])
    write = _write_program if path.suffix == ".pt2" else _write_onnx
    text = json.dumps({**metadata, **_interface(shapes)}, ensure_ascii=False)
    traced, *checked = (
        _random_inputs(num_images, shapes) for num_images in (_TRACED_BATCH, *_CHECKED_BATCHES)
    )
    each = {0: torch.export.Dim("batch", min=1)}
    cells = [(each,) * (len(shapes) - 2)] if len(shapes) > 2 else []
    with atomic_path(path) as partial, torch.no_grad():
        try:
            with warnings.catch_warnings():  # about the exporters' internals
                warnings.simplefilter("ignore")
                program = torch.export.export(
                    network, traced, dynamic_shapes=(each, each, *cells), strict=False
                )
                run = write(program, partial, text)
        except Exception as error:  # exporters raise many types
            reason = str(error).strip().partition("\n")[0][:300]
            raise DataError(
                f"{path} was not written: torch {torch.__version__} cannot export this network "
                f"({type(error).__name__}: {reason}); a newer torch may, 2.14 is tested"
            ) from error
        differences = [(run(*inputs) - network(*inputs)).abs().max() for inputs in checked]
        difference = float(torch.stack(differences).max())
        if not difference <= TOLERANCE:  # also true for nan
            raise DataError(
                f"{path} was not written: its logits would differ from those of the network by "
                f"{difference:.2g}, {TOLERANCE} is allowed"
            )
    return difference


def _check_request(network: nn.Module, path: Path, size_px: tuple[int, ...]) -> None:
    """Raise an error before any work if there is no such format, or it cannot hold the network."""
    if path.suffix not in (".pt2", ".onnx"):
        raise ConfigError(
            f"{path} must end with .pt2 (torch.export), .onnx (ONNX) or .pth (a checkpoint in half "
            "precision): the extension selects the format"
        )
    if min(size_px) < SMALLEST_PX:
        raise ConfigError(f"an export needs inputs of {SMALLEST_PX} px or more, not {size_px}")
    if path.suffix == ".pt2":
        return
    num_bytes = sum(weight.nbytes for weight in network.parameters())
    if num_bytes > MAX_ONNX_BYTES:
        raise DataError(
            f"the weights take {num_bytes / 2**30:.1f} GiB, and an ONNX file holds less than 2 "
            f"GiB; export to {path.with_suffix('.pt2')}"
        )
    if missing := [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]:
        raise ConfigError(
            f"to write and to check an ONNX file, {', '.join(missing)} must be installed: "
            f"pip install {' '.join(missing)}"
        )


def _input_names(num_inputs: int) -> list[str]:
    """Return ``image``, ``structure``, and ``cells``, ``cells_2``, ... for maps of cells."""
    cells = ["cells", *(f"cells_{number}" for number in range(2, num_inputs))]
    return ["image", "structure", *cells][:num_inputs]


def _interface(shapes: Sequence[tuple[int, ...]]) -> dict[str, Any]:
    """Describe inputs and output for the metadata."""
    sizes = [", ".join(map(str, shape)) for shape in shapes]
    inputs = {
        name: f"(N, {size}) float32 in [0, 1]"
        for name, size in zip(_input_names(len(shapes)), sizes, strict=True)
    }
    inputs["image"] = f"(N, {sizes[0]}) float32, RGB in [0, 1]"
    height, width = shapes[0][1:]
    output = f"(N, number of classes, {height}, {width}) float32"
    return {"inputs": inputs, "output": {"logits": output}}


def _write_program(program: ExportedProgram, path: Path, metadata: str) -> Callable[..., Tensor]:
    """Write a torch.export package; return the file as a function of tensors."""
    with path.open("wb") as file:
        torch.export.save(program, file, extra_files={METADATA: metadata})
    with path.open("rb") as file:
        return torch.export.load(file).module()


def _write_onnx(program: ExportedProgram, path: Path, metadata: str) -> Callable[..., Tensor]:
    """Write a single ONNX file; return it as a function of tensors."""
    import onnxruntime

    names = _input_names(len(program.graph_signature.user_inputs))
    translated = torch.onnx.export(
        program,
        input_names=names,
        output_names=["logits"],
        opset_version=ONNX_OPSET,
        dynamo=True,
        verbose=False,
    )
    assert translated is not None
    translated.model.metadata_props[METADATA] = metadata
    # Its own ``save`` moves weights above 1.5 GiB to a second file.
    path.write_bytes(translated.model_proto.SerializeToString())
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(*inputs: Tensor) -> Tensor:
        arrays = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(["logits"], arrays)[0])

    return run


def _random_inputs(num_images: int, shapes: Sequence[tuple[int, ...]]) -> tuple[Tensor, ...]:
    """Return fixed random inputs."""
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.rand(num_images, *shape, generator=generator) for shape in shapes)
