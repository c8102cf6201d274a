"""What RDN's streams keep, against pools gathered anew from the supports of the window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from vodbench_methods.detection.products import MIN_COLUMNS
from vodbench_methods.rdn.attended import Attended
from vodbench_methods.rdn.config import TINY, RDNConfig
from vodbench_methods.rdn.full import RDN
from vodbench_methods.rdn.log import SupportLog
from vodbench_methods.rdn.partial_sums import PartialSums
from vodbench_methods.rdn.records import Support
from vodbench_methods.rdn.refinement import RefinedInParts
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


@pytest.mark.parametrize("counts", [FULL, RAGGED, [0, 0, 0, 4, 0, 0, 0, 0, 0, 0]])
@pytest.mark.parametrize("per_frame", [1, 3, CONFIG.K])
@torch.inference_mode()
def test_a_log_holds_the_best_of_the_window(method: RDN, counts: list[int], per_frame: int) -> None:
    """In the frames' order and one piece, through all of its turns."""
    supports, log = lent(method, counts), SupportLog(FRAMES, per_frame, 2)
    for window, entered in windows(len(counts)):
        if not entered or len(range(log.oldest, log.stop)) == FRAMES:
            log.pop()
        if entered:
            log.push(supports[window[-1]])
        frames = range(window[0], window[-1] + 1)
        assert (log.oldest, log.stop) == (frames.start, frames.stop)
        held = [supports[i].top(per_frame) for i in frames]
        assert log.counts(frames) == [len(s) for s in held]
        for module in range(2):
            expected = KeyValues.concatenate([s.kvs[module] for s in held])
            kv = log.key_values(module, log.rows(frames))
            assert torch.equal(kv.boxes, expected.boxes)
            assert torch.equal(kv.keys, expected.keys)
            assert torch.equal(kv.values, expected.values)
        assert len(log.boxes(log.wide(log.rows(frames)))) >= MIN_COLUMNS
        inner = frames[len(frames) // 2 :]
        assert torch.equal(log.boxes(log.rows(inner)), torch.cat([supports[i].top(per_frame).boxes for i in inner]))


@torch.inference_mode()
def test_the_windows_of_a_log_are_no_copies(method: RDN) -> None:
    supports, log = lent(method, FULL), SupportLog(FRAMES, CONFIG.K, 2)
    for support in supports[:FRAMES]:
        log.push(support)
    whole, part = log.key_values(0, log.rows(range(FRAMES))), log.key_values(0, log.rows(range(1, FRAMES)))
    assert whole.keys[:, CONFIG.K :].data_ptr() == part.keys.data_ptr()
    assert whole.values[:, CONFIG.K :].data_ptr() == part.values.data_ptr()


# A frame that outweighs all others by more than float32 can tell, while it is in the window and after it has left.
@pytest.mark.parametrize("loud", [None, 0, 3, 11])
@pytest.mark.parametrize("counts", [FULL, RAGGED])
@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("shares", [[40.0], [100.0, 20.0, 40.0]])
@torch.inference_mode()
def test_refined_proposals_are_those_of_the_pool_gathered_anew(
    method: RDN, counts: list[int], loud: int | None, repeated: bool, shares: list[float]
) -> None:
    supports = lent(method, counts, [30.0 if i == loud else 1.0 for i in range(len(counts))])
    configs = [CONFIG.replace(r=share) for share in shares]
    (((refinement, served),),) = method.refinements([configs])
    assert isinstance(refinement, RefinedInParts)
    assert served == [[n] for n in range(len(shares))]
    previous = range(0)
    for window, entered in windows(len(counts)):
        if len(previous) and previous[0] != window[0]:
            refinement.pop()
        if entered:
            refinement.push(supports[window[-1]])
        previous = window
        copies = [1] * len(window)
        if repeated:  # the first frame of the video and the newest stand in for those beyond its ends
            copies[0] += 2 * (window[0] == 0)
            copies[-1] += 3
        held = [supports[i] for i in window]
        if not any(counts[i] for i in window):
            continue
        for got, config in zip(refinement.refined(copies), configs, strict=True):
            expected = method.gather(held, copies, config)
            assert expected.refined is not None
            torch.testing.assert_close(rows_of(got.kv), rows_of(expected.refined), atol=1e-4, rtol=1e-4)
            assert got.counts is not None
            named = torch.cat([lender.boxes[:n] for lender, n in zip(held, got.counts, strict=True)])
            assert torch.equal(got.kv.boxes, named)
            if repeated:
                assert got.copies is not None
                assert expected.refined_copies is not None
                got_copies = sorted_rows(got.kv.boxes, got.copies[:, None])
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
    sums = PartialSums(method.refine, FRAMES, refined_per_frame=2)
    unit = 4 * 2 * HEADS * WIDTH
    foretold = PartialSums.bytes_needed(FRAMES, 2, HEADS * WIDTH)
    assert foretold == 10 * unit  # pairs of five frames
    assert sums._before.outputs.untyped_storage().nbytes() == foretold + unit
