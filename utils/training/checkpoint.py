"""Checkpoints: plain types only, one format version, never a half-written file.

A checkpoint is enough to evaluate and to infer: it carries the resolved recipe, the classes, the
recipe of the structure maps and the identity of the frozen ViTs, whose weights it leaves out.
"""

import pickle
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.errors import DataError, MissingDataError
from utils.files import atomic_path

FORMAT_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a network was trained on and with, besides its weights."""

    recipe: dict[str, Any]  # the resolved configuration
    dataset: str
    classes: list[str]
    palette: list[list[int]]  # RGB of each class
    split: dict[str, str]  # name and sha256 of the lists of source images
    maps: dict[str, dict[str, Any]]  # store -> generator, settings, weights_sha256
    frozen: dict[str, dict[str, str]]  # branch -> name and sha256 of the frozen ViT
    selected_on: str  # the split that chooses the best checkpoint
    selected_by: str  # ... and the score: miou, mf1 or oa


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint file, read."""

    path: Path
    identity: Identity
    weights: dict[str, Tensor]  # to evaluate: the average if there is one
    progress: dict[str, Any]  # epoch, step, best score
    training: dict[str, Any] | None  # all that resuming needs; None in best.pth


def save_checkpoint(
    path: Path,
    *,
    identity: Identity,
    weights: dict[str, Tensor],
    progress: dict[str, Any],
    training: dict[str, Any] | None = None,
) -> None:
    """Write a checkpoint, atomically. Call on one rank."""
    content = {
        "format_version": FORMAT_VERSION,
        "identity": asdict(identity),
        "weights": weights,
        "progress": progress,
        "training": training,
    }
    with atomic_path(path) as partial:
        torch.save(content, partial)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint on the CPU; no code in the file is ever run.

    Raises:
        MissingDataError: there is no such file.
        DataError: it is not a checkpoint of this program, or of another format version.
    """
    if not path.is_file():
        raise MissingDataError(f"the checkpoint {path} does not exist")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise DataError(
            f"{path} cannot be read as a checkpoint; it is damaged or foreign"
        ) from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        found = "no format version" if version is None else f"format {version}"
        raise DataError(
            f"{path} has {found}, this program reads {FORMAT_VERSION}; use a checkpoint that its "
            "own train.py wrote"
        )
    return Checkpoint(
        path=path,
        identity=Identity(**content["identity"]),
        weights=content["weights"],
        progress=content["progress"],
        training=content["training"],
    )


def load_weights(
    network: nn.Module, checkpoint: Checkpoint, frozen: dict[str, dict[str, str]]
) -> None:
    """Put a checkpoint's weights into a network built from its recipe.

    Args:
        network: its ``state_dict`` holds the trainable part only.
        checkpoint: the file.
        frozen: identities of the frozen ViTs that the network was built with.

    Raises:
        DataError: another set of weights or shapes, or other frozen ViTs.
    """
    for branch, wanted in checkpoint.identity.frozen.items():
        if frozen.get(branch) != wanted:
            raise DataError(
                f"{checkpoint.path} was trained with {branch} {wanted}, this network has "
                f"{frozen.get(branch)}; point model.{branch}.weights to the same file"
            )
    check_weights(network, checkpoint.weights, str(checkpoint.path))
    network.load_state_dict(checkpoint.weights, strict=False)


def begin_with(path: str | None, network: nn.Module) -> list[str]:
    """Begin with the weights of another run, as far as names and shapes are the same.

    Args:
        path: its checkpoint; None changes nothing.
        network: keeps its own weights where the checkpoint has none, or of another shape.

    Returns:
        Lines that say how much was loaded, and name what was not.

    Raises:
        MissingDataError, DataError: no such checkpoint, or nothing in it fits.
    """
    if path is None:
        return []
    checkpoint, own = load_checkpoint(Path(path)), network.state_dict()
    fitting, left = {}, []
    for name, value in own.items():
        other = checkpoint.weights.get(name)
        if other is not None and other.shape == value.shape:
            fitting[name] = other
        else:
            found = "missing there" if other is None else f"{_size(other)} there"
            left.append(f"  not loaded: {name}, {_size(value)} here, {found}")
    if not fitting:
        raise DataError(
            f"no weight of {path} fits the network of this recipe; fine-tune from a "
            "checkpoint of the same model.size"
        )
    network.load_state_dict(fitting, strict=False)
    unused = len(checkpoint.weights.keys() - own.keys())
    head = f"fine-tuning {path}: {len(fitting)} of {len(own)} weights loaded, {unused} not used"
    return [head, *left]


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def check_split(checkpoint: Checkpoint, data: dict[str, Any], where: str) -> None:
    """Refuse to go on, or to score, on other lists of images than those of the training.

    Another data set of the same classes is not refused.

    Args:
        checkpoint: what was trained.
        data: ``TileSet.identity()`` of the data set in use.
        where: it lies.

    Raises:
        DataError: the same data set, split otherwise: test images may have been trained on.
    """
    then, now = checkpoint.identity.split, data["split"]
    if checkpoint.identity.dataset == data["dataset"] and then["sha256"] != now["sha256"]:
        raise DataError(
            f"{checkpoint.path} was trained with the split '{then['name']}' "
            f"({then['sha256'][:8]}) of {data['dataset']}, {where} has '{now['name']}' "
            f"({now['sha256'][:8]}), so images may be in other splits; prepare the split of the "
            "training"
        )


def check_weights(network: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Refuse weights that do not fit a network key by key and shape by shape."""
    own = network.state_dict()
    wrong = sorted(own.keys() ^ weights.keys())
    wrong += [key for key in own if key in weights and own[key].shape != weights[key].shape]
    if wrong:
        raise DataError(
            f"{source} does not fit the network its recipe describes: {len(wrong)} of {len(own)} "
            f"weights differ (first: {wrong[0]}); it was written by another version"
        )


def load_network(
    checkpoint: Checkpoint,
    config: ModelConfig,
    *,
    structure_channels: int,
    pictures: Pictures,
    frozen_dtype: torch.dtype = torch.float32,
) -> VSGNet:
    """Build the network of a checkpoint and put its weights in; see ``build_network``.

    Raises:
        DataError: the weights, or those of the frozen ViTs, are not the ones of the checkpoint.
    """
    network = build_network(
        config,
        num_classes=len(checkpoint.identity.classes),
        structure_channels=structure_channels,
        pictures=pictures,
        frozen_dtype=frozen_dtype,
    )
    load_weights(network, checkpoint, frozen_identities(network))
    return network.eval()
