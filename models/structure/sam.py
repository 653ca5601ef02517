"""Segment maps by Segment Anything, prompted with a grid of points ("everything" mode).

Source: Kirillov et al., "Segment Anything", ICCV 2023, section 5 and appendix B. The masks are
those of the authors' ``SamAutomaticMaskGenerator``, computed faster by ``sam_encoder``,
``sam_decoder`` and ``sam_masks``. They overlap and leave gaps; ``sam_masks.paint`` makes one
segment map of them.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from segment_anything import sam_model_registry
from segment_anything.modeling import Sam as SamNetwork
from segment_anything.utils.amg import build_all_layer_point_grids, generate_crop_boxes
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor

from configs.schema import SamConfig
from models.structure.generator import StructureGenerator, halving
from models.structure.sam_decoder import PromptDecoder
from models.structure.sam_encoder import encode
from models.structure.sam_masks import (
    Crop,
    Masks,
    drop_cut_off,
    measure,
    paint,
    suppress,
)
from models.structure.segments import canonical
from models.weights import RANDOM, load_official_weights, official_sam
from utils.boxes import Box

_TOO_LARGE = (
    "SAM does not fit the memory of the device even with one image and one prompt at a time; take "
    "a smaller structure.sam.model_type, or run.device=cpu"
)


class Sam(StructureGenerator):
    """SAM's masks of an image, painted into one segment map.

    ``points_per_batch`` determines the memory, and the masks only by rounding. It is halved for
    good when the device runs out of memory, and so is ``images_per_batch``, which is one on the
    CPU, where more are no faster.

    Args:
        config: the settings.
        network: a SAM network in eval mode, on the device of the computation.
        weights_sha256: SHA-256 of the weights file; ``random`` or None without a file.
        dtype: dtype of the image encoder (autocast); the rest is float32.
    """

    kind = "segments"

    def __init__(
        self,
        config: SamConfig,
        network: SamNetwork,
        weights_sha256: str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.config = config
        self.weights_sha256 = weights_sha256
        self.device = network.device
        self.images_per_batch = config.images_per_batch if self.device.type == "cuda" else 1
        self._encoder_batch = self.images_per_batch
        self._decoder_batch = config.points_per_batch
        self._dtype = dtype
        self._network = network
        self._decoder = PromptDecoder(network)
        self._resize = ResizeLongestSide(network.image_encoder.img_size)
        self._grids = build_all_layer_point_grids(
            config.points_per_side, config.crop_n_layers, config.crop_n_points_downscale_factor
        )

    @torch.no_grad()
    def generate_batch(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Segment several images, each as ``generate`` does, up to rounding.

        Of overlapping masks the smaller covers the larger; id 0 is under no mask (everywhere, if no
        mask passes the thresholds).
        """
        maps = []
        for image, (masks, crops) in zip(images, self._find(images), strict=True):
            maps.append(canonical(paint(masks, crops, image.shape[:2]).cpu().numpy()))
        return maps

    def _find(self, images: Sequence[np.ndarray]) -> list[tuple[Masks, list[Crop]]]:
        """Return the masks of each image, by descending score, and its crops."""
        places = []  # of the crops of all images: index of the image, corners, layer
        for index, image in enumerate(images):
            layers, overlap = self.config.crop_n_layers, self.config.crop_overlap_ratio
            boxes = zip(*generate_crop_boxes(image.shape[:2], layers, overlap), strict=True)
            places += [(index, box, layer) for box, layer in boxes]
        pictures = [images[i][y0:y1, x0:x1] for i, (x0, y0, x1, y1), _ in places]
        found: list[tuple[list[Masks], list[Crop]]] = [([], []) for _ in images]
        for (index, corners, layer), embedding in zip(places, self._encode(pictures), strict=True):
            masks, crops = found[index]
            crops.append(self._crop(*corners))
            size = images[index].shape[:2]
            masks.append(self._search(embedding, crops[-1], len(crops) - 1, layer, size))
        return [(self._merge(masks, crops), crops) for masks, crops in found]

    def _encode(self, pictures: Sequence[np.ndarray]) -> list[Tensor]:
        """Return the image embeddings, ``(C, h, w)`` float32 each."""
        embeddings: list[Tensor] = []
        while len(embeddings) < len(pictures):
            compute = partial(self._encode_first, pictures[len(embeddings) :])
            self._encoder_batch, batch = halving(self._encoder_batch, compute, _TOO_LARGE)
            embeddings += batch.unbind()
        return embeddings

    def _encode_first(self, pictures: Sequence[np.ndarray], count: int) -> Tensor:
        """Apply the package's own steps: Pillow's bilinear resize, normalise, pad, encode."""
        batch = []
        for picture in pictures[:count]:
            pixels = torch.from_numpy(self._resize.apply_image(picture)).to(self.device)
            batch.append(self._network.preprocess(pixels.permute(2, 0, 1).unsqueeze(0)))
        with torch.autocast(self.device.type, self._dtype, self._dtype != torch.float32):
            return encode(self._network.image_encoder, torch.cat(batch)).float()

    def _crop(self, x0: int, y0: int, x1: int, y1: int) -> Crop:
        """Describe a crop; its matrices are the package's two calls, applied to unit vectors."""
        size = (y1 - y0, x1 - x0)
        side = self._network.image_encoder.img_size
        used = self._resize.get_preprocess_shape(*size, side)  # the rest of the picture is padding
        matrices = []
        for axis, length in enumerate(size):
            coarse = 4 * self._network.prompt_encoder.image_embedding_size[axis]
            unit = torch.eye(coarse, device=self.device)[None, None]
            fine = F.interpolate(unit, (side, coarse), mode="bilinear", align_corners=False)
            fine = fine[:, :, : used[axis]]
            fine = F.interpolate(fine, (length, coarse), mode="bilinear", align_corners=False)
            matrices.append(fine[0, 0])
        return Crop(Box(y0, x0, *size), *matrices)

    def _search(
        self, embedding: Tensor, crop: Crop, number: int, layer: int, size: tuple[int, int]
    ) -> Masks:
        """Return the masks of a crop: of all prompts, filtered by score, stability and overlap."""
        crop_size = (crop.box.height_px, crop.box.width_px)
        points = self._grids[layer] * np.array(crop_size)[None, ::-1]
        prompts = torch.from_numpy(self._resize.apply_coords(points, crop_size)).to(self.device)
        decode = partial(self._decoder.decode, embedding, prompts, self.config.pred_iou_thresh)
        self._decoder_batch, (logits, iou) = halving(self._decoder_batch, decode, _TOO_LARGE)
        offset, stability = self.config.stability_score_offset, self.config.stability_score_thresh
        masks = measure(logits, iou, crop, number, offset, stability)
        masks = drop_cut_off(masks, crop, size)
        return suppress(masks, masks.iou, self.config.box_nms_thresh)

    def _merge(self, parts: list[Masks], crops: list[Crop]) -> Masks:
        """Join the masks of all crops without duplicates, of which that of a smaller crop stays."""
        masks = Masks.join(parts)
        if len(crops) == 1:
            return masks
        sizes = [crop.box.height_px * crop.box.width_px for crop in crops]
        areas = torch.tensor(sizes, device=self.device)
        return suppress(masks, 1 / areas[masks.crop], self.config.crop_nms_thresh)


def load_sam(config: SamConfig, device: torch.device) -> tuple[SamNetwork, str]:
    """Build SAM with the weights of a local file; nothing is downloaded.

    Returns:
        The network in eval mode (float32), and the SHA-256 of the file or ``random``.

    Raises:
        MissingDataError: there is no such file.
        DataError: the file is damaged or of another model.
    """
    if config.checkpoint == RANDOM:
        network, digest = _random(config.model_type), RANDOM
    else:
        with torch.device("meta"):  # vit_h is never initialised at random first
            network = sam_model_registry[config.model_type]()
        official = official_sam(config.model_type)
        digest = load_official_weights(network, config.checkpoint, official)
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
