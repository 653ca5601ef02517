"""SAM's weights: the official files, or others of their layout, into the package's network."""

import pickle
from pathlib import Path

import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import Sam as SamNetwork
from torch import Tensor

from models.weights import OfficialFile, find_weights
from utils.errors import DataError

Layout = dict[str, tuple[int, ...]]

_SHA256 = {
    "sam_vit_b_01ec64.pth": "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    "sam_vit_l_0b3195.pth": "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    "sam_vit_h_4b8939.pth": "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
}
_FILES = {file[4:9]: file for file in _SHA256}  # vit_b: sam_vit_b_01ec64.pth
RANDOM = "random"


def official_sam_file(model_type: str) -> OfficialFile:
    """The weights file that SAM's authors publish for ``vit_b``, ``vit_l`` or ``vit_h``."""
    file = _FILES[model_type]
    url = f"https://dl.fbaipublicfiles.com/segment_anything/{file}"
    return OfficialFile(file=file, source=url, licence="Apache-2.0", url=url, sha256=_SHA256[file])


def load_sam(
    model_type: str, checkpoint: str | None, device: torch.device
) -> tuple[SamNetwork, str]:
    """Build SAM with the weights of a local file; nothing is downloaded.

    Args:
        model_type: ``vit_b``, ``vit_l`` or ``vit_h``.
        checkpoint: an official file, or one of the same layout under another name; None: the
            official file in ``weights/``; ``random``: fixed random weights, for tests and timing.
        device: where the network is to run.

    Returns:
        The network in eval mode (float32), and the SHA-256 of the file or ``random``.

    Raises:
        MissingDataError: there is no such file.
        DataError: the file is not what its name or ``model_type`` says.
    """
    if checkpoint == RANDOM:
        network, digest = _random(model_type), RANDOM
    else:
        official = official_sam_file(model_type)
        path, digest = find_weights(f"SAM {model_type}", checkpoint, official)
        weights = _read_weights(path)
        _check_layout(model_type, path, weights)
        network = _empty(model_type)
        # The file's own tensors become the parameters: vit_h is never initialised at random first.
        network.load_state_dict(weights, assign=True)
    return network.float().to(device).eval().requires_grad_(False), digest


def _random(model_type: str) -> SamNetwork:
    """Fixed random weights; the relative positions too, which the package sets to 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = sam_model_registry[model_type]()
        for name, parameter in network.named_parameters():
            if name.endswith(("pos_embed", "rel_pos_h", "rel_pos_w")):
                torch.nn.init.normal_(parameter, std=0.02)
    return network


def _read_weights(checkpoint: Path) -> dict[str, Tensor]:
    """Read a state dict, on the CPU."""
    try:
        weights = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{checkpoint} cannot be read as PyTorch weights ({reason}); it is damaged or of "
            "another kind, download or save it again"
        ) from error
    if not isinstance(weights, dict) or not all(isinstance(w, Tensor) for w in weights.values()):
        raise DataError(
            f"{checkpoint} holds something else than named tensors; save the network's state_dict()"
        )
    return weights


def _empty(model_type: str) -> SamNetwork:
    """The network without memory for its parameters."""
    with torch.device("meta"):
        return sam_model_registry[model_type]()


def _layout(weights: dict[str, Tensor]) -> Layout:
    """Name and shape of every tensor."""
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}


def _check_layout(model_type: str, checkpoint: Path, weights: dict[str, Tensor]) -> None:
    """Refuse weights that do not fit ``model_type`` tensor for tensor."""
    found, wanted = _layout(weights), _layout(_empty(model_type).state_dict())
    if found == wanted:
        return
    for other in _FILES:
        if found == _layout(_empty(other).state_dict()):
            raise DataError(_other_type(checkpoint, other, model_type))
    missing = [name for name in wanted if name not in found]
    unexpected = [name for name in found if name not in wanted]
    misshapen = [
        f"{name} {found[name]} for {wanted[name]}"
        for name in wanted
        if name in found and found[name] != wanted[name]
    ]
    parts = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    faults = [f"{len(n)} {what} (first: {n[0]})" for what, n in parts.items() if n]
    raise DataError(
        f"{checkpoint} does not hold SAM {model_type} weights: {', '.join(faults)}; give a "
        "state_dict() of the package's network, or take the official file "
        f"{official_sam_file(model_type).url}"
    )


def _other_type(checkpoint: Path, found: str, wanted: str) -> str:
    """One sentence about weights of another size of SAM."""
    return (
        f"{checkpoint} holds SAM {found} weights and the recipe says {wanted}: set "
        f"structure.sam.model_type={found}, or give {_FILES[wanted]}"
    )
