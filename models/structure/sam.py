"""Segment maps by Segment Anything, prompted with a grid of points ("everything" mode).

Source: Kirillov et al., "Segment Anything", ICCV 2023, section 5 and appendix B. The masks are
those of the authors' ``SamAutomaticMaskGenerator``, computed faster by ``sam_encoder``,
``sam_decoder`` and ``sam_masks``. They overlap and leave gaps; ``sam_masks.paint`` says what
becomes of them.
"""

from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import numpy as np
import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import Sam as SamNetwork
from segment_anything.utils.amg import build_all_layer_point_grids, generate_crop_boxes
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor

from models.structure.sam_decoder import PromptDecoder
from models.structure.sam_encoder import encode
from models.structure.sam_masks import (
    Frame,
    Masks,
    drop_cut_off,
    measure,
    paint,
    resampling,
    suppress,
)
from models.structure.segments import canonical
from models.weights import load_official_weights, official_sam
from utils.errors import DataError

T = TypeVar("T")


class Sam:
    """Everything SAM finds in an image, as one segment map.

    Args:
        network: a SAM network in eval mode, on the device where it is to run.
        weights_sha256: SHA-256 of the file its weights came from; None for random weights.
        points_per_side: prompts along each side of the image.
        points_per_batch: prompts computed together, at most; decides the memory, and the masks only
            by rounding. Halved, for good, whenever the device has not enough memory.
        pred_iou_thresh: masks that the network itself rates lower are dropped.
        stability_score_thresh: masks that change more when the threshold moves are dropped.
        stability_score_offset: by how much it is moved.
        box_nms_thresh: of masks whose boxes have a higher IoU, the best rated stays.
        crop_n_layers: layers of ever smaller crops that are segmented besides the whole image.
        crop_nms_thresh: as ``box_nms_thresh``, between crops.
        crop_overlap_ratio: by how much crops overlap, as a share of the image side.
        crop_n_points_downscale_factor: divides ``points_per_side`` from layer to layer.
        images_per_batch: pictures encoded together on a CUDA device; one on the CPU, where more is
            no faster. Halved like ``points_per_batch``.
        dtype: of the image encoder's products (autocast); the rest is float32.
    """

    kind: Literal["segments"] = "segments"

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
        self._encoded_together = self.images_per_batch
        self.dtype = dtype
        self._network = network
        self._decoder = PromptDecoder(network)
        self._resize = ResizeLongestSide(network.image_encoder.img_size)
        self._grids = build_all_layer_point_grids(
            points_per_side, crop_n_layers, crop_n_points_downscale_factor
        )

    def generate(self, image: np.ndarray) -> np.ndarray:
        """Segment one image.

        Args:
            image: ``(H, W, 3)`` uint8 RGB.

        Returns:
            ``(H, W)`` uint16 ids, canonical: of overlapping masks the smaller lies on top, and 0
            is under no mask (everywhere, if no mask passes the thresholds).

        Raises:
            DataError: more segments than a 16-bit map can hold, or no memory for a single prompt.
        """
        return self.generate_batch([image])[0]

    @torch.no_grad()
    def generate_batch(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Segment several images; each as ``generate`` would, but for rounding."""
        maps = []
        for image, (masks, frames) in zip(images, self._find(images), strict=True):
            ids = paint(masks, frames, image.shape[:2], self._network.mask_threshold)
            maps.append(canonical(ids.cpu().numpy()))
        return maps

    @torch.no_grad()
    def find_masks(self, image: np.ndarray) -> Masks:
        """The masks that ``generate`` paints, best rated first; see ``generate`` for the image."""
        return self._find([image])[0][0]

    def _find(self, images: Sequence[np.ndarray]) -> list[tuple[Masks, list[Frame]]]:
        """Masks of each image, and the crops they belong to."""
        crops = []  # of all images: index of the image, box, layer
        for index, image in enumerate(images):
            boxes = generate_crop_boxes(
                image.shape[:2], self.crop_n_layers, self.crop_overlap_ratio
            )
            crops += [(index, box, layer) for box, layer in zip(*boxes, strict=True)]
        pictures = [images[i][y0:y1, x0:x1] for i, (x0, y0, x1, y1), _ in crops]
        found: list[tuple[list[Masks], list[Frame]]] = [([], []) for _ in images]
        for (index, box, layer), embedding in zip(crops, self._encode(pictures), strict=True):
            masks, frames = found[index]
            frames.append(self._frame(box))
            size = images[index].shape[:2]
            masks.append(self._search(embedding, frames[-1], len(frames) - 1, layer, size))
        return [(self._merge(masks, frames), frames) for masks, frames in found]

    def _encode(self, pictures: list[np.ndarray]) -> list[Tensor]:
        """Image embeddings, ``(C, h, w)`` float32 each."""
        embeddings: list[Tensor] = []
        while len(embeddings) < len(pictures):
            first = len(embeddings)

            def compute(size: int, first: int = first) -> Tensor:
                batch = [self._preprocess(p) for p in pictures[first : first + size]]
                with torch.autocast(self.device.type, self.dtype, self.dtype != torch.float32):
                    return encode(self._network.image_encoder, torch.cat(batch)).float()

            self._encoded_together, batch = self._halving(self._encoded_together, compute)
            embeddings += batch.unbind()
        return embeddings

    def _preprocess(self, picture: np.ndarray) -> Tensor:
        """The package's own steps: Pillow's bilinear resize, normalise, pad."""
        resized = torch.from_numpy(self._resize.apply_image(picture))
        pixels = resized.to(self.device).permute(2, 0, 1).unsqueeze(0)
        return self._network.preprocess(pixels)

    def _frame(self, box: list[int]) -> Frame:
        x0, y0, x1, y1 = box
        height, width = y1 - y0, x1 - x0
        side = self._network.image_encoder.img_size
        used = self._resize.get_preprocess_shape(height, width, side)
        coarse = [4 * length for length in self._network.prompt_encoder.image_embedding_size]
        rows, columns = (
            resampling(coarse[axis], side, used[axis], length, self.device)
            for axis, length in enumerate((height, width))
        )
        return Frame(y0, x0, height, width, rows, columns)

    def _search(
        self, embedding: Tensor, frame: Frame, number: int, layer: int, size: tuple[int, int]
    ) -> Masks:
        """Masks of one crop: of all prompts, less the unsure, the unstable and the double ones."""
        crop_size = (frame.height, frame.width)
        points = self._grids[layer] * np.array(crop_size)[None, ::-1]
        prompts = torch.from_numpy(self._resize.apply_coords(points, crop_size)).to(self.device)
        self.points_per_batch, found = self._halving(
            self.points_per_batch,
            lambda count: self._decoder.decode(embedding, prompts, self.pred_iou_thresh, count),
        )
        corner = torch.tensor([frame.left, frame.top], device=self.device)
        masks = Masks(
            coarse=found.logits,
            frame=torch.full_like(found.prompt, number),
            boxes=found.prompt.new_zeros(len(found.prompt), 4),
            areas=torch.zeros_like(found.prompt),
            iou=found.iou,
            stability=torch.zeros_like(found.iou),
            points=torch.from_numpy(points).to(self.device)[found.prompt] + corner,
        )
        masks = measure(
            masks,
            frame,
            self._network.mask_threshold,
            self.stability_score_offset,
            self.stability_score_thresh,
        )
        masks = drop_cut_off(masks, frame, size)
        return suppress(masks, masks.iou, self.box_nms_thresh)

    def _merge(self, parts: list[Masks], frames: list[Frame]) -> Masks:
        """The masks of all crops, without doubles; those of smaller crops are preferred."""
        masks = Masks.join(parts)
        if len(frames) == 1:
            return masks
        areas = torch.tensor([f.height * f.width for f in frames], device=self.device)
        return suppress(masks, 1 / areas[masks.frame], self.crop_nms_thresh)

    def _halving(self, size: int, compute: Callable[[int], T]) -> tuple[int, T]:
        """``compute(size)``, with half the size as long as the device has not enough memory."""
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


RANDOM = "random"


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
        with torch.device("meta"):  # vit_h is never initialised at random first
            network = sam_model_registry[model_type]()
        digest = load_official_weights(network, checkpoint, official_sam(model_type))
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
