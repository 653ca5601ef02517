"""Depth Anything's weights: the official files, and what is in a file of their layout."""

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from models.weights import OfficialFile, find_weights
from utils.errors import DataError

Layout = dict[str, tuple[int, ...]]

_UNUSED = "pretrained.mask_token"  # in the official files; only DINOv2's own training needs it

# File, SHA-256 and bytes. Each hash is pinned by at least two independent public projects; for the
# two files without one, only a single such project was found.
_FILES: dict[str, tuple[str, str | None, int | None]] = {
    "v2_small": (
        "depth_anything_v2_vits.pth",
        "715fade13be8f229f8a70cc02066f656f2423a59effd0579197bbf57860e1378",
        99_218_434,
    ),
    "v2_base": (
        "depth_anything_v2_vitb.pth",
        "0d2b7002e62d39d655571c371333340bd88f67ab95050c03591555aa05645328",
        389_961_218,
    ),
    "v2_large": (
        "depth_anything_v2_vitl.pth",
        "a7ea19fa0ed99244e67b624c72b8580b7e9553043245905be58796a608eb9345",
        1_341_395_338,
    ),
    "v1_small": ("depth_anything_vits14.pth", None, None),
    "v1_base": ("depth_anything_vitb14.pth", None, None),
    "v1_large": (
        "depth_anything_vitl14.pth",
        "6c6a383e33e51c5fdfbf31e7ebcda943973a9e6a1cbef1564afe58d7f2e8fe63",
        1_341_401_882,
    ),
}
_V1_FOLDER = "https://huggingface.co/spaces/LiheYoung/Depth-Anything/resolve/main/checkpoints"
_V2_FOLDER = "https://huggingface.co/depth-anything/Depth-Anything-V2-{}/resolve/main"


def official_depth_file(model_type: str) -> OfficialFile:
    """The weights file that the authors publish for ``v2_small``, ``v1_large`` and so on.

    Licences: of version 2 as its README says; of version 1, one for code and weights of all sizes,
    as its authors answer in issue 15 of LiheYoung/Depth-Anything.
    """
    file, sha256, num_bytes = _FILES[model_type]
    version, size = model_type.split("_")
    folder = _V1_FOLDER if version == "v1" else _V2_FOLDER.format(size.capitalize())
    is_free = version == "v1" or size == "small"
    return OfficialFile(
        file=file,
        source=f"{folder}/{file}",
        licence="Apache-2.0" if is_free else "CC-BY-NC-4.0",
        url=f"{folder}/{file}",
        sha256=sha256,
        num_bytes=num_bytes,
    )


def read_weights(
    model_type: str, checkpoint: str | None, layout_of: Callable[[str], Layout]
) -> tuple[dict[str, Tensor], str]:
    """Read the weights of a local file.

    Args:
        model_type: ``v2_small``, ``v1_large`` and so on.
        checkpoint: path of the file; None: the official file in ``weights/``.
        layout_of: parameters of the network of a model type.

    Returns:
        Every parameter, mapped into memory where the file's format allows it, and the file's
        SHA-256.

    Raises:
        MissingDataError: there is no such file.
        DataError: the file is not what its name or ``model_type`` says.
    """
    official = official_depth_file(model_type)
    path, digest = find_weights(f"Depth Anything {model_type}", checkpoint, official)
    _check_identity(model_type, path, digest)
    weights = _load(path)
    _check_layout(model_type, path, weights, layout_of)
    del weights[_UNUSED]
    return weights, digest


def _check_identity(model_type: str, path: Path, digest: str) -> None:
    """Refuse known files of another version or use: they have the same layout."""
    for other, (file, sha256, _) in _FILES.items():
        if other != model_type and (path.name == file or digest == sha256):
            raise DataError(_other_type(path, other, model_type))
    if "metric" in path.name:
        raise DataError(
            f"{path} is named like weights of metric depth, which need another last layer; give "
            f"{official_depth_file(model_type).file}, or rename it if it holds relative depth"
        )


def _load(path: Path) -> dict[str, Tensor]:
    """Read a state dict, on the CPU."""
    try:
        is_mappable = zipfile.is_zipfile(path)  # PyTorch's older format is not
        weights = torch.load(path, map_location="cpu", weights_only=True, mmap=is_mappable)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{path} cannot be read as PyTorch weights ({reason}); it is damaged or of another "
            "kind, download or save it again"
        ) from error
    if not isinstance(weights, dict) or not all(isinstance(w, Tensor) for w in weights.values()):
        raise DataError(
            f"{path} holds something else than named tensors; save the network's state_dict()"
        )
    return dict(weights)


def _check_layout(
    model_type: str, path: Path, weights: dict[str, Tensor], layout_of: Callable[[str], Layout]
) -> None:
    """Refuse weights that do not fit ``model_type`` tensor for tensor."""
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    wanted = _official_layout(layout_of(model_type))
    if found == wanted:
        return
    version = model_type.split("_")[0]
    for other in (name for name in _FILES if name.startswith(version) and name != model_type):
        if found == _official_layout(layout_of(other)):
            raise DataError(_other_type(path, other, model_type))
    missing = [name for name in wanted if name not in found]
    unexpected = [name for name in found if name not in wanted]
    misshapen = [
        f"{name} {found[name]} for {wanted[name]}"
        for name in wanted
        if name in found and found[name] != wanted[name]
    ]
    parts = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    faults = [f"{len(names)} {what} (first: {names[0]})" for what, names in parts.items() if names]
    raise DataError(
        f"{path} does not hold Depth Anything {model_type} weights: {', '.join(faults)}; take the "
        f"official file {official_depth_file(model_type).url}"
    )


def _official_layout(network: Layout) -> Layout:
    """What an official file holds besides the network's parameters."""
    return {**network, _UNUSED: network["pretrained.cls_token"][1:]}


def _other_type(path: Path, found: str, wanted: str) -> str:
    """One sentence about weights of another size or version."""
    return (
        f"{path} holds Depth Anything {found} weights and the recipe says {wanted}: set "
        f"structure.depth_anything.model_type={found}, or give {official_depth_file(wanted).file}"
    )
