"""SAM's mask decoder for many point prompts on one image, on the package's own weights.

Source: Kirillov et al., "Segment Anything", ICCV 2023, appendix A (mask decoder) and figure 14.

The same function as the package's, up to rounding, with a fraction of the operations. ``N`` image
tokens (4096) have ``C`` channels (256), a prompt has ``T`` tokens (7):

- Attention between the tokens of a prompt and the image projects the few prompt tokens instead of
  the many image tokens, by associativity of the matrix products.
- Before the first layer all prompts have the same image tokens, which are projected once. So is
  the position encoding of the image in every layer.
- The predicted IoU depends on one token of the last attention. The other tokens, and the upscaling,
  the costlier half, are computed only for prompts with a mask above the threshold.
- On the CPU few prompts are computed together, so that their image tokens stay in the cache.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from segment_anything.modeling import MaskDecoder
from segment_anything.modeling import Sam as SamNetwork
from segment_anything.modeling.transformer import Attention
from torch import Tensor, nn


class ToImage:
    """Attention of the prompt tokens to the image, equal to the package's ``Attention``."""

    def __init__(self, attention: Attention) -> None:
        self._attention = attention
        self._heads = attention.num_heads
        self._scale = (attention.internal_dim // self._heads) ** -0.5
        self._to_key = _by_head(attention.k_proj.weight, self._heads)
        self._to_value = _by_head(attention.v_proj.weight, self._heads).transpose(1, 2).contiguous()
        self._value_bias = attention.v_proj.bias

    def fixed(self, keys: Tensor, values: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the part of keys and values that all prompts share, from ``(N, C)``.

        The bias of the keys adds a constant to all scores of a token, so softmax ignores it.
        """
        shared = self._to_key @ keys.T
        return shared, None if values is None else values @ self._to_value

    def __call__(self, query: Tensor, keys: Tensor, fixed: tuple[Tensor, Tensor | None]) -> Tensor:
        """Attend with ``(B, T, C)`` queries to ``(B, N, C)`` image tokens -> ``(B, T, C)``."""
        batch, num_tokens, _ = query.shape
        key, value = fixed
        q = self._attention.q_proj(query) * self._scale
        q = q.view(batch, num_tokens, self._heads, -1).permute(2, 0, 1, 3)  # (h, B, T, c)
        scores = (q.flatten(1, 2) @ key).view(self._heads, batch, num_tokens, -1)
        if value is not None:  # the image tokens are shared: nothing else to add
            seen = scores.softmax(-1).flatten(1, 2) @ value  # (h, B*T, c)
            seen = seen.view(self._heads, batch, num_tokens, -1).permute(1, 2, 0, 3)
        else:
            # Project the queries back to C channels instead of the keys to c, and add the scores.
            vectors = (q.flatten(1, 2) @ self._to_key).view(*q.shape[:3], -1).transpose(0, 1)
            mine = vectors.flatten(1, 2) @ keys.transpose(1, 2)  # (B, h*T, N)
            mine.view(batch, self._heads, num_tokens, -1).add_(scores.transpose(0, 1))
            # Average the image tokens first, and project the T averages to values.
            means = mine.softmax(-1) @ keys
            means = means.view(batch, self._heads, num_tokens, -1)
            seen = (means @ self._to_value).transpose(1, 2)  # (B, T, h, c)
        return self._attention.out_proj(seen.flatten(2) + self._value_bias)


class ToTokens:
    """Attention of the image to the prompt tokens, including the residual connection."""

    def __init__(self, attention: Attention) -> None:
        self._attention = attention
        self._heads = attention.num_heads
        self._scale = (attention.internal_dim // self._heads) ** -0.5
        self._to_query = _by_head(attention.q_proj.weight, self._heads)
        self._query_bias = attention.q_proj.bias.view(self._heads, -1, 1)
        out = attention.out_proj.weight
        self._to_out = out.T.reshape(self._heads, -1, out.shape[0]).contiguous()
        # The attention weights of a head sum to 1, so the bias can be divided among the heads.
        self._out_bias = attention.out_proj.bias / self._heads

    def fixed(self, queries: Tensor) -> Tensor:
        """Return the shared part of the queries, ``(N, C)`` -> ``(heads, c, N)``."""
        return self._to_query @ queries.T + self._query_bias

    def __call__(
        self, key: Tensor, value: Tensor, queries: Tensor, fixed: Tensor, complete: bool
    ) -> Tensor:
        """Attend with image tokens ``(B or 1, N, C)`` to ``(B, T, C)`` -> ``(B, N, C)``.

        Image tokens of the prompts' own (B of them) are overwritten by the result.

        Args:
            key: prompt tokens with their position encoding.
            value: prompt tokens.
            queries: image tokens.
            fixed: shared part of the queries.
            complete: True if ``fixed`` is all of the queries.
        """
        batch, num_tokens, _ = key.shape
        k = self._attention.k_proj(key) * self._scale
        k = k.view(batch, num_tokens, self._heads, -1).permute(2, 0, 1, 3)  # (h, B, T, c)
        scores = (k.flatten(1, 2) @ fixed).view(self._heads, batch, num_tokens, -1).transpose(0, 1)
        if not complete:
            vectors = (k.flatten(1, 2) @ self._to_query).view(*k.shape[:3], -1).transpose(0, 1)
            mine = (vectors.flatten(1, 2) @ queries.transpose(1, 2)).view(scores.shape)
            scores = mine.add_(scores)
        weights = scores.softmax(2).flatten(1, 2)  # (B, h*T, N)
        # Project the values of the T tokens to the output, then distribute them to the N pixels.
        v = self._attention.v_proj(value).view(batch, num_tokens, self._heads, -1).transpose(1, 2)
        out = (v @ self._to_out + self._out_bias).flatten(1, 2)  # (B, h*T, C)
        if complete:  # the image's own tokens, which other prompts need too
            return torch.baddbmm(queries.expand(batch, -1, -1), weights.mT, out)
        return queries.baddbmm_(weights.mT, out)


def _by_head(weight: Tensor, num_heads: int) -> Tensor:
    """Split the weights of a linear layer by head, ``(heads * c, C)`` -> ``(heads, c, C)``."""
    return weight.view(num_heads, -1, weight.shape[1])


_CPU_CHUNK = 8  # prompts; the image tokens of one are 4 MB


class PromptDecoder:
    """The prompt encoder and mask decoder of a SAM network, for single foreground points.

    Args:
        network: the package's network, of which only the parameters are used.
    """

    def __init__(self, network: SamNetwork) -> None:
        self._prompts = network.prompt_encoder
        self._decoder = network.mask_decoder
        transformer = self._decoder.transformer
        self._layers = list(transformer.layers)
        self._to_image = [ToImage(layer.cross_attn_token_to_image) for layer in self._layers]
        self._to_tokens = [ToTokens(layer.cross_attn_image_to_token) for layer in self._layers]
        self._final = ToImage(transformer.final_attn_token_to_image)
        self._norm_final = transformer.norm_final_attn
        self._upscaling = _Upscaling(self._decoder)

    def decode(
        self, embedding: Tensor, points: Tensor, iou_thresh: float, points_per_batch: int
    ) -> tuple[Tensor, Tensor]:
        """Decode the masks of an image at points.

        Args:
            embedding: ``(C, h, w)`` float32 from the image encoder.
            points: ``(P, 2)`` x, y in pixels of the encoder's picture.
            iou_thresh: masks with a higher predicted IoU are kept; 0 or less: all.
            points_per_batch: maximum number of prompts computed together.

        Returns:
            Logits ``(K, h, w)`` float32, of four times the embedding's height and width, and
            predicted IoU ``(K,)`` float32 of the masks kept, in the order of the prompts.
        """
        image = self._project(embedding)
        labels = torch.ones(len(points), 1, dtype=torch.int, device=points.device)
        sparse, _ = self._prompts(points=(points[:, None], labels), boxes=None, masks=None)
        chunk = points_per_batch if embedding.is_cuda else min(points_per_batch, _CPU_CHUNK)
        parts = [self._decode_chunk(image, part, iou_thresh) for part in sparse.split(chunk)]
        logits, iou = (torch.cat(column) for column in zip(*parts, strict=True))
        return logits, iou

    def _project(self, embedding: Tensor) -> "_Image":
        """Compute the parts that all prompts on an image share."""
        dense = self._prompts.no_mask_embed.weight[0]
        keys = embedding.flatten(1).T + dense
        place = self._prompts.get_dense_pe()[0].flatten(1).T
        later = range(1, len(self._layers))
        return _Image(
            height=embedding.shape[1],
            width=embedding.shape[2],
            keys=keys.unsqueeze(0),
            for_tokens=[
                self._to_image[0].fixed(keys + place, keys),
                *(self._to_image[index].fixed(place) for index in later),
                self._final.fixed(place),
            ],
            for_image=[
                (self._to_tokens[0].fixed(keys + place), True),
                *((self._to_tokens[index].fixed(place), False) for index in later),
            ],
        )

    def _decode_chunk(
        self, image: "_Image", sparse: Tensor, iou_thresh: float
    ) -> tuple[Tensor, Tensor]:
        decoder = self._decoder
        output = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        start = torch.cat([output.expand(len(sparse), -1, -1), sparse], 1)
        tokens, keys = self._two_way(image, start)
        num_masks = decoder.num_multimask_outputs
        iou_token = self._last(image, tokens[:, :1], start[:, :1], keys)
        iou = decoder.iou_prediction_head(iou_token[:, 0])[:, 1 : 1 + num_masks]
        keep = iou > iou_thresh if iou_thresh > 0 else torch.ones_like(iou, dtype=torch.bool)
        some = keep.any(1).nonzero()[:, 0]
        which, mask = keep[some].nonzero(as_tuple=True)
        side = (4 * image.height, 4 * image.width)
        if not len(some):
            return keys.new_zeros(0, *side), iou[keep]
        mask_tokens = slice(2, 2 + num_masks)  # after the IoU's and the single mask's
        tokens = self._last(image, tokens[some, mask_tokens], start[some, mask_tokens], keys[some])
        networks = decoder.output_hypernetworks_mlps[1:]
        weights = torch.stack([mlp(tokens[:, i]) for i, mlp in enumerate(networks)], 1)
        logits = self._upscaling(keys[some], weights)[which, mask]
        return _in_rows(logits, image.height, image.width), iou[keep]

    def _two_way(self, image: "_Image", start: Tensor) -> tuple[Tensor, Tensor]:
        """Apply the layers; return prompt tokens ``(B, T, C)`` and image tokens ``(B, N, C)``."""
        tokens, keys = start, image.keys
        for index, layer in enumerate(self._layers):
            if layer.skip_first_layer_pe:
                tokens = layer.norm1(layer.self_attn(q=tokens, k=tokens, v=tokens))
            else:
                query = tokens + start
                tokens = layer.norm1(tokens + layer.self_attn(q=query, k=query, v=tokens))
            change = self._to_image[index](tokens + start, keys, image.for_tokens[index])
            tokens = layer.norm2(tokens + change)
            tokens = layer.norm3(tokens + layer.mlp(tokens))
            attend = self._to_tokens[index]
            keys = layer.norm4(attend(tokens + start, tokens, keys, *image.for_image[index]))
        return tokens, keys

    def _last(self, image: "_Image", tokens: Tensor, start: Tensor, keys: Tensor) -> Tensor:
        """Apply the final attention to the image, for some of the tokens."""
        change = self._final(tokens + start, keys, image.for_tokens[-1])
        return self._norm_final(tokens + change)


@dataclass(frozen=True)
class _Image:
    """Parts of the computation that all prompts on an image share.

    Attributes:
        height: height of the image embedding.
        width: width of the image embedding.
        keys: ``(1, N, C)`` image tokens before the first layer.
        for_tokens: for each attention of the tokens to the image, the shared part of the keys
            ``(heads, c, N)`` (position and image in the first layer, then position) and, in the
            first layer, the values ``(heads, N, c)``.
        for_image: for each attention of the image to the tokens, the shared part of the queries
            ``(heads, c, N)``, and True if that is all of them.
    """

    height: int
    width: int
    keys: Tensor
    for_tokens: list[tuple[Tensor, Tensor | None]]
    for_image: list[tuple[Tensor, bool]]


class _Upscaling:
    """Upscaling of the image tokens by four, and masks from the result.

    A transposed convolution whose stride is its kernel size is a linear layer for each token. Its
    outputs stay grouped by token; only the masks, a tenth of the size, are put in raster order.
    """

    def __init__(self, decoder: MaskDecoder) -> None:
        first, self._norm, self._act1, second, self._act2 = decoder.output_upscaling
        self._linear = [_as_linear(first), _as_linear(second)]

    def __call__(self, keys: Tensor, weights: Tensor) -> Tensor:
        """Return logits ``(B, M, N * 16)`` of tokens ``(B, N, C)`` and weights ``(B, M, C')``."""
        norm = self._norm
        x = F.linear(keys, *self._linear[0]).unflatten(-1, (4, -1))
        x = F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps)
        x = self._act2(F.linear(self._act1(x), *self._linear[1])).unflatten(-1, (4, -1))
        return weights @ x.flatten(1, 3).mT


def _in_rows(logits: Tensor, height: int, width: int) -> Tensor:
    """Arrange sixteen logits per image token, ``(K, N * 16)``, as pictures ``(K, 4h, 4w)``."""
    logits = logits.view(-1, height, width, 2, 2, 2, 2)
    return logits.permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, 4 * height, 4 * width)


def _as_linear(convolution: nn.ConvTranspose2d) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the linear layer from an input to its 2 x 2 outputs."""
    weight = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous()
    assert convolution.bias is not None
    return weight, convolution.bias.repeat(4)
