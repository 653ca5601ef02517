"""SAM's image encoder on the package's own modules, without an attention matrix in memory.

Source: Kirillov et al., "Segment Anything", ICCV 2023, appendix A (image encoder): a plain ViT with
windowed and a few global attention layers (Li et al., "Exploring Plain Vision Transformer Backbones
for Object Detection", ECCV 2022) and decomposed relative positions (Li et al., "MViTv2", CVPR
2022, section 4.1).

The same function as the package's, up to rounding, but cheaper:

- Attention is fused. The bias of the relative positions is computed for a slice of the queries at a
  time; the package keeps several ``heads x 4096 x 4096`` matrices (vit_b: 805 MB each).
- In windowed layers the padding, a sixth of the tokens, skips the linear layers: the output of the
  first for zeros is its bias, and the output of the last is cropped.
"""

import torch
import torch.nn.functional as F
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Attention
from torch import Tensor

# Rows of queries that share one bias matrix; of vit_b in fp32 a row takes 12.6 MB.
_SLICE_ROWS = {"cpu": 2, "cuda": 16}


def encode(encoder: ImageEncoderViT, pictures: Tensor) -> Tensor:
    """Compute image embeddings.

    Args:
        encoder: the package's image encoder; only its parameters are used.
        pictures: ``(B, 3, S, S)`` float, normalised and padded; S is the encoder's ``img_size``.

    Returns:
        ``(B, C, S / patch, S / patch)``.
    """
    x = encoder.patch_embed(pictures)
    if encoder.pos_embed is not None:
        x = x + encoder.pos_embed
    for block in encoder.blocks:
        x = x + _attend(block.attn, block.norm1(x), block.window_size)
        x = x + block.mlp(block.norm2(x))
    return encoder.neck(x.permute(0, 3, 1, 2))


def _attend(attention: Attention, x: Tensor, window: int) -> Tensor:
    """Apply multi-head attention, global (``window`` 0) or in windows, to ``(B, H, W, C)``."""
    batch, height, width, channels = x.shape
    qkv = attention.qkv(x)
    if window == 0:
        out = _attend_all(attention, qkv)
    else:
        down, right = -height % window, -width % window
        if down or right:
            qkv = _pad_with_bias(qkv, attention.qkv.bias, down, right)
        rows, columns = (height + down) // window, (width + right) // window
        qkv = qkv.view(batch, rows, window, columns, window, 3 * channels)
        out = _attend_all(attention, qkv.transpose(2, 3).reshape(-1, window, window, 3 * channels))
        out = out.view(batch, rows, columns, window, window, channels).transpose(2, 3)
        out = out.reshape(batch, height + down, width + right, channels)[:, :height, :width]
    return attention.proj(out)


def _pad_with_bias(qkv: Tensor, bias: Tensor | None, down: int, right: int) -> Tensor:
    """Pad with the linear layer's output for zeros, its bias; padding takes part in attention."""
    batch, height, width, channels = qkv.shape
    padded = qkv.new_zeros(batch, height + down, width + right, channels)
    if bias is not None:
        padded += bias
    padded[:, :height, :width] = qkv
    return padded


def _attend_all(attention: Attention, qkv: Tensor) -> Tensor:
    """Apply attention of all tokens to all tokens, ``(B, H, W, 3C)`` -> ``(B, H, W, C)``."""
    batch, height, width, _ = qkv.shape
    q, k, v = qkv.view(batch, height * width, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    if not attention.use_rel_pos:
        out = F.scaled_dot_product_attention(q, k, v, scale=attention.scale)
    else:
        grid = q.view(*q.shape[:2], height, width, q.shape[-1])
        # Bias of a query at (h, w) for keys in row k, and in column k: (B, heads, H, W, k).
        rows = torch.einsum("bnhwc,hkc->bnhwk", grid, _offsets(attention.rel_pos_h, height))
        columns = torch.einsum("bnhwc,wkc->bnhwk", grid, _offsets(attention.rel_pos_w, width))
        slices = []
        step = _SLICE_ROWS["cuda" if qkv.is_cuda else "cpu"]
        for top in range(0, height, step):
            part = slice(top, top + step)
            bias = (rows[:, :, part, :, :, None] + columns[:, :, part, :, None, :]).flatten(4)
            queries = grid[:, :, part].flatten(2, 3)
            slices.append(
                F.scaled_dot_product_attention(
                    queries, k, v, attn_mask=bias.flatten(2, 3), scale=attention.scale
                )
            )
        out = torch.cat(slices, 2)
    return out.transpose(1, 2).reshape(batch, height, width, -1)


def _offsets(table: Tensor, length: int) -> Tensor:
    """Return the relative-position vector of each pair (query, key) on an axis, ``(L, L, c)``."""
    if table.shape[0] != 2 * length - 1:  # another picture size than the one trained on
        table = F.interpolate(table.T.unsqueeze(0), size=2 * length - 1, mode="linear")[0].T
    place = torch.arange(length, device=table.device)
    return table[place[:, None] - place + length - 1]
