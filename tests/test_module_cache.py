"""Tests of the cache of tensors derived from a model's weights: never stale, freed in time, cheap to look up."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fake_cuda_graphs import random_images, vit
from fastsam_core.models import decoder_features, module_cache, sam_model, tiny_vit
from fastsam_core.models.decoder_features import prepare_decoder
from fastsam_core.models.decoder_gpu import GpuImage
from fastsam_core.models.decoder_tiled import TiledImage
from fastsam_core.models.image_encoder import ImageEncoderViT
from fastsam_core.models.mask_decoder import MaskDecoder
from fastsam_core.models.module_cache import cached
from fastsam_core.models.precision import in_dtype
from fastsam_core.models.sam_model import SamModel
from fastsam_core.models.tiny_vit import Attention
from fastsam_core.ops._native import cpu_module
from small_model import small_model

SIZE = 128
POINTS = torch.rand(6, 1, 2, generator=torch.Generator().manual_seed(1)) * SIZE
LABELS = torch.ones(6, 1, dtype=torch.int64)
native = pytest.mark.skipif(cpu_module is None, reason="the compiled operations are off")


@pytest.fixture(autouse=True)
def _caches_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cache for tensors on the CPU too; normally only those on a GPU are cached."""
    monkeypatch.setattr(module_cache, "CACHED_DEVICES", ["cuda", "cpu"])


def model_of(dtype: torch.dtype = torch.float32) -> SamModel:
    model = small_model().eval()
    model.set_image_size(SIZE)
    return model.to(dtype)


def embedding_of(model: SamModel, seed: int = 0) -> Tensor:
    grid = SIZE // 16
    shape = 1, model.prompt_encoder.embed_dim, grid, grid
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def decoded(model: SamModel, on_gpu: bool = False) -> list[Tensor]:
    """Decode an image the way the CPU does or, with PyTorch's operations, the way a GPU does."""
    image = model.prepare(embedding_of(model))
    if on_gpu:
        image._image_decoder = GpuImage(image.decoder, image.embedding, image.position, image.no_mask)
    folded = image._image_decoder or image.image_decoder
    tokens = model.prompt_encoder.sparse(POINTS, LABELS, None).to(image.dtype)
    found = folded.decode(tokens)
    return [found.predicted_iou(), found.logits(range(6), [1, 2, 3, 0, 1, 2])]


def uncached_copy(model: SamModel) -> SamModel:
    """Return a copy for which nothing is cached yet."""
    return copy.deepcopy(model)


def same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def scale_weight_in_place(model: SamModel) -> None:
    with torch.no_grad():
        model.mask_decoder.transformer.blocks[1].cross_attn_image_to_token.out_proj.weight.mul_(1.5)


def scale_upscaling_weight(model: SamModel) -> None:
    with torch.no_grad():
        model.mask_decoder.output_upscaling[3].weight.mul_(1.5)


def load_other_weights(model: SamModel) -> None:
    model.load_state_dict({name: value * 1.25 for name, value in model.state_dict().items()})


def scale_position_matrix(model: SamModel) -> None:
    model.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix.mul_(1.5)


def replace_layer(model: SamModel) -> None:
    layer = model.mask_decoder.transformer.blocks[0].cross_attn_token_to_image
    layer.k_proj = nn.Linear(layer.k_proj.in_features, layer.k_proj.out_features).to(model.dtype).eval()


def change_eps(model: SamModel) -> None:
    """Change the eps of all norms of the transformer, as one that differs is left to PyTorch, and that of upscaling."""
    norms = [layer for layer in model.mask_decoder.transformer.modules() if isinstance(layer, nn.LayerNorm)]
    for norm in (*norms, model.mask_decoder.output_upscaling[1]):
        norm.eps = 0.5


