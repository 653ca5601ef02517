"""Export of a checkpoint: half its size, or its network alone with metadata that tells its use."""

from dataclasses import asdict
from pathlib import Path

import torch

from configs.schema import Config
from datasets.encodings import StructureEncoder
from models.export import export_network
from utils.errors import ConfigError, DataError
from utils.files import sha256_of
from utils.training.checkpoint import Checkpoint, load_network, save_checkpoint


def export_checkpoint(checkpoint: Checkpoint, config: Config, path: Path) -> None:
    """Write a checkpoint as .pth to share, or its network as .pt2 or .onnx; report what it is.

    A .pth is a checkpoint for evaluation and inference, see ``share_checkpoint``; for the others
    see ``models.export``.

    Raises:
        ConfigError, DataError: as ``models.export.export_network`` and ``share_checkpoint``.
    """
    if path.suffix == ".pth":
        return share_checkpoint(checkpoint, path)
    encoder, identity = StructureEncoder(config.structure), checkpoint.identity
    network = load_network(
        checkpoint,
        config.model,
        structure_channels=encoder.num_channels,
        pictures=encoder.pictures,
        num_components=encoder.num_components,
        frozen_dtype=torch.float32,
    )
    metadata = {
        "classes": identity.classes,
        "palette": identity.palette,
        "structure": asdict(config.structure),
        "maps": identity.maps,
        "checkpoint_sha256": sha256_of(checkpoint.path),
    }
    side = config.eval.window_px
    shapes = encoder.shapes((side, side))
    difference = export_network(network.eval(), shapes, path, metadata)
    names = ("image", "structure", *("cells" for _ in encoder.num_components))
    sizes = (f"{name} (N, {', '.join(map(str, s))})" for name, s in zip(names, shapes, strict=True))
    print(
        f"{path}: logits of {' and '.join(sizes)}, for windows of eval.window_px; at most "
        f"{difference:.1g} from those of the network"
    )


def share_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint with its matrices in half precision (fp16) and no training state.

    Norms, biases and layer scales keep their precision: they are few, and variances may lie outside
    the range of fp16.

    Raises:
        ConfigError: the file is the checkpoint itself.
        DataError: a weight is outside the range of fp16.
    """
    if path.resolve() == checkpoint.path.resolve():
        raise ConfigError(f"--export {path} would replace the checkpoint; name another file")
    weights, largest = {}, torch.finfo(torch.float16).max
    for name, weight in checkpoint.weights.items():
        is_matrix = weight.is_floating_point() and weight.ndim > 1
        if is_matrix and weight.abs().max() > largest:
            raise DataError(
                f"{path} was not written: {name} of {checkpoint.path} has values above "
                f"{largest:g}, the limit of half precision; share the checkpoint itself"
            )
        weights[name] = weight.half() if is_matrix else weight
    save_checkpoint(
        path, identity=checkpoint.identity, weights=weights, progress=checkpoint.progress
    )
    frozen = [f"{vit['name']} ({vit['sha256'][:8]})" for vit in checkpoint.identity.frozen.values()]
    needs = f"; needs the weights of {', '.join(dict.fromkeys(frozen))}" if frozen else ""
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, for eval.py and infer.py{needs}")
