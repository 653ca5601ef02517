"""Segment maps by Segment Anything, prompted with a grid of points ("everything" mode).

Source: Kirillov et al., "Segment Anything", ICCV 2023, section 5 and appendix B. The masks are
those of the authors' ``SamAutomaticMaskGenerator``, computed faster by ``sam_encoder``,
``sam_decoder`` and ``sam_masks``. They overlap and leave gaps; ``sam_masks.paint`` makes one
segment map of them.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import Sam as SamNetwork
from segment_anything.utils.amg import build_all_layer_point_grids, generate_crop_boxes
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor

from models.structure.generator import StructureGenerator
from models.structure.sam_decoder import PromptDecoder
from models.structure.sam_encoder import encode
from models.structure.sam_masks import (
    Crop,
    Masks,
    drop_cut_off,
    measure,
    paint,
    resampling,
    suppress,
)
from models.structure.segments import canonical
from models.weights import RANDOM, load_official_weights, official_sam
from utils.boxes import Box
from utils.errors import DataError

T = TypeVar("T")


class Sam(StructureGenerator):
    """SAM's masks of an image, painted into one segment map.

    Args:
        network: a SAM network in eval mode, on the device of the computation.
        weights_sha256: SHA-256 of the weights file; ``random`` or None without a file.
        points_per_side: prompts along each side of the image.
        points_per_batch: maximum number of prompts computed together; determines the memory, and
            the masks only by rounding. Halved permanently whenever the device runs out of memory.
        pred_iou_thresh: minimum IoU of a mask as predicted by the network.
        stability_score_thresh: minimum IoU of a mask at two shifted thresholds.
        stability_score_offset: shift of these thresholds.
        box_nms_thresh: of masks whose boxes have a higher IoU, the one with the best score stays.
        crop_n_layers: layers of ever smaller crops that are segmented besides the whole image.
        crop_nms_thresh: like ``box_nms_thresh``, between crops.
        crop_overlap_ratio: overlap of crops, as a fraction of the image side.
        crop_n_points_downscale_factor: divisor of ``points_per_side`` from layer to layer.
        images_per_batch: pictures encoded together on a CUDA device; one on the CPU, where more are
            no faster. Halved like ``points_per_batch``.
        dtype: dtype of the image encoder (autocast); the rest is float32.
    """

    kind = "segments"

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
        images_per_batch: int = 1,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.weights_sha256 = weights_sha256
        self.points_per_batch = points_per_batch
        self.pred_iou_thresh = pred_iou_thresh
        self.stability_score_thresh = stability_score_thresh
        self.stability_score_offset = stability_score_offset
        self.box_nms_thresh = box_nms_thresh
        self.crop_n_layers = crop_n_layers
        self.crop_nms_thresh = crop_nms_thresh
        self.crop_overlap_ratio = crop_overlap_ratio
        self.device = network.device
        self.images_per_batch = images_per_batch if self.device.type == "cuda" else 1
        self._encoder_batch = self.images_per_batch
        self.dtype = dtype
        self._network = network
        self._decoder = PromptDecoder(network)
        self._resize = ResizeLongestSide(network.image_encoder.img_size)
        self._grids = build_all_layer_point_grids(
            points_per_side, crop_n_layers, crop_n_points_downscale_factor
        )

    @torch.no_grad()
    def generate_batch(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Segment several images, each as ``generate`` does, up to rounding.

        Of overlapping masks the smaller covers the larger; id 0 is under no mask (everywhere, if no
        mask passes the thresholds).
        """
        maps = []
        for image, (masks, crops) in zip(images, self._find(images), strict=True):
            ids = paint(masks, crops, image.shape[:2], self._network.mask_threshold)
            maps.append(canonical(ids.cpu().numpy()))
        return maps

    def _find(self, images: Sequence[np.ndarray]) -> list[tuple[Masks, list[Crop]]]:
        """Return the masks of each image, by descending score, and its crops."""
        places = []  # of the crops of all images: index of the image, corners, layer
        for index, image in enumerate(images):
            corners = generate_crop_boxes(
                image.shape[:2], self.crop_n_layers, self.crop_overlap_ratio
            )
            places += [(index, box, layer) for box, layer in zip(*corners, strict=True)]
        pictures = [images[i][y0:y1, x0:x1] for i, (x0, y0, x1, y1), _ in places]
        found: list[tuple[list[Masks], list[Crop]]] = [([], []) for _ in images]
        for (index, corners, layer), embedding in zip(places, self._encode(pictures), strict=True):
            masks, crops = found[index]
            crops.append(self._crop(*corners))
            size = images[index].shape[:2]
            masks.append(self._search(embedding, crops[-1], len(crops) - 1, layer, size))
        return [(self._merge(masks, crops), crops) for masks, crops in found]

    def _encode(self, pictures: list[np.ndarray]) -> list[Tensor]:
        """Return the image embeddings, ``(C, h, w)`` float32 each."""
        embeddings: list[Tensor] = []
        while len(embeddings) < len(pictures):
            first = len(embeddings)

            def compute(size: int, first: int = first) -> Tensor:
                batch = [self._preprocess(p) for p in pictures[first : first + size]]
                with torch.autocast(self.device.type, self.dtype, self.dtype != torch.float32):
                    return encode(self._network.image_encoder, torch.cat(batch)).float()

            self._encoder_batch, batch = self._halving(self._encoder_batch, compute)
            embeddings += batch.unbind()
        return embeddings

    def _preprocess(self, picture: np.ndarray) -> Tensor:
        """Apply the package's own steps: Pillow's bilinear resize, normalise, pad."""
        resized = torch.from_numpy(self._resize.apply_image(picture))
        pixels = resized.to(self.device).permute(2, 0, 1).unsqueeze(0)
        return self._network.preprocess(pixels)

    def _crop(self, x0: int, y0: int, x1: int, y1: int) -> Crop:
        size = (y1 - y0, x1 - x0)
        side = self._network.image_encoder.img_size
        used = self._resize.get_preprocess_shape(*size, side)
        coarse = [4 * length for length in self._network.prompt_encoder.image_embedding_size]
        rows, columns = (
            resampling(coarse[axis], side, used[axis], length, self.device)
            for axis, length in enumerate(size)
        )
        return Crop(Box(y0, x0, *size), rows, columns)

    def _search(
        self, embedding: Tensor, crop: Crop, number: int, layer: int, size: tuple[int, int]
    ) -> Masks:
        """Return the masks of a crop: of all prompts, filtered by score, stability and overlap."""
        crop_size = (crop.box.height_px, crop.box.width_px)
        points = self._grids[layer] * np.array(crop_size)[None, ::-1]
        prompts = torch.from_numpy(self._resize.apply_coords(points, crop_size)).to(self.device)
        self.points_per_batch, found = self._halving(
            self.points_per_batch,
            lambda count: self._decoder.decode(embedding, prompts, self.pred_iou_thresh, count),
        )
        corner = torch.tensor([crop.box.left_px, crop.box.top_px], device=self.device)
        masks = Masks(
            coarse=found.logits,
            crop=torch.full_like(found.prompt, number),
            boxes=found.prompt.new_zeros(len(found.prompt), 4),
            areas=torch.zeros_like(found.prompt),
            iou=found.iou,
            stability=torch.zeros_like(found.iou),
            points=torch.from_numpy(points).to(self.device)[found.prompt] + corner,
        )
        masks = measure(
            masks,
            crop,
            self._network.mask_threshold,
            self.stability_score_offset,
            self.stability_score_thresh,
        )
        masks = drop_cut_off(masks, crop, size)
        return suppress(masks, masks.iou, self.box_nms_thresh)

    def _merge(self, parts: list[Masks], crops: list[Crop]) -> Masks:
        """Join the masks of all crops without duplicates, of which that of a smaller crop stays."""
        masks = Masks.join(parts)
        if len(crops) == 1:
            return masks
        sizes = [crop.box.height_px * crop.box.width_px for crop in crops]
        areas = torch.tensor(sizes, device=self.device)
        return suppress(masks, 1 / areas[masks.crop], self.crop_nms_thresh)

    def _halving(self, size: int, compute: Callable[[int], T]) -> tuple[int, T]:
        """Return ``compute(size)``, halving the size while the device runs out of memory."""
        while True:
            try:
                return size, compute(size)
            except torch.OutOfMemoryError as error:
                if size == 1:
                    raise DataError(
                        "SAM does not fit the memory of the device even with one image and one "
                        "prompt at a time; take a smaller structure.sam.model_type, or run.device="
                        "cpu"
                    ) from error
            size //= 2
            torch.cuda.empty_cache()