@pytest.mark.parametrize(
    "change",
    [
        scale_weight_in_place,
        scale_upscaling_weight,
        load_other_weights,
        scale_position_matrix,
        replace_layer,
        change_eps,
    ],
)
@pytest.mark.parametrize("on_gpu", [False, True])
def test_cache_is_renewed_after_a_change_of_the_model(change: Callable[[SamModel], None], on_gpu: bool) -> None:
    if not on_gpu and cpu_module is None:
        pytest.skip("the compiled operations are off")
    model = model_of(torch.bfloat16 if on_gpu else torch.float32)
    before = decoded(model, on_gpu)
    assert same(decoded(model, on_gpu), before)
    change(model)
    after = decoded(model, on_gpu)
    assert not same(after, before) and same(after, decoded(uncached_copy(model), on_gpu))


@torch.no_grad()
def test_cache_is_renewed_after_a_cast() -> None:
    model = model_of()
    decoded(model)
    model.to(torch.float16)
    assert same(decoded(model, on_gpu=True), decoded(uncached_copy(model), on_gpu=True))
    model.to(torch.bfloat16)
    assert same(decoded(model, on_gpu=True), decoded(uncached_copy(model), on_gpu=True))
    model.to(torch.float32)  # the values stay rounded
    assert same(decoded(model), decoded(uncached_copy(model)))


def test_copies_and_pickles_do_not_share_the_cache() -> None:
    model = model_of()
    del model.encode_image  # a test double that can't be pickled
    before, keys = decoded(model), list(model.state_dict())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert list(twin.state_dict()) == keys and same(decoded(twin), before)
        scale_weight_in_place(twin)
        assert not same(decoded(twin), before) and same(decoded(model), before)


@native
def test_weights_are_prepared_once_for_all_images(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    make = decoder_features.derive_decoder_weights
    monkeypatch.setattr(decoder_features, "derive_decoder_weights", lambda decoder: made.append(0) or make(decoder))
    model = model_of()
    for _ in range(3):
        decoded(model)
    assert len(made) == 1
    with torch.no_grad():
        model.train()
        for _ in range(2):
            prepare_decoder(model.mask_decoder)
        model.eval()
    assert len(made) == 3  # nothing is cached in training mode
    for _ in range(2):  # nor with gradients enabled
        prepare_decoder(model.mask_decoder)
    assert len(made) == 5


@native
@torch.no_grad()
def test_inference_tensors_are_not_cached() -> None:
    with torch.inference_mode():
        model = model_of()
        before = decoded(model)
        scale_weight_in_place(model)
        after = decoded(model)
        assert not same(after, before) and same(after, decoded(uncached_copy(model)))


def test_cached_values_are_freed_with_their_module() -> None:
    gc.collect()  # frees the entries of other tests
    module = nn.Linear(2, 2)
    gone = weakref.ref(cached(module, "a", lambda: nn.Linear(1, 1)))
    assert cached(module, "a", lambda: None) is gone() and cached(module, "b", lambda: None) is None
    entries = len(module_cache._cache)
    with torch.no_grad():
        module.weight.add_(1)
    assert cached(module, "a", lambda: None) is None
    del module
    gc.collect()
    assert gone() is None and len(module_cache._cache) == entries - 1


def test_copies_in_another_dtype_are_freed_when_the_model_is_cast() -> None:
    model = model_of()
    copies = [weakref.ref(in_dtype(part, torch.bfloat16)) for part in (model.image_encoder, model.mask_decoder)]
    model.to("cpu")  # no change
    gc.collect()
    assert all(one() is not None for one in copies)
    model.double()
    gc.collect()
    assert all(one() is None for one in copies)


def test_value_made_first_by_another_thread_is_used_by_all() -> None:
    module, others = nn.Linear(2, 2), list[Any]()

    def make() -> object:
        others.append(cached(module, "a", object))
        return object()

    assert cached(module, "a", make) is others[0] and cached(module, "a", object) is others[0]


@torch.no_grad()
def test_bias_made_first_by_another_thread_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Attention(8, 2, 3)
    others: list[Tensor] = []

    def synchronize(table: Tensor) -> None:
        monkeypatch.setattr(tiny_vit, "synchronize", lambda table: None)
        others.append(layer._window_bias())

    monkeypatch.setattr(tiny_vit, "synchronize", synchronize)
    first = layer._window_bias()
    assert torch.equal(first, others[0]) and layer._window_bias() is others[0]


def test_gpu_work_is_finished_before_a_value_is_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    module, layer, steps = nn.Linear(2, 2), Attention(8, 2, 3), list[Any]()

    def synchronize() -> None:
        steps.append((len(module_cache._cache[module][1]), layer._cached_bias))

    monkeypatch.setattr(Tensor, "is_cuda", True)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(synchronize=synchronize))
    with torch.no_grad():
        for _ in range(2):
            cached(module, "key", lambda: steps.append("made"))
            layer._window_bias()
    assert steps == ["made", (0, None), (1, None)]


