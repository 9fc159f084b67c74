"""The mask decoder for inference on the CPU: the algebra of `decoder_folded`, with native passes over image tokens.

Between two looks at the image, the tokens of several prompts go through PyTorch together. Image tokens are visited
twice per prompt, tile by tile (`ops.decoder_first_pass`, `ops.decoder_pass`), and a third time for prompts with masks
that somebody wants (`ops.decoder_upscale`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import ops
from ..ops._decoder.panels import PANEL, count_panels, to_panels
from .common import LayerNorm2d
from .mask_decoder import NUM_MASK_TOKENS, DecoderAttention, MaskDecoder

# Prompts decoded together: 128 MiB of image tokens at 64 x 64 x 256. Fewer would make more and smaller steps for the
# tokens in PyTorch; 8 and 16 were measured to be slower.
PROMPTS_PER_CHUNK = 32
# Prompts whose image tokens are kept for masks that may be asked for later; the others are decoded a second time.
PROMPTS_KEPT = 32


class TiledImage:
    """What the decoder needs of one image, made once for all its prompts. The arguments are those of `FoldedImage`."""

    def __init__(self, decoder: MaskDecoder, embedding: Tensor, position: Tensor, dense: Tensor) -> None:
        first = decoder.transformer.blocks[0]
        self.decoder = decoder
        self.grid: tuple[int, int] = (embedding.shape[-2], embedding.shape[-1])
        source = (embedding + dense)[0].flatten(1).T  # (L, C)
        pe = position[0].flatten(1).T
        placed = (source + pe).contiguous()
        self.length = len(source)
        self.source, self.position = to_panels(source), to_panels(pe)
        look = first.cross_attn_token_to_image
        self.first_keys = to_panels(look.k_proj(placed))
        values = look.v_proj(source.contiguous()).unflatten(-1, (look.num_heads, -1)).transpose(0, 1)  # (heads, L, d)
        wide = count_panels(look.head_dim) * PANEL - look.head_dim
        self.first_values = F.pad(values, (0, wide, 0, count_panels(self.length) * PANEL - self.length)).contiguous()
        self.first_queries = to_panels(first.cross_attn_image_to_token.q_proj(placed))
        enlarge, norm, _, enlarge_more, _ = decoder.output_upscaling
        norm = cast(LayerNorm2d, norm)
        self.upscaling = (*_as_matrix(enlarge), norm.weight, norm.bias, norm.eps, *_as_matrix(enlarge_more))
        # Memory of a chunk's image tokens, kept from call to call: touching fresh pages takes longer than a pass.
        self._spare: list[Tensor] = []

    def decode(self, sparse: Tensor, masks: Sequence[int] = (), above: float | None = None) -> TiledPrompts:
        """Decode prompts, and make the masks that will be wanted while their image tokens are at hand.

        sparse: prompt tokens (N, T, C). masks: mask tokens of [0, 4) to make at once, for the prompts where their
        predicted IoU is greater than `above`, or for all. Others can still be asked for, at the price of decoding
        their prompts again, once there are more than a few dozen of them.
        """
        decoded = TiledPrompts(self, sparse, masks)
        for start in range(0, len(sparse), PROMPTS_PER_CHUNK):
            decoded.add(start, sparse[start : start + PROMPTS_PER_CHUNK], above)
        return decoded

    def decode_chunk(self, sparse: Tensor) -> tuple[Tensor, Tensor]:
        """(n, T, C) to final tokens (n, 5 + T, C) and image tokens (n, panels, C, 16), to be given back."""
        transformer = self.decoder.transformer
        first, second = transformer.blocks
        tokens = self.decoder.tokens(sparse)
        shape = tokens.shape
        queries = first.attend_self(tokens, tokens)
        look = first.cross_attn_token_to_image
        q = _by_head(look, look.q_proj(queries + tokens)).contiguous() * look.head_dim**-0.5
        seen = ops.decoder_first_look(q, self.first_keys, self.first_values, self.length)
        queries = first.update_tokens(queries, look.out_proj(_by_row(seen, shape)))
        answer, look = first.cross_attn_image_to_token, second.cross_attn_token_to_image
        keys = _by_head(answer, answer.k_proj(queries + tokens)) * answer.head_dim**-0.5
        values = _answer_values(answer, queries)
        queries = second.attend_self(queries, tokens)
        looks = _look(look, queries + tokens)
        image = self._take(len(sparse))
        gathered = ops.decoder_first_pass(
            self.source,
            self.position,
            self.first_queries,
            _by_prompt(keys, shape),
            _by_prompt(values, shape),
            *_norm(first.norm4),
            _by_prompt(looks, shape),
            self.length,
            image,
        )
        queries = second.update_tokens(queries, _seen(look, gathered, shape))
        answer, look = second.cross_attn_image_to_token, transformer.final_attn_token_to_image
        keys = _by_head(answer, answer.k_proj(queries + tokens)) * answer.head_dim**-0.5
        key_bias = keys @ answer.q_proj.bias.view(answer.num_heads, answer.head_dim, 1)
        keys = keys @ answer.q_proj.weight.view(answer.num_heads, answer.head_dim, -1)
        values, looks = _answer_values(answer, queries), _look(look, queries + tokens)
        gathered = ops.decoder_pass(
            image,
            self.position,
            _by_prompt(keys, shape),
            _by_prompt(key_bias, shape)[..., 0],
            _by_prompt(values, shape),
            *_norm(second.norm4),
            _by_prompt(looks, shape),
            self.length,
        )
        return transformer.norm_final_attn(queries + _seen(look, gathered, shape)), image

    def upscale(self, image: Tensor, index: Tensor, tokens: Tensor, masks: Tensor, out: Tensor) -> None:
        """Logits of mask `masks[i]` of prompt `index[i]` of a chunk to out[i]; image and tokens of `decode_chunk`."""
        asked, row = torch.unique(index, return_inverse=True)
        weights = self.decoder.mask_weights(tokens[asked])[row, masks]  # (K, C / 8)
        ops.decoder_upscale(image, index, weights, *self.upscaling, *self.grid, out)

    def _take(self, count: int) -> Tensor:
        """Memory for the image tokens of `count` prompts. Two threads may ask at once; pop is one step."""
        try:
            spare = self._spare.pop()
            if len(spare) >= count:
                return spare[:count]
        except IndexError:
            pass
        return self.source.new_empty(count, *self.source.shape)

    def give_back(self, image: Tensor) -> None:
        """Let the next chunk use this memory, of which nothing may be read any more."""
        if not self._spare:
            prompts = image.untyped_storage().nbytes() // (self.source.nbytes)
            self._spare.append(image.as_strided((prompts, *self.source.shape), image.stride(), 0))


class TiledPrompts:
    """N decoded prompts. Has the methods of `decoder_folded.DecodedPrompts`."""

    def __init__(self, image: TiledImage, sparse: Tensor, masks: Sequence[int]) -> None:
        height, width = image.grid
        self._image, self._sparse, self._masks = image, sparse, list(masks)
        self._tokens: list[Tensor] = []  # chunks of (n, 5 + T, C)
        self._iou: list[Tensor] = []  # chunks of (n, 4)
        self._sources: list[Tensor] = []  # of the first chunks, where no masks are made at once
        # Masks in the order of prompts, then of `masks`. Memory of masks that nobody wants is never touched.
        self._made = sparse.new_empty(len(sparse) * len(masks), 4 * height, 4 * width)
        self._count = 0
        self._place = torch.full((len(sparse), NUM_MASK_TOKENS), -1, device="cpu")  # of each mask among those made

    def add(self, start: int, sparse: Tensor, above: float | None) -> None:
        """Decode the prompts from `start` on."""
        tokens, source = self._image.decode_chunk(sparse)
        self._tokens.append(tokens)
        self._iou.append(self._image.decoder.iou_prediction_head(tokens[:, 0]))
        if self._masks:
            iou = self._iou[-1][:, self._masks]
            wanted = torch.ones_like(iou, dtype=torch.bool) if above is None else iou > above
            row, column = wanted.nonzero(as_tuple=True)
            if len(row):
                chosen, end = torch.tensor(self._masks, device="cpu")[column], self._count + len(row)
                self._image.upscale(source, row, tokens, chosen, self._made[self._count : end])
                self._place[start + row, chosen] = torch.arange(self._count, end, device="cpu")
                self._count = end
        if self._masks or start + len(sparse) > PROMPTS_KEPT:
            self._image.give_back(source)
        else:
            self._sources.append(source)

    def predicted_iou(self) -> Tensor:  # (N, 4)
        return torch.cat([self._made.new_empty(0, NUM_MASK_TOKENS), *self._iou])

    def logits(self, prompts: Sequence[int] | Tensor, masks: Sequence[int] | Tensor) -> Tensor:
        """Low-resolution logits (K, 4h, 4w) of K pairs: prompt in [0, N), mask token in [0, 4).

        The result may share memory with that of another call.
        """
        prompts, masks = (torch.as_tensor(x, dtype=torch.long, device="cpu") for x in (prompts, masks))
        place = self._place[prompts, masks]
        if len(place) and int(place[0]) >= 0 and bool((place.diff() == 1).all()):
            return self._made[int(place[0]) : int(place[0]) + len(place)]
        out = self._made.new_empty(len(prompts), *self._made.shape[1:])
        made = (place >= 0).nonzero()[:, 0]
        out[made] = self._made[place[made]]
        missing = (place < 0).nonzero()[:, 0]
        for chunk in torch.unique(prompts[missing] // PROMPTS_PER_CHUNK).tolist():
            pairs = missing[prompts[missing] // PROMPTS_PER_CHUNK == chunk]
            out[pairs] = self._late(chunk, prompts[pairs] % PROMPTS_PER_CHUNK, masks[pairs])
        return out

    def _late(self, chunk: int, index: Tensor, masks: Tensor) -> Tensor:
        """Logits of pairs of one chunk that have not been made."""
        out = self._made.new_empty(len(index), *self._made.shape[1:])
        if chunk < len(self._sources):
            self._image.upscale(self._sources[chunk], index, self._tokens[chunk], masks, out)
        else:
            asked, index = torch.unique(index, return_inverse=True)
            tokens, source = self._image.decode_chunk(self._sparse[chunk * PROMPTS_PER_CHUNK + asked])
            self._image.upscale(source, index, tokens, masks, out)
            self._image.give_back(source)
        return out


def _by_head(attn: DecoderAttention, x: Tensor) -> Tensor:  # (n, T, heads * d) -> (heads, n * T, d)
    return x.flatten(0, 1).unflatten(-1, (attn.num_heads, -1)).transpose(0, 1)


def _by_row(x: Tensor, shape: torch.Size) -> Tensor:  # (heads, n * T, d) -> (n, T, heads * d)
    return x.transpose(0, 1).flatten(1).view(shape[0], shape[1], -1)


def _by_prompt(x: Tensor, shape: torch.Size) -> Tensor:  # (heads, n * T, d) -> (heads, n, T, d)
    return x.unflatten(1, (shape[0], shape[1]))


def _answer_values(attn: DecoderAttention, queries: Tensor) -> Tensor:
    """Values of the prompt's tokens through the output projection, (heads, n * T, C); its bias rides on one head."""
    out_weight = attn.out_proj.weight.view(-1, attn.num_heads, attn.head_dim).permute(1, 2, 0)  # (heads, d, C)
    values = _by_head(attn, attn.v_proj(queries)) @ out_weight
    values[0] += attn.out_proj.bias
    return values


