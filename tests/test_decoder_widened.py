"""Tests of widening narrow decoders to the official 256 channels by repeating their channels."""

from __future__ import annotations

import pytest
import torch

from fastsam_core.models.decoder_widened import count_copies, repeat_channels, widen_decoder
from fastsam_core.models.mask_decoder import MaskDecoder
from test_decoder import decoder_of, inputs


@pytest.mark.parametrize(("dim", "heads", "copies"), [(256, 8, 1), (128, 8, 2), (64, 8, 4), (128, 4, 0), (512, 8, 0)])
def test_number_of_copies_that_reach_the_official_width(dim: int, heads: int, copies: int) -> None:
    assert count_copies(decoder_of(dim, heads)) == copies


def test_width_that_does_not_divide_the_official_one_cannot_be_widened() -> None:
    assert count_copies(decoder_of(96, 8)) == 0


@pytest.mark.parametrize("dim", [128, 64])
@torch.no_grad()
def test_widened_decoder_has_the_same_outputs(dim: int) -> None:
    narrow = decoder_of(dim, 8).double()
    narrow.output_upscaling[1].eps = 1e-2  # not the default: it must be copied
    copies = count_copies(narrow)
    embedding, position, dense = (x.double() for x in inputs(dim, (3, 7)))
    sparse = torch.randn(5, 2, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    wide = widen_decoder(narrow, copies)
    assert isinstance(wide, MaskDecoder) and wide.transformer_dim == 256
    of_image = (x.repeat(1, copies, 1, 1) for x in (embedding, position))
    masks, iou = wide.predict_masks(*of_image, repeat_channels(sparse, copies), dense.repeat(1, copies, 1, 1))
    expected, expected_iou = narrow.predict_masks(embedding, position, sparse, dense)
    torch.testing.assert_close(masks, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(iou, expected_iou, rtol=1e-12, atol=1e-12)
    # The tokens that all prompts have in common are widened too.
    torch.testing.assert_close(
        wide.tokens(repeat_channels(sparse, copies)), repeat_channels(narrow.tokens(sparse), copies)
    )


def test_official_width_is_returned_unchanged() -> None:
    decoder = decoder_of(256, 8)
    assert widen_decoder(decoder, 1) is decoder
