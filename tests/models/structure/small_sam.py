"""SAM networks with fixed random weights, and picture and settings that give many masks."""

import numpy as np
import torch
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)

from benchmarks.lively_sam import enliven
from models.structure.sam_masks import Masks

LOOSE = {
    "points_per_side": 8,
    "pred_iou_thresh": -10.0,
    "stability_score_thresh": 0.3,
    "box_nms_thresh": 0.9,
}


def small_sam(**encoder) -> Sam:
    """A SAM of 64 px, untrained."""
    settings = {
        "img_size": 64,
        "patch_size": 8,
        "embed_dim": 32,
        "depth": 2,
        "num_heads": 2,
        "out_chans": 32,
        "use_rel_pos": True,
        "window_size": 3,
        "global_attn_indexes": (1,),
    }
    return Sam(
        ImageEncoderViT(**{**settings, **encoder}),
        PromptEncoder(
            embed_dim=32, image_embedding_size=(8, 8), input_image_size=(64, 64), mask_in_chans=4
        ),
        MaskDecoder(
            transformer_dim=32,
            transformer=TwoWayTransformer(depth=2, embedding_dim=32, mlp_dim=48, num_heads=4),
            iou_head_hidden_dim=16,
        ),
    )


def random_sam(seed: int = 1, **encoder) -> Sam:
    """The same with fixed weights that give masks of many shapes."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # also the buffer of the position encoding is random
        network = small_sam(**encoder)
    pixels = torch.from_numpy(picture(64, 64)).permute(2, 0, 1).unsqueeze(0)
    return enliven(network, network.preprocess(pixels), seed=seed)


@torch.no_grad()
def find_masks(generator, image: np.ndarray) -> Masks:
    """The masks that ``Sam.generate`` paints."""
    return generator._find([image])[0][0]


def picture(height: int = 48, width: int = 64) -> np.ndarray:
    """Noise, ``(height, width, 3)`` uint8."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
