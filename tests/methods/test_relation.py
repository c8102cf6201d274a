"""The relation module against golden numbers, a literal reference, and its own laws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from vodbench_methods.relation import KeyValues, ObjectRelation, Room, SharedGeometry, evenly, geometry, partial_sums
from vodbench_methods.relation.reference import pair_embedding, relation_reference
from vodbench_methods.relation.waves import PairWaves


def random_boxes(count: int, generator: torch.Generator, extent: float = 300.0) -> Tensor:
    corner = torch.rand(count, 2, generator=generator) * extent
    size = torch.rand(count, 2, generator=generator) * extent / 2
    return torch.cat([corner, corner + size], dim=1)


def random_module(dim: int, heads: int, floor: str, generator: torch.Generator) -> ObjectRelation:
    """A module whose every part matters: large geometric weights, non-zero biases."""
    module = ObjectRelation(dim, heads, floor)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return module


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_relation_networks_numbers(shared: Path) -> None:
    """MXNet's Relation Networks: boxes, embedding and output, to 1e-4."""
    golden = {name: torch.from_numpy(a) for name, a in np.load(shared / "golden" / "relation.npz").items()}
    module = ObjectRelation(1024, 16, "max")
    module.load_state_dict(
        {
            "geometry.weight": golden["p_pair_pos_fc1_1_weight"],
            "geometry.bias": golden["p_pair_pos_fc1_1_bias"],
            "query.weight": golden["p_query_1_weight"],
            "query.bias": golden["p_query_1_bias"],
            "key.weight": golden["p_key_1_weight"],
            "key.bias": golden["p_key_1_bias"],
            "value.weight": golden["p_linear_out_1_weight"][:, :, 0, 0],
            "value.bias": golden["p_linear_out_1_bias"],
        }
    )
    boxes, x = golden["boxes"], golden["x"]
    torch.testing.assert_close(pair_embedding(boxes, boxes[:12], "max"), golden["emb"], atol=1e-4, rtol=0)
    with torch.no_grad():
        fast = module.attend(x, boxes, module.project_keys(x[:12], boxes[:12]))
        slow = relation_reference(module, x, boxes, x[:12], boxes[:12])
    torch.testing.assert_close(fast, golden["out"], atol=1e-4, rtol=0)
    torch.testing.assert_close(slow, golden["out"], atol=1e-4, rtol=0)


def test_relation_networks_geometry(golden: Path) -> None:
    """The geometry of the same golden file, small enough to be kept here: embedding and per-head weights."""
    kept = {name: torch.from_numpy(a) for name, a in np.load(golden / "relation_geometry.npz").items()}
    module = ObjectRelation(64, 16, "max")
    module.geometry.load_state_dict({"weight": kept["weight"], "bias": kept["bias"]})
    torch.testing.assert_close(
        pair_embedding(kept["boxes"], kept["boxes"][:12], "max"), kept["embedding"], atol=1e-4, rtol=0
    )
    expected = (kept["embedding"] @ kept["weight"].T + kept["bias"]).clamp(min=1e-6).permute(2, 0, 1)
    (weights,) = SharedGeometry([module], kept["boxes"][:12])(kept["boxes"])
    torch.testing.assert_close(weights, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("floor", ["max", "add"])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (7, 40), (130, 333)])
def test_equals_the_literal_reference(floor: str, queries: int, keys: int, generator: torch.Generator) -> None:
    module = random_module(64, 4, floor, generator)
    boxes, key_boxes = random_boxes(queries, generator), random_boxes(keys, generator)
    key_boxes[0] = boxes[0]  # distance zero: the floor decides
    x, y = torch.randn(queries, 64, generator=generator), torch.randn(keys, 64, generator=generator)
    expected = relation_reference(module, x, boxes, y, key_boxes)
    torch.testing.assert_close(module.attend(x, boxes, module.project_keys(y, key_boxes)), expected, atol=1e-4, rtol=0)


def test_the_floors_differ(generator: torch.Generator) -> None:
    """The option means something: weights trained with one floor are wrong with the other."""
    module = random_module(32, 2, "max", generator)
    boxes = random_boxes(5, generator)
    x = torch.randn(5, 32, generator=generator)
    with_max = module.attend(x, boxes, module.project_keys(x, boxes))
    module.floor = "add"
    with_add = module.attend(x, boxes, module.project_keys(x, boxes))
    assert (with_max - with_add).abs().max() > 1e-3


