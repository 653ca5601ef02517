"""Checkpoints: plain types only, one format version, written atomically.

A checkpoint suffices for evaluation and inference: it holds the resolved recipe, the classes, the
recipe of the structure maps and the identity of the frozen ViTs, but not the weights of these.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from configs.schema import ModelConfig
from models.build import Pictures, build_network, frozen_identities
from models.vsgnet import VSGNet
from models.weights import check_layout
from utils.errors import DataError, MissingDataError
from utils.files import atomic_path

FORMAT_VERSION = 5
_CLASSIFIER = "head.classify."  # beginning of the names of weights with one row per class


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Data, recipe and frozen networks of a training run; stored beside the weights."""

    recipe: dict[str, Any]  # the resolved configuration
    dataset: str
    classes: list[str]
    palette: list[list[int]]  # RGB of each class
    split: dict[str, str]  # name and sha256 of the lists of source images
    trained_on: list[str]  # sha256 of the pixels of each training image, also of a fine-tuned run
    channels: str  # of the images: rgb or irrg
    rendering: dict[str, Any]  # of stored values as these, see utils.rasters.rendering
    maps: dict[str, dict[str, Any]]  # store -> generator, settings, weights_sha256
    frozen: dict[str, dict[str, str]]  # branch -> name and sha256 of the frozen ViT
    selected_on: str  # split that selects the best checkpoint
    selected_by: str  # ... and the score: miou, mf1 or oa
    # Store -> fit of its generator, so that maps of other images can be made without the store.
    fitted: dict[str, dict[str, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Content of a checkpoint file."""

    path: Path
    identity: Identity
    weights: dict[str, Tensor]  # for evaluation: the averaged ones if there are any
    progress: dict[str, Any]  # epoch, step, best score
    training: dict[str, Any] | None  # state for resuming; None in best.pth


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
    """Read a checkpoint on the CPU, without executing code from the file.

    Raises:
        MissingDataError: there is no such file.
        DataError: it is damaged, incomplete, or of another program or format version.
    """
    if not path.is_file():
        raise MissingDataError(f"the checkpoint {path} does not exist")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of any kind: the unpickler runs whatever the bytes say
        raise DataError(
            f"{path} cannot be read as a checkpoint; it is damaged, or of another program"
        ) from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        found = "no format version" if version is None else f"format {version}"
        raise DataError(
            f"{path} has {found}, this program reads {FORMAT_VERSION}; use a checkpoint that its "
            "own train.py wrote"
        )
    try:
        return Checkpoint(
            path=path,
            identity=Identity(**content["identity"]),
            weights=content["weights"],
            progress=content["progress"],
            training=content["training"],
        )
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{path} is not a complete checkpoint ({error}); use one that its own train.py wrote"
        ) from error


def load_weights(
    network: nn.Module, checkpoint: Checkpoint, frozen: dict[str, dict[str, str]]
) -> None:
    """Load a checkpoint's weights into a network built from its recipe.

    Args:
        network: its ``state_dict`` holds the trainable part only.
        checkpoint: the file.
        frozen: identities of the frozen ViTs that the network was built with.

    Raises:
        DataError: other names or shapes of weights, or other frozen ViTs.
    """
    for branch, wanted in checkpoint.identity.frozen.items():
        if frozen.get(branch) != wanted:
            raise DataError(
                f"{checkpoint.path} was trained with {branch} {wanted}, this network has "
                f"{frozen.get(branch)}; point model.{branch}.weights to the same file"
            )
    load_trained(network, checkpoint.weights, checkpoint.path)


def load_trained(network: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Load the trainable weights of a network from those of a checkpoint at ``path``.

    Raises:
        DataError: other names or shapes.
    """
    check_layout(
        network.state_dict(),
        weights,
        refusal=f"{path} does not fit the network of its recipe",
        remedy="it was written by another version",
    )
    network.load_state_dict(weights, strict=False)  # frozen weights are in no state_dict


def begin_with(
    path: str | None, network: nn.Module, classes: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Initialise a network from another run, as far as names, shapes and classes agree.

    Args:
        path: the other run's checkpoint; None changes nothing.
        network: keeps its own weights where the checkpoint has none that fits.
        classes: of the data set. The classifier is loaded only if they are those of the checkpoint.

    Returns:
        Lines for the log: how many weights were loaded, and which were not; and the hashes of the
        images that these weights were trained on.

    Raises:
        MissingDataError, DataError: no such checkpoint, or nothing in it fits.
    """
    if path is None:
        return [], []
    checkpoint, own = load_checkpoint(Path(path)), network.state_dict()
    same_classes = checkpoint.identity.classes == [*classes]
    fitting, skipped = {}, []
    for name, value in own.items():
        other = checkpoint.weights.get(name)
        if other is None:
            reason = "missing there"
        elif other.shape != value.shape:
            reason = f"{_size(other)} there"
        elif name.startswith(_CLASSIFIER) and not same_classes:
            reason = f"of other classes there ({', '.join(checkpoint.identity.classes)})"
        else:
            fitting[name] = other
            continue
        skipped.append(f"  not loaded: {name}, {_size(value)} here, {reason}")
    if not fitting:
        raise DataError(
            f"no weight of {path} fits the network of this recipe; fine-tune from a "
            "checkpoint of the same model.size"
        )
    network.load_state_dict(fitting, strict=False)
    unused = len(checkpoint.weights.keys() - own.keys())
    head = f"fine-tuning {path}: {len(fitting)} of {len(own)} weights loaded, {unused} not used"
    return [head, *skipped], checkpoint.identity.trained_on


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def check_split(checkpoint: Checkpoint, data: dict[str, Any], where: str) -> None:
    """Refuse to resume with other split lists than those of the training.

    Args:
        checkpoint: of the run that is resumed.
        data: ``TileSet.identity()`` of the data set in use.
        where: path of that data set.

    Raises:
        DataError: the same data set, split otherwise.
    """
    then, now = checkpoint.identity.split, data["split"]
    if checkpoint.identity.dataset == data["dataset"] and then["sha256"] != now["sha256"]:
        raise DataError(
            f"{checkpoint.path} was trained with the split '{then['name']}' "
            f"({then['sha256'][:8]}) of {data['dataset']}, {where} has '{now['name']}' "
            f"({now['sha256'][:8]}), so images may be in other splits; prepare the data set with "
            "the split of the training"
        )


def load_network(
    checkpoint: Checkpoint,
    config: ModelConfig,
    *,
    structure_channels: int,
    pictures: Pictures,
    num_components: tuple[int, ...] = (),
    frozen_dtype: torch.dtype = torch.float32,
) -> VSGNet:
    """Build the network of a checkpoint, in eval mode, with its weights; see ``build_network``.

    Raises:
        DataError: the weights of the network or of the frozen ViTs are not those of the checkpoint.
    """
    network = build_network(
        config,
        num_classes=len(checkpoint.identity.classes),
        structure_channels=structure_channels,
        pictures=pictures,
        num_components=num_components,
        frozen_dtype=frozen_dtype,
    )
    load_weights(network, checkpoint, frozen_identities(network))
    return network.eval()