def _look(attn: DecoderAttention, placed: Tensor) -> Tensor:
    """Queries of the prompt's tokens through the key projection, (heads, n * T, C)."""
    q = _by_head(attn, attn.q_proj(placed)) * attn.head_dim**-0.5
    return q @ attn.k_proj.weight.view(attn.num_heads, attn.head_dim, -1)


def _seen(attn: DecoderAttention, gathered: Tensor, shape: torch.Size) -> Tensor:
    """Image tokens averaged per head, (heads, n, T, C), through the value and output projections: (n, T, C)."""
    weight = attn.v_proj.weight.view(attn.num_heads, attn.head_dim, -1).transpose(1, 2)
    return attn.out_proj(_by_row(gathered.flatten(1, 2) @ weight, shape) + attn.v_proj.bias)


def _norm(norm: nn.LayerNorm) -> tuple[Tensor, Tensor, float]:
    return norm.weight, norm.bias, norm.eps


def _as_matrix(conv: nn.Module) -> tuple[Tensor, Tensor]:
    """A transposed convolution with 2 x 2 kernels at stride 2: (4 * C', C), sub-cells first, and its bias (4 * C')."""
    conv = cast(nn.ConvTranspose2d, conv)
    weight = conv.weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous()
    bias = conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias
    return weight, bias.repeat(4)
