"""What RDN's streams keep, against pools gathered anew from the supports of the window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from vodbench_methods.rdn.config import TINY, RDNConfig
from vodbench_methods.rdn.full import RDN
from vodbench_methods.rdn.memory import RefiningMemory
from vodbench_methods.rdn.partial_sums import Attended, PartialSums
from vodbench_methods.rdn.records import Support
from vodbench_methods.rdn.ring import SupportRing
from vodbench_methods.relation import KeyValues

HEADS, WIDTH = 4, 8
CONFIG = RDNConfig.from_mapping(
    {**TINY, "proposals": 10, "fc_channels": HEADS * WIDTH, "heads": HEADS, "T": 2, "K": 5, "r": 40.0}
)
FRAMES = 2 * CONFIG.T + 1
FULL = [5] * 12
RAGGED = [5, 0, 3, 5, 5, 1, 0, 5, 5, 5, 5, 5, 5, 2]


@pytest.fixture
def method() -> RDN:
    torch.manual_seed(0)
    method = RDN(CONFIG, 3).eval()
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return method


def lent(method: RDN, counts: Sequence[int], scales: Sequence[float] | None = None) -> list[Support]:
    """Supports of made-up frames; features of frame i are ``scales[i]`` times the usual size."""
    generator = torch.Generator().manual_seed(1)
    made = []
    for index, count in enumerate(counts):
        corner = torch.rand(count, 2, generator=generator) * 30
        boxes = torch.cat([corner, corner + 2 + torch.rand(count, 2, generator=generator) * 15], dim=1)
        features = torch.randn(count, HEADS * WIDTH, generator=generator) * (scales[index] if scales else 1.0)
        kvs = tuple(module.project_keys(features, boxes) for module in method.unrefined_readers)
        made.append(Support(boxes, torch.ones(count), features, kvs))
    return made


def windows(number: int) -> Iterator[tuple[range, bool]]:
    """The frames in the buffer step by step, and whether the last of them has just entered: filled, moved, emptied."""
    for newest in range(number):
        yield range(max(0, newest - FRAMES + 1), newest + 1), True
    for oldest in range(number - FRAMES + 1, number):
        yield range(oldest, number), False


def sorted_rows(*columns: Tensor) -> Tensor:
    rows = torch.cat([c.flatten(1) for c in columns], dim=1)
    return rows[torch.tensor(sorted(range(len(rows)), key=lambda i: rows[i, :4].tolist()), dtype=torch.long)]


def rows_of(kv: KeyValues) -> Tensor:
    return sorted_rows(kv.boxes, kv.keys.transpose(0, 1), kv.values.transpose(0, 1))


@pytest.mark.parametrize("counts", [FULL, RAGGED])
@torch.inference_mode()
def test_a_ring_holds_the_window(method: RDN, counts: list[int]) -> None:
    supports, ring = lent(method, counts), SupportRing(FRAMES, CONFIG.K)
    for window, entered in windows(len(counts)):
        if not entered or len(ring) == FRAMES:
            ring.pop()
        if entered:
            ring.push(supports[window[-1]])
        copies = [2 + i for i in range(len(window))]
        pool = ring.pool(copies)
        assert len(pool.places) == len(window)
        assert sum(len(kv) for kv in pool.kvs) == len(method.unrefined_readers) * sum(counts[i] for i in window)
        assert pool.copies is not None
        for frame, place, times in zip(window, pool.places, copies, strict=True):
            assert pool.copies[place].tolist() == [times] * counts[frame]
            for kv, expected in zip(pool.kvs, supports[frame].kvs, strict=True):
                assert torch.equal(kv.boxes[place], expected.boxes)
                assert torch.equal(kv.keys[:, place], expected.keys)
                assert torch.equal(kv.values[:, place], expected.values)


@torch.inference_mode()
def test_the_pool_of_a_full_window_is_no_copy(method: RDN) -> None:
    supports, ring = lent(method, FULL), SupportRing(FRAMES, CONFIG.K)
    for support in supports[: FRAMES + 2]:
        if len(ring) == FRAMES:
            ring.pop()
        ring.push(support)
    first, second = (ring.pool([1] * FRAMES).kvs[0] for _ in range(2))
    assert first.keys.data_ptr() == second.keys.data_ptr()
    assert first.values.data_ptr() == second.values.data_ptr()
    assert first.boxes.data_ptr() == second.boxes.data_ptr()


# A frame that outweighs all others by more than float32 can tell, while it is in the window and after it has left.
@pytest.mark.parametrize("loud", [None, 0, 3, 11])
@pytest.mark.parametrize("counts", [FULL, RAGGED])
@pytest.mark.parametrize("repeated", [False, True])
@torch.inference_mode()
def test_refined_proposals_are_those_of_the_pool_gathered_anew(
    method: RDN, counts: list[int], loud: int | None, repeated: bool
) -> None:
    supports = lent(method, counts, [30.0 if i == loud else 1.0 for i in range(len(counts))])
    memory = method.memory(CONFIG)
    assert isinstance(memory, RefiningMemory)
    previous = range(0)
    for window, entered in windows(len(counts)):
        if len(previous) and previous[0] != window[0]:
            memory.pop()
        if entered:
            memory.push(supports[window[-1]])
        previous = window
        copies = [1] * len(window)
        if repeated:  # the first frame of the video and the newest stand in for those beyond its ends
            copies[0] += 2 * (window[0] == 0)
            copies[-1] += 3
        held = [supports[i] for i in window]
        if not any(counts[i] for i in window):
            continue
        got, expected = memory.pool(copies), method.gather(held, copies, CONFIG)
        assert got.refined is not None
        assert expected.refined is not None
        torch.testing.assert_close(rows_of(got.refined), rows_of(expected.refined), atol=1e-4, rtol=1e-4)
        if repeated:
            assert got.refined_copies is not None
            assert expected.refined_copies is not None
            got_copies = sorted_rows(got.refined.boxes, got.refined_copies[:, None])
            expected_copies = sorted_rows(expected.refined.boxes, expected.refined_copies[:, None])
            assert torch.equal(got_copies, expected_copies)


def test_attention_to_two_sets_of_keys_is_joined() -> None:
    """Against the softmax over both; sets without a key, and sums that differ by more than float32 holds."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 1, 7, generator=generator, dtype=torch.float64)
    values = torch.randn(7, WIDTH, generator=generator, dtype=torch.float64)
    logits[0, 0, :3] -= 200
    logits[1, 0, 3:] -= 200
    logits[2, 0, :3] = logits[3, 0, 3:] = logits[4] = -torch.inf

    def attended(keys: slice) -> Attended:
        outputs = (logits[..., keys].softmax(dim=-1) @ values[keys]).nan_to_num(0.0)
        return Attended(outputs.float(), logits[..., keys].logsumexp(dim=-1).float())

    got, expected = attended(slice(0, 3)).joined(attended(slice(3, 7))), attended(slice(0, 7))
    torch.testing.assert_close(got.outputs, expected.outputs, atol=1e-6, rtol=0)
    torch.testing.assert_close(got.log_sums, expected.log_sums, atol=1e-5, rtol=0)


def test_the_size_foretold_is_the_size_taken(method: RDN) -> None:
    ring = SupportRing(FRAMES, CONFIG.K)
    sums = PartialSums(method.refine, ring, 0, refined_per_frame=2)
    unit = 4 * 2 * HEADS * WIDTH
    foretold = PartialSums.bytes_needed(FRAMES, 2, HEADS * WIDTH)
    assert foretold == 10 * unit  # pairs of five frames
    assert sums._before.outputs.untyped_storage().nbytes() == foretold + unit