def test_gradients_equal_those_of_the_reference(generator: torch.Generator) -> None:
    module = random_module(32, 4, "max", generator)
    boxes, key_boxes = random_boxes(6, generator), random_boxes(9, generator)
    x = torch.randn(6, 32, generator=generator, requires_grad=True)
    y = torch.randn(9, 32, generator=generator, requires_grad=True)
    wanted = [x, y, *module.parameters()]
    slow = torch.autograd.grad(relation_reference(module, x, boxes, y, key_boxes).square().sum(), wanted)
    fast = torch.autograd.grad(module.attend(x, boxes, module.project_keys(y, key_boxes)).square().sum(), wanted)
    for got, expected in zip(fast, slow, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("training", [True, False])
def test_attention_over_nothing_adds_nothing(training: bool, generator: torch.Generator) -> None:
    module = random_module(32, 4, "max", generator)
    boxes, x = random_boxes(3, generator), torch.randn(3, 32, generator=generator)
    with torch.set_grad_enabled(training):
        nothing = module.project_keys(x[:0], boxes[:0])
        assert torch.equal(module.attend(x, boxes, nothing), torch.zeros(3, 32))
        assert module.attend(x[:0], boxes[:0], module.project_keys(x, boxes)).shape == (0, 32)
        assert module.attend(x[:0], boxes[:0], nothing).shape == (0, 32)


def test_waves_are_sines_and_cosines() -> None:
    """From the floor to a thousand widths away, against NumPy in float64: of the angles as float32 has them to 1e-6
    (2e-7 of interpolation and a few roundings of numbers up to 2), with their spacing of 6e-5 between 512 and 1,024 rad
    included to 6e-5 (a frequency and a product are rounded)."""
    distances = torch.linspace(float(np.log(1e-3)), float(np.log(1e3)), 20_011)
    waves = (
        PairWaves(1, torch.device("cpu"), torch.empty(0, len(distances)))(distances.expand(1, 2, -1))
        .view(2, 2, 8, -1)
        .double()
    )
    frequency = 100.0 / 1000.0 ** (np.arange(8)[:, None] / 8)
    exact = frequency * distances.double().numpy()
    rounded = frequency.astype(np.float32) * distances.numpy()
    assert rounded.dtype == np.float32
    for sine, cosine in waves.numpy():
        for wave, got in ((np.sin, sine), (np.cos, cosine)):
            assert np.abs(got - wave(rounded.astype(np.float64))).max() < 1e-6
            assert np.abs(got - wave(exact)).max() < 6e-5


@pytest.mark.parametrize("floor", ["max", "add"])
def test_inference_equals_training(floor: str, generator: torch.Generator) -> None:
    """Without gradients the same sums are made in place, a few rows at a time."""
    module = random_module(64, 4, floor, generator)
    boxes, key_boxes = random_boxes(90, generator), random_boxes(700, generator)
    x, y = torch.randn(90, 64, generator=generator), torch.randn(700, 64, generator=generator)
    copies = torch.rand(700, generator=generator)
    training = module.attend(x, boxes, module.project_keys(y, key_boxes), copies)
    assert training.requires_grad
    with torch.inference_mode():
        kv = module.project_keys(y, key_boxes)
        kept = kv.keys.clone(), kv.values.clone(), copies.clone()
        inference = module.attend(x, boxes, kv, copies)
    torch.testing.assert_close(inference, training, atol=1e-5, rtol=0)
    for now, before in zip((kv.keys, kv.values, copies), kept, strict=True):
        assert torch.equal(now, before), "what is kept between frames was written to"


@pytest.mark.parametrize("floats", [1, 1000, 2**30])
def test_size_of_chunks_does_not_matter(
    floats: int, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = random_module(32, 4, "max", generator)
    boxes, x = random_boxes(37, generator), torch.randn(37, 32, generator=generator)
    with torch.inference_mode():
        kv = module.project_keys(x, boxes)
        expected = module.attend(x, boxes, kv)
        monkeypatch.setattr(geometry, "_rows", lambda floats_a_row, _: max(1, floats // floats_a_row))
        assert SharedGeometry([module], boxes).rows_per_chunk == max(1, floats // (4 * 37))
        torch.testing.assert_close(module.attend(x, boxes, kv), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("training", [True, False])
def test_half_precision_features(dtype: torch.dtype, training: bool, generator: torch.Generator) -> None:
    """Boxes and geometry stay float32; what remains is the rounding of features, logits, shares and values.

    Against the float32 result from the same rounded weights: four roundings of at most half a unit in the last place
    of numbers of at most the largest value (logits enter as a factor exp(error): one unit where they are below 4).
    """
    module = random_module(32, 4, "max", generator).to(dtype)
    exact = ObjectRelation(32, 4)
    exact.load_state_dict(module.state_dict())
    boxes, key_boxes = random_boxes(20, generator), random_boxes(50, generator)
    x = (0.5 * torch.randn(20, 32, generator=generator)).to(dtype)
    y = (0.5 * torch.randn(50, 32, generator=generator)).to(dtype)
    with torch.set_grad_enabled(training):
        got = module.attend(x, boxes, module.project_keys(y, key_boxes))
    kv = exact.project_keys(y.float(), key_boxes)
    expected = exact.attend(x.float(), boxes, kv)
    assert got.dtype == dtype
    allowed = 4 * torch.finfo(dtype).eps * float(kv.values.detach().abs().max())
    assert float((got.float() - expected).abs().max()) < allowed


def test_half_precision_keeps_small_geometric_weights(generator: torch.Generator) -> None:
    """Every weight at its floor of 1e-6, below what float16 resolves: attention is that without geometry."""
    module = random_module(32, 4, "max", generator)
    with torch.no_grad():
        module.geometry.bias.fill_(-100.0)
    boxes, x = random_boxes(200, generator), 0.3 * torch.randn(200, 32, generator=generator)
    expected = module.attend(x, boxes, module.project_keys(x, boxes))
    half = module.half()
    got = half.attend(x.half(), boxes, half.project_keys(x.half(), boxes)).float()
    assert float(expected.abs().max()) > 0.1
    torch.testing.assert_close(got, expected, atol=1e-2, rtol=0)


def test_keys_joined_from_parts_equal_keys_made_together(generator: torch.Generator) -> None:
    module = random_module(32, 4, "max", generator)
    boxes, x = random_boxes(8, generator), torch.randn(8, 32, generator=generator)
    parts = [module.project_keys(x[i:j], boxes[i:j]) for i, j in ((0, 3), (3, 3), (3, 8))]
    joined = module.attend(x, boxes, KeyValues.concatenate(parts))
    torch.testing.assert_close(joined, module.attend(x, boxes, module.project_keys(x, boxes)), atol=1e-6, rtol=1e-5)


def test_copies_equal_repeated_keys(generator: torch.Generator) -> None:
    module = random_module(32, 4, "add", generator)
    boxes, x = random_boxes(4, generator), torch.randn(4, 32, generator=generator)
    repeated = torch.tensor([0, 0, 0, 1, 3])
    expected = module.attend(x, boxes, module.project_keys(x[repeated], boxes[repeated]))
    copies = torch.tensor([3.0, 1.0, 0.0, 1.0])
    torch.testing.assert_close(
        module.attend(x, boxes, module.project_keys(x, boxes), copies), expected, atol=1e-5, rtol=0
    )


def test_partial_sums_join_to_the_whole(generator: torch.Generator) -> None:
    module = random_module(32, 4, "max", generator)
    boxes, key_boxes = random_boxes(3, generator), random_boxes(12, generator)
    x, y = torch.randn(3, 32, generator=generator), torch.randn(12, 32, generator=generator)
    kv = module.project_keys(y, key_boxes)
    present = torch.ones(12)
    present[[2, 3, 8, 9, 10, 11]] = 0  # the last run holds padding alone
    (geometry,) = SharedGeometry([module], key_boxes).of_all(boxes)
    runs = geometry.unflatten(2, (3, 4)).transpose(1, 2)
    outputs, log_sums = partial_sums(module.queries(x), runs, kv, present, Room())
    joined = (log_sums.softmax(dim=1)[..., None] * outputs).sum(dim=1).flatten(1)
    alone = module.project_keys(y[present > 0], key_boxes[present > 0])
    torch.testing.assert_close(joined, module.attend(x, boxes, alone), atol=1e-5, rtol=0)


def test_weights_are_a_distribution_that_gives_the_output(generator: torch.Generator) -> None:
    module = random_module(32, 4, "max", generator)
    boxes, x = random_boxes(5, generator), torch.randn(5, 32, generator=generator)
    kv = module.project_keys(x, boxes)
    weights = module.weights(x, boxes, kv)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(4, 5))
    gathered = torch.einsum("hqk,hkd->qhd", weights, kv.values).flatten(1)
    torch.testing.assert_close(gathered, module.attend(x, boxes, kv), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("count", "size"), [(0, 4), (1, 4), (8, 8), (9, 8), (33, 32), (300, 32), (1000, 7)])
def test_parts_are_even(count: int, size: int) -> None:
    parts = evenly(count, size)
    assert [row for part in parts for row in range(count)[part]] == list(range(count))
    lengths = [part.stop - part.start for part in parts]
    assert max(lengths) <= size
    assert max(lengths) - min(lengths) <= 1
    assert len(parts) == max(1, -(-count // size))


def test_large_logits_do_not_overflow(generator: torch.Generator) -> None:
    module = random_module(32, 4, "max", generator)
    boxes, x = random_boxes(5, generator), torch.randn(5, 32, generator=generator) * 100
    assert module.attend(x, boxes, module.project_keys(x, boxes)).isfinite().all()


def test_one_embedding_serves_several_modules(generator: torch.Generator) -> None:
    modules = [random_module(32, 4, "max", generator) for _ in range(3)]
    boxes, key_boxes = random_boxes(5, generator), random_boxes(6, generator)
    together = SharedGeometry(modules, key_boxes)(boxes)
    for module, weights in zip(modules, together, strict=True):
        torch.testing.assert_close(weights, SharedGeometry([module], key_boxes)(boxes)[0])


@pytest.mark.parametrize("grad", [False, True])
def test_weights_of_all_queries_are_those_of_the_chunks_and_stay(grad: bool, generator: torch.Generator) -> None:
    modules = [random_module(32, 4, "max", generator) for _ in range(2)]
    boxes, key_boxes = random_boxes(11, generator), random_boxes(7, generator)
    shared = SharedGeometry(modules, key_boxes)
    shared.rows_per_chunk = 4
    with torch.set_grad_enabled(grad):
        kept = shared.of_all(boxes)
        shared.of_all(boxes.flip(0))
        for index, weights in enumerate(kept):
            chunks = [shared(rows)[index].clone() for rows in torch.split(boxes, 4)]
            assert torch.equal(weights, torch.cat(chunks, dim=1))
