"""Attention between a few tokens and many image tokens, on the weights of SAM's mask decoder.

Source: Kirillov et al., "Segment Anything", ICCV 2023, appendix A (mask decoder); Vaswani et al.,
"Attention Is All You Need", NeurIPS 2017, equation 1.

With ``T`` tokens a prompt (7), ``h`` heads of ``c`` channels (8 of 16), ``N`` image tokens (4096)
of ``C`` channels (256), a score is ``(W_q t) . (W_k x_n)`` and equals ``(W_k^T W_q t) . x_n``: the
image tokens meet ``hT = 56`` vectors of C channels instead of a C x hc matrix. In the same way a
weighted sum of ``W_v x_n`` is ``W_v`` times the weighted sum of x_n, and what attention adds to an
image token is a weighted sum of ``W_o W_v t``.
"""

import torch
from segment_anything.modeling.transformer import Attention
from torch import Tensor


class ToImage:
    """Attention of the tokens to the image (the package's ``Attention``, its short side first)."""

    def __init__(self, attention: Attention) -> None:
        self._attention = attention
        self._heads = attention.num_heads
        self._scale = (attention.internal_dim // self._heads) ** -0.5
        self._to_key = _by_head(attention.k_proj.weight, self._heads)
        self._to_value = _by_head(attention.v_proj.weight, self._heads).transpose(1, 2).contiguous()
        self._value_bias = attention.v_proj.bias

    def fixed(self, keys: Tensor, values: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The part of keys and values that all prompts share, from ``(N, C)``.

        The bias of the keys adds the same to all scores of a token, so softmax ignores it.
        """
        shared = self._to_key @ keys.T
        return shared, None if values is None else values @ self._to_value

    def __call__(self, query: Tensor, keys: Tensor, fixed: tuple[Tensor, Tensor | None]) -> Tensor:
        """``(B, T, C)`` queries on ``(B, N, C)`` image tokens -> ``(B, T, C)``."""
        batch, num_tokens, _ = query.shape
        key, value = fixed
        q = self._attention.q_proj(query) * self._scale
        q = q.view(batch, num_tokens, self._heads, -1).permute(2, 0, 1, 3)  # (h, B, T, c)
        scores = (q.flatten(1, 2) @ key).view(self._heads, batch, num_tokens, -1)
        if value is not None:
            seen = scores.softmax(-1).flatten(1, 2) @ value  # (h, B*T, c)
            seen = seen.view(self._heads, batch, num_tokens, -1).permute(1, 2, 0, 3)
        else:
            vectors = (q.flatten(1, 2) @ self._to_key).view(*q.shape[:3], -1).transpose(0, 1)
            mine = vectors.flatten(1, 2) @ keys.transpose(1, 2)  # (B, h*T, N)
            mine.view(batch, self._heads, num_tokens, -1).add_(scores.transpose(0, 1))
            means = mine.softmax(-1) @ keys
            means = means.view(batch, self._heads, num_tokens, -1)
            seen = (means @ self._to_value).transpose(1, 2)  # (B, T, h, c)
        return self._attention.out_proj(seen.flatten(2) + self._value_bias)


class ToTokens:
    """Attention of the image to the tokens, with the residual around it."""

    def __init__(self, attention: Attention) -> None:
        self._attention = attention
        self._heads = attention.num_heads
        self._scale = (attention.internal_dim // self._heads) ** -0.5
        self._to_query = _by_head(attention.q_proj.weight, self._heads)
        self._query_bias = attention.q_proj.bias.view(self._heads, -1, 1)
        out = attention.out_proj.weight
        self._to_out = out.T.reshape(self._heads, -1, out.shape[0]).contiguous()
        # The weights of a head sum to 1, so each head may carry its share of the bias.
        self._out_bias = attention.out_proj.bias / self._heads

    def fixed(self, queries: Tensor) -> Tensor:
        """The part of the queries that all prompts share, from ``(N, C)``: ``(heads, c, N)``."""
        return self._to_query @ queries.T + self._query_bias

    def __call__(
        self, key: Tensor, value: Tensor, queries: Tensor, fixed: Tensor, complete: bool
    ) -> Tensor:
        """``(B, T, C)`` keys and values, ``(B or 1, N, C)`` image tokens -> ``(B, N, C)``.

        With several prompts' own image tokens the result is written over them.
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
        v = self._attention.v_proj(value).view(batch, num_tokens, self._heads, -1).transpose(1, 2)
        out = (v @ self._to_out + self._out_bias).flatten(1, 2)  # (B, h*T, C)
        if complete:  # the image's own tokens, which other prompts need too
            return torch.baddbmm(queries.expand(batch, -1, -1), weights.mT, out)
        return queries.baddbmm_(weights.mT, out)


def _by_head(weight: Tensor, num_heads: int) -> Tensor:
    """``(heads * c, C)`` weights of a linear layer -> ``(heads, c, C)``."""
    return weight.view(num_heads, -1, weight.shape[1])