def load_sam(
    model_type: str, checkpoint: str | None, device: torch.device
) -> tuple[SamNetwork, str]:
    """Build SAM with the weights of a local file; nothing is downloaded.

    Args:
        model_type: ``vit_b``, ``vit_l`` or ``vit_h``.
        checkpoint: an official file, or one of the same layout under another name; None: the
            official file in ``weights/``; ``random``: fixed random weights, for tests and timing.
        device: device of the network.

    Returns:
        The network in eval mode (float32), and the SHA-256 of the file or ``random``.

    Raises:
        MissingDataError: there is no such file.
        DataError: the file is damaged or of another model.
    """
    if checkpoint == RANDOM:
        network, digest = _random(model_type), RANDOM
    else:
        with torch.device("meta"):  # vit_h is never initialised at random first
            network = sam_model_registry[model_type]()
        digest = load_official_weights(network, checkpoint, official_sam(model_type))
    return network.float().to(device).eval().requires_grad_(False), digest


def _random(model_type: str) -> SamNetwork:
    """Build a network with fixed random weights, also where the package initialises zeros."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = sam_model_registry[model_type]()
        for name, parameter in network.named_parameters():
            if name.endswith(("pos_embed", "rel_pos_h", "rel_pos_w")):
                torch.nn.init.normal_(parameter, std=0.02)
    return network