def test_dead_parameter_invalidates_the_cache() -> None:
    module = nn.Linear(2, 2)
    first = cached(module, "a", object)
    fingerprint = module_cache._fingerprint(module)[0]
    state = module_cache._cache[module][0]
    assert cached(module, "a", object) is first and state.fingerprint == fingerprint
    state.referents[0] = weakref.ref(nn.Linear(1, 1))  # a dead reference
    assert cached(module, "a", object) is not first


def test_new_storage_at_the_same_address_invalidates_the_cache() -> None:
    module, memory = nn.Linear(2, 2), np.ones((2, 2), np.float32)
    module.weight.data = torch.from_numpy(memory)
    first = cached(module, "a", object)
    place, version = module.weight.data_ptr(), module.weight._version
    assert cached(module, "a", object) is first
    memory[:] = 2  # a cast to half precision and back may reuse memory like this
    module.weight.data = torch.from_numpy(memory)
    assert (module.weight.data_ptr(), module.weight._version) == (place, version)
    assert cached(module, "a", object) is not first


@torch.no_grad()
def test_weights_of_a_cast_copy_are_not_checked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of()
    half = in_dtype(model.mask_decoder, torch.bfloat16)
    assert isinstance(half, MaskDecoder)
    first = prepare_decoder(half, for_gpu=True)
    looked: list[nn.Module] = []
    fingerprint = module_cache._fingerprint
    monkeypatch.setattr(module_cache, "_fingerprint", lambda module: looked.append(module) or fingerprint(module))
    assert in_dtype(model.mask_decoder, torch.bfloat16) is half and prepare_decoder(half, for_gpu=True) is first
    assert looked == [model.mask_decoder]
    scale_weight_in_place(model)
    changed = in_dtype(model.mask_decoder, torch.bfloat16)
    assert (
        isinstance(changed, MaskDecoder) and changed is not half and prepare_decoder(changed, for_gpu=True) is not first
    )


@torch.no_grad()
def test_layers_of_a_cast_copy_are_not_checked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, images = vit(), random_images().bfloat16()
    half = in_dtype(encoder, torch.bfloat16)
    assert isinstance(half, ImageEncoderViT)
    monkeypatch.setattr(half, "_can_use_bfloat16", lambda images: False)  # as on a GPU
    first, tiles = half(images), half.patch_embed.has_disjoint_patches()
    looked: list[nn.Module] = []
    for name in ("native.modules_of", "image_encoder._block_layers"):
        monkeypatch.setattr(f"fastsam_core.models.{name}", looked.append)
    assert torch.equal(half(images), first) and half.patch_embed.has_disjoint_patches() is tiles and not looked
    hooks = nn.modules.module._global_forward_hooks
    monkeypatch.setitem(hooks, 0, lambda module, *_: looked.append(module))
    half(images)
    assert {id(part) for part in looked} >= {id(block) for block in half.blocks}


def test_modules_of_equals_pytorchs_modules() -> None:
    model = model_of()
    model.mask_decoder.again = model.mask_decoder.transformer
    model.mask_decoder.none = None
    model.mask_decoder.register_module("nothing", None)
    assert {id(part) for part in module_cache.modules_of(model)} == {id(part) for part in model.modules()}
    assert len(module_cache.modules_of(model)) == len(list(model.modules()))


class Counted(TorchDispatchMode):
    """Counts operations that are not views."""

    VIEWS = ("view", "slice", "select", "transpose", "permute", "split", "unsqueeze", "detach", "expand", "t", "alias")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        self.count += name not in self.VIEWS and not name.startswith(("_unsafe_view", "as_strided", "new_empty"))
        return function(*args, **(kwargs or {}))


