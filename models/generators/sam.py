"""Segment maps by Segment Anything, prompted with a grid of points ("everything" mode).

Source: Kirillov et al., "Segment Anything", ICCV 2023, section 5 and appendix B, through the
authors' package. Its masks overlap and leave gaps; ``segment_map.paint`` says what becomes of them.
"""

import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from segment_anything import SamAutomaticMaskGenerator, sam_model_registry
from segment_anything.modeling import Sam as SamNetwork
from segment_anything.utils.amg import MaskData
from torch import Tensor

from models.generators.segment_map import canonical, paint
from utils.errors import DataError, MissingDataError
from utils.files import sha256_of

Layout = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Release:
    """A weights file published by the authors (Apache-2.0)."""

    file: str
    sha256: str

    @property
    def url(self) -> str:
        """Where it is published."""
        return f"https://dl.fbaipublicfiles.com/segment_anything/{self.file}"


RELEASES = {
    "vit_b": Release(
        "sam_vit_b_01ec64.pth", "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"
    ),
    "vit_l": Release(
        "sam_vit_l_0b3195.pth", "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"
    ),
    "vit_h": Release(
        "sam_vit_h_4b8939.pth", "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"
    ),
}


class Sam:
    """Everything SAM finds in an image, as one segment map.

    Args:
        network: a SAM network in eval mode, on the device where it is to run.
        weights_sha256: SHA-256 of the file its weights came from; None for random weights.
        points_per_side: prompts along each side of the image.
        points_per_batch: prompts computed together; decides the memory, and the masks only by
            rounding.
        pred_iou_thresh: masks that the network itself rates lower are dropped.
        stability_score_thresh: masks that change more when the threshold moves are dropped.
        stability_score_offset: by how much it is moved.
        box_nms_thresh: of masks whose boxes have a higher IoU, the best rated stays.
        crop_n_layers: layers of ever smaller crops that are segmented besides the whole image.
        crop_nms_thresh: as ``box_nms_thresh``, between crops.
        crop_overlap_ratio: by how much crops overlap, as a share of the image side.
        crop_n_points_downscale_factor: divides ``points_per_side`` from layer to layer.
    """

    def __init__(
        self,
        *,
        network: SamNetwork,
        weights_sha256: str | None,
        points_per_side: int = 32,
        points_per_batch: int = 64,
        pred_iou_thresh: float = 0.88,
        stability_score_thresh: float = 0.95,
        stability_score_offset: float = 1.0,
        box_nms_thresh: float = 0.7,
        crop_n_layers: int = 0,
        crop_nms_thresh: float = 0.7,
        crop_overlap_ratio: float = 512 / 1500,
        crop_n_points_downscale_factor: int = 1,
    ) -> None:
        self.weights_sha256 = weights_sha256
        self._generator = _MaskGenerator(
            network,
            points_per_side=points_per_side,
            points_per_batch=points_per_batch,
            pred_iou_thresh=pred_iou_thresh,
            stability_score_thresh=stability_score_thresh,
            stability_score_offset=stability_score_offset,
            box_nms_thresh=box_nms_thresh,
            crop_n_layers=crop_n_layers,
            crop_nms_thresh=crop_nms_thresh,
            crop_overlap_ratio=crop_overlap_ratio,
            crop_n_points_downscale_factor=crop_n_points_downscale_factor,
            min_mask_region_area=0,  # anything else needs OpenCV
            output_mode="binary_mask",
        )

    def generate(self, image: np.ndarray) -> np.ndarray:
        """Segment one image.

        Args:
            image: ``(H, W, 3)`` uint8 RGB.

        Returns:
            ``(H, W)`` uint16 ids, canonical: of overlapping masks the smaller lies on top, and 0
            is under no mask (everywhere, if no mask passes the thresholds).

        Raises:
            DataError: more segments than a 16-bit map can hold.
        """
        records = self._generator.generate(image)
        masks = [record["segmentation"] for record in records]
        return canonical(paint(masks, image.shape[:2]))


class _MaskGenerator(SamAutomaticMaskGenerator):
    """The package's generator, which stops with IndexError when no crop has any mask."""

    def _process_crop(
        self,
        image: np.ndarray,
        crop_box: list[int],
        crop_layer_idx: int,
        orig_size: tuple[int, ...],
    ) -> MaskData:
        data = super()._process_crop(image, crop_box, crop_layer_idx, orig_size)
        # An empty list of boxes became a tensor without the dimension of four.
        data["crop_boxes"] = data["crop_boxes"].reshape(-1, 4)
        return data


def load_sam(
    model_type: str, checkpoint: Path | None, device: torch.device
) -> tuple[SamNetwork, str]:
    """Build SAM with the weights of a local file; nothing is downloaded.

    Args:
        model_type: ``vit_b``, ``vit_l`` or ``vit_h``.
        checkpoint: an official file, or one of the same layout under another name.
        device: where the network is to run.

    Returns:
        The network in eval mode (float32), and the SHA-256 of the file.

    Raises:
        MissingDataError: no file is given, or there is none.
        DataError: the file is not what its name or ``model_type`` says.
    """
    if checkpoint is None or not checkpoint.is_file():
        raise MissingDataError(_how_to_get(model_type, checkpoint))
    digest = sha256_of(checkpoint)
    _check_official(model_type, checkpoint, digest)
    weights = _read_weights(checkpoint)
    _check_layout(model_type, checkpoint, weights)
    network = _empty(model_type)
    # The file's own tensors become the parameters: vit_h is never initialised at random first.
    network.load_state_dict(weights, assign=True)
    return network.float().to(device).eval().requires_grad_(False), digest


def _how_to_get(model_type: str, checkpoint: Path | None) -> str:
    """One sentence: what is missing, where it comes from, where it goes."""
    release = RELEASES[model_type]
    wrong = "structure.sam.checkpoint is not set" if checkpoint is None else f"no file {checkpoint}"
    return (
        f"{wrong}: SAM {model_type} needs its weights; download {release.url} (Apache-2.0), put it "
        f"e.g. in weights/ and set structure.sam.checkpoint=weights/{release.file}"
    )


def _check_official(model_type: str, checkpoint: Path, digest: str) -> None:
    """Refuse a file with the name of an official one that is another, or of another type."""
    for name, release in RELEASES.items():
        if checkpoint.name != release.file:
            continue
        if digest != release.sha256:
            raise DataError(
                f"{checkpoint} is not the official file of this name, or only part of it (SHA-256 "
                f"{digest}, official {release.sha256}); download {release.url} again, or give "
                "weights of your own another name"
            )
        if name != model_type:
            raise DataError(_other_type(checkpoint, name, model_type))


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
    for other in RELEASES:
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
        f"{RELEASES[model_type].url}"
    )


def _other_type(checkpoint: Path, found: str, wanted: str) -> str:
    """One sentence about weights of another size of SAM."""
    return (
        f"{checkpoint} holds SAM {found} weights and the recipe says {wanted}: set "
        f"structure.sam.model_type={found}, or give {RELEASES[wanted].file}"
    )
