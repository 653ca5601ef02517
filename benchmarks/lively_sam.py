"""Random weights that make SAM find blobs, for tests and benchmarks without the official files.

A freshly initialised SAM gives every prompt the same mask: all of the image or nothing. Here image
tokens attend to the prompt near them, and the mask head is adjusted so that pixels without a
distinctive feature are outside. Masks are then many, local and of all sizes, but meaningless.
"""

import math

import torch
from segment_anything.modeling import Sam
from torch import Tensor

from models.structure.sam_encoder import encode


def enliven(network: Sam, picture: Tensor, *, seed: int = 0, contrast: float = 60.0) -> Sam:
    """Give a network such weights, in place.

    Args:
        network: any SAM.
        picture: ``(1, 3, S, S)`` normalised picture to which the mask head is adjusted.
        seed: seed of the weights.
        contrast: standard deviation of the mask logits.

    Returns:
        The network in eval mode, without gradients.
    """
    network.eval().requires_grad_(False)
    rng = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        if "norm" in name or "neck.1" in name or "neck.3" in name:
            continue
        is_matrix = parameter.dim() > 1 and "embed" not in name and "token" not in name
        fan_in = parameter[0].numel() if is_matrix else 100
        parameter.copy_(torch.randn(parameter.shape, generator=rng) / math.sqrt(fan_in))
    decoder = network.mask_decoder
    for index in (0, 3):  # make the four pixels of an image token nearly equal
        weight = decoder.output_upscaling[index].weight
        weight.copy_(0.05 * weight + weight[:, :, :1, :1] * math.sqrt(weight.shape[1]))
    for layer in decoder.transformer.layers:
        attention = layer.cross_attn_image_to_token
        attention.q_proj.weight *= 4
        attention.k_proj.weight.copy_(attention.q_proj.weight)
        attention.out_proj.weight *= 4
    _turn_mask_head(network, picture, contrast)
    return network


def _turn_mask_head(network: Sam, picture: Tensor, contrast: float) -> None:
    """Scale the logits to the contrast, and shift their mean to a fifth of it below 0."""
    decoder, features = network.mask_decoder, []
    hook = decoder.output_upscaling.register_forward_hook(lambda *call: features.append(call[2]))
    embedding = encode(network.image_encoder, picture)
    _decode(network, embedding)
    hook.remove()
    means = features[0].mean((2, 3))  # of each prompt
    common = torch.linalg.svd(means, full_matrices=False).Vh[: means.shape[1] // 4]
    last = [mlp.layers[-1] for mlp in decoder.output_hypernetworks_mlps]
    for layer in last:  # remove the components that all pixels of a prompt share
        layer.weight -= common.T @ (common @ layer.weight)
        layer.bias.zero_()
    logits, mean = _decode(network, embedding), means.mean(0)
    for layer in last:
        layer.weight *= contrast / logits.std()
        layer.bias.copy_(-0.2 * contrast * mean / mean.dot(mean))


def _decode(network: Sam, embedding: Tensor) -> Tensor:
    """Return the mask logits of a picture at a few points."""
    side = network.image_encoder.img_size
    ticks = torch.arange(1, 5, device=embedding.device) * side / 5
    points = torch.cartesian_prod(ticks, ticks).unsqueeze(1)
    labels = torch.ones(len(points), 1, dtype=torch.int, device=embedding.device)
    sparse, dense = network.prompt_encoder(points=(points, labels), boxes=None, masks=None)
    logits, _ = network.mask_decoder(
        image_embeddings=embedding,
        image_pe=network.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=True,
    )
    return logits