@torch.no_grad()
def test_second_image_takes_few_operations_on_a_gpu() -> None:
    """On a GPU each operation is a launch that delays those of the decoder."""
    model = model_of(torch.bfloat16)

    def prepare(seed: int) -> int:
        with Counted() as counted:
            image = model.prepare(embedding_of(model, seed))
            _ = GpuImage(image.decoder, image.embedding, image.position, image.no_mask).features
        return counted.count

    first, second = prepare(0), prepare(1)
    assert first > 200 and second <= 50, (first, second)


@native
@torch.no_grad()
def test_second_image_takes_few_operations_on_the_cpu() -> None:
    decoder = model_of().mask_decoder
    assert isinstance(decoder, MaskDecoder)
    grid, channels = SIZE // 16, decoder.iou_token.embedding_dim
    place, dense = torch.randn(1, channels, grid, grid), torch.randn(1, channels, 1, 1)

    def prepare() -> int:
        with Counted() as counted:
            TiledImage(decoder, torch.randn(1, channels, grid, grid), place, dense)
        return counted.count

    assert prepare() > 150 and prepare() <= 50


@torch.no_grad()
def test_changed_position_embedding_is_prepared_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = model_of().mask_decoder
    assert isinstance(decoder, MaskDecoder)
    place = torch.randn(1, decoder.iou_token.embedding_dim, 8, 8)
    own = prepare_decoder(decoder)
    before = own.project_position(place)
    assert prepare_decoder(decoder).project_position(place) is before
    place.mul_(2)
    assert torch.equal(own.project_position(place).embedding, 2 * before.embedding)
    assert torch.equal(own.project_position(place.clone()).products, own.project_position(place).products)
    # Another stream prepares its own, because this stream's work may not be finished.
    before = own.project_position(place)
    monkeypatch.setattr(decoder_features, "stream_key", lambda device: (device, "another stream"))
    after = own.project_position(place)
    assert after is not before and own.project_position(place) is after


@torch.no_grad()
def test_tokens_of_point_grids_are_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(torch.bfloat16)
    made: list[int] = []
    sparse = model.prompt_encoder.sparse
    monkeypatch.setattr(model.prompt_encoder, "sparse", lambda *given: made.append(0) or sparse(*given))
    image = model.prepare(embedding_of(model))
    wanted = sparse(POINTS, LABELS, None).to(image.dtype)
    for _ in range(2):
        assert torch.equal(model._point_tokens(image, POINTS, LABELS), wanted)
    assert len(made) == 1
    # Other points, labels and weights make new tokens.
    assert not torch.equal(model._point_tokens(image, POINTS + 1, LABELS), wanted)
    assert not torch.equal(model._point_tokens(image, POINTS, 0 * LABELS), wanted)
    model.prompt_encoder.not_a_point_embed.weight.mul_(2)
    assert not torch.equal(model._point_tokens(image, POINTS, LABELS), wanted)
    assert len(made) == 4
    # Another stream makes its own, because this stream's work may not be finished.
    monkeypatch.setattr(sam_model, "stream_key", lambda device: (device, "another stream"))
    model._point_tokens(image, POINTS, LABELS)
    assert len(made) == 5
    for step in range(2 * sam_model._MAX_CACHED_GRIDS):
        model._point_tokens(image, POINTS + step, LABELS)
    values = module_cache._cache[model.prompt_encoder][1]
    grids = [value for key, value in values.items() if isinstance(key, tuple) and key[0] == "points"]
    assert [len(grid) for grid in grids] == [sam_model._MAX_CACHED_GRIDS]


@torch.no_grad()
def test_changes_through_data_are_seen_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert module_cache.CACHED_DEVICES == ["cuda"]
    monkeypatch.setattr(module_cache, "_fingerprint", None)  # on the CPU, weights must not be checked either
    model = model_of()
    before = decoded(model)
    for weight in (model.mask_decoder.transformer.blocks[0].norm4.weight, model.prompt_encoder.no_mask_embed.weight):
        weight.data.mul_(1.5)
        after = decoded(model)
        assert not any(torch.equal(x, y) for x, y in zip(before, after, strict=True))
        before = after
