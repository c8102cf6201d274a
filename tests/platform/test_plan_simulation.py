"""The simulated sweep against what can be worked out by hand, and against what must hold whatever happens."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import pytest

from vodbench.plan.bounds import bounds
from vodbench.plan.engine import Machines
from vodbench.plan.priced import Training, Trial, Work
from vodbench.plan.simulate import Outcome, Scenario, simulate


def training(name: str, seconds: float, parent: str | None = None, read_bytes: float = 0.0) -> Training:
    return Training(name=name, parent=parent, seconds=seconds, read_bytes=read_bytes)


def trial(name: str, *chain: str, encoding: str | None = None, encode: float = 0.0, own: float = 0.0,
          score: float = 0.0, measure: float = 0.0) -> Trial:  # fmt: skip
    return Trial(name=name, chain=chain, encoding=encoding, encode_s=encode, own_s=own, score_s=score,
                 measure_s=measure)  # fmt: skip


def work(trainings: dict[str, Training], *trials: Trial, **settings: float | bool | None) -> Work:
    return Work(trainings=trainings, units=tuple((each,) for each in trials), **settings)  # type: ignore[arg-type]


def run(asked: Work, *, nodes: int = 1, slots: int = 1, storage: float | None = None, **scenario: object) -> Outcome:
    machines = Machines(nodes=nodes, slots_a_node=slots, storage_bytes_s=storage)
    return simulate(asked, machines, Scenario(**scenario))  # type: ignore[arg-type]


SHARED = {"a": training("a", 100.0), "b": training("b", 30.0, "a"), "c": training("c", 50.0, "a")}
TWO = work(
    SHARED,
    trial("T=1", "a", "b", encode=20.0, own=4.0, score=3.0, measure=7.0),
    trial("T=2", "a", "c", encode=20.0, own=6.0, score=3.0, measure=9.0),
    start_s=5.0,
    train_start_s=2.0,
    pass_start_s=1.0,
    trial_s=0.5,
)


def test_one_trial_at_a_time_takes_the_sum_of_all_parts_and_a_shared_training_once() -> None:
    trainings, starts = 100 + 30 + 50, 2 * 2 + 2 * 1
    assert run(TWO).wall_s == pytest.approx(5 + trainings + starts + (20 + 4) + (20 + 6) + 2 * 3 + 7 + 9 + 2 * 0.5)
    assert run(TWO).trainings == 3


def test_with_room_for_all_the_longest_chain_remains() -> None:
    """The second trial waits for the stage that the first one trains, and then trains its own beside it."""
    got = run(TWO, nodes=4, slots=1, at_once=2, measuring_nodes=4)
    first = 5 + 2 + 100 + 30 + 1 + 24 + 3 + 7 + 0.5
    second = 5 + 2 + 100 + 2 + 50 + 1 + 26 + 3 + 9 + 0.5
    assert got.wall_s == pytest.approx(max(first, second))
    assert got.trainings == 3


def test_what_is_done_ahead_starts_one_training_run_and_encodes_a_frame_once() -> None:
    ahead = work(
        {"a": training("a", 100.0)},
        *(trial(f"T={t}", "a", encoding="e", encode=20.0, own=2.0, measure=1.0) for t in range(5)),
        train_start_s=2.0,
        pass_start_s=1.0,
        ahead=True,
    )
    assert run(ahead).wall_s == pytest.approx(2 + 100 + 1 + 20 + 5 * 2 + 5 * 1)
    assert run(ahead).passes == 1
    assert run(replace(ahead, first_pass_s=4.0)).wall_s == run(ahead).wall_s + 4
    assert run(replace(ahead, configs_a_pass=2)).wall_s == pytest.approx(2 + 100 + 3 * (1 + 20) + 5 * 2 + 5 * 1)


def test_kept_frames_are_not_encoded_again_as_far_as_the_cache_has_room() -> None:
    trials = [trial(f"T={t}", "a", encoding="e", encode=20.0, own=2.0) for t in range(3)]
    for kept in (0.0, 0.25, 1.0):
        got = run(work({"a": training("a", 1.0)}, *trials, kept=kept, read_bytes=100.0))
        assert got.wall_s == pytest.approx(1 + 3 * 2 + 20 + 2 * 20 * (1 - kept))
        assert got.read_bytes == pytest.approx(100 + 2 * 100 * (1 - kept))


def test_processes_share_a_pass() -> None:
    asked = work({"a": training("a", 1.0)}, trial("t", "a", encode=20.0, own=4.0), detect_slots=4)
    assert run(asked, slots=4).wall_s == pytest.approx(1 + 24 / 4)
    assert run(asked, slots=2).wall_s == pytest.approx(1 + 24 / 2)


def test_work_stands_still_where_a_runtime_is_measured() -> None:
    """The second trial trains from 0 on; the first measures from 10 to 30 on the same node, or on another one."""
    asked = work({"a": training("a", 10.0), "b": training("b", 50.0)}, trial("x", "a", measure=20.0), trial("y", "b"))
    beside = run(asked, nodes=1, slots=2, at_once=2)
    assert beside.wall_s == pytest.approx(50 + 20)
    assert beside.ledger.standing == pytest.approx(20)
    assert beside.ledger.measuring == pytest.approx(20)  # on the slot that was free
    assert beside.ledger.idle == pytest.approx(2 * 70 - 10 - 50 - 20 - 20)
    apart = run(work(dict(asked.trainings), asked.trials[1], asked.trials[0]), nodes=2, slots=1, at_once=2,
                measuring_nodes=2)  # fmt: skip
    assert apart.wall_s == pytest.approx(50)


def test_measurements_of_a_node_take_turns() -> None:
    trials = [trial(f"{n}", "a", measure=10.0) for n in range(6)]
    asked = work({"a": training("a", 1.0)}, *trials)
    assert run(asked, nodes=6, slots=1, at_once=6, measuring_nodes=1).wall_s == pytest.approx(1 + 60)
    assert run(asked, nodes=6, slots=1, at_once=6, measuring_nodes=3).wall_s == pytest.approx(1 + 20)


def test_readers_share_the_storage() -> None:
    """Each wants 10 bytes/s. Together they get 10 until the first one has read its 100 bytes."""
    asked = work(
        {"a": training("a", 10.0, read_bytes=100.0), "b": training("b", 20.0, read_bytes=200.0)},
        trial("x", "a"),
        trial("y", "b"),
    )
    assert run(asked, slots=2, at_once=2, storage=20.0).wall_s == pytest.approx(20)
    assert run(asked, slots=2, at_once=2, storage=10.0).wall_s == pytest.approx(30)


def test_the_driver_takes_one_trial_after_the_other() -> None:
    asked = work({"a": training("a", 1.0)}, *(trial(f"{n}", "a") for n in range(50)), trial_s=2.0)
    assert run(asked, nodes=50, slots=1, at_once=50).wall_s == pytest.approx(1 + 50 * 2)


# ---- what must hold whatever happens ------------------------------------------------------------------------


def some_work(seed: int) -> Work:
    """Trials over two families of trainings, some of which share a first stage."""
    chance = random.Random(seed)
    trainings = {}
    chains = []
    for family in "pq":
        trainings[family] = training(family, chance.uniform(100, 5000), read_bytes=1e9)
        for head in range(chance.randint(1, 3)):
            name = f"{family}{head}"
            trainings[name] = training(name, chance.uniform(50, 2000), family, read_bytes=1e9)
            chains.append((family, name))
    trials = []
    for number in range(chance.randint(4, 20)):
        chain = chance.choice(chains)
        shared = f"e{chain[-1]}" if chance.random() < 0.7 else None
        encode = 150.0 if shared else chance.uniform(50, 800)
        trials.append(trial(f"{number}", *chain, encoding=shared, encode=encode,
                            own=chance.uniform(5, 300), score=5.0, measure=chance.uniform(1, 60)))  # fmt: skip
    needed = {name for each in trials for name in each.chain}
    return work(
        {name: value for name, value in trainings.items() if name in needed},
        *trials,
        train_slots=4,
        detect_slots=4,
        start_s=20.0,
        train_start_s=10.0,
        pass_start_s=2.0,
        trial_s=0.3,
        read_bytes=1e9,
        kept=chance.choice([0.0, 0.3, 1.0]),
    )


RISKY = {"straggle": 0.3, "mtbf_s": 4000.0, "repair_s": 300.0, "at_once": 4, "measuring_nodes": 2}


@pytest.mark.parametrize("seed", range(6))
def test_every_slot_second_is_accounted_for(seed: int) -> None:
    got = run(some_work(seed), nodes=4, slots=8, storage=3e6, seed=seed, **RISKY)
    assert got.failures > 0
    assert got.ledger.total == pytest.approx(32 * got.wall_s)
    assert min(vars(got.ledger).values()) >= -1e-6


@pytest.mark.parametrize("seed", range(4))
def test_failures_repeat_work_and_never_leave_any_out(seed: int) -> None:
    asked = replace(some_work(seed), kept=0.0)  # whether frames are kept in time is a matter of time
    calm = run(asked, nodes=4, slots=8, at_once=4, measuring_nodes=2)
    failing = run(asked, nodes=4, slots=8, at_once=4, measuring_nodes=2, mtbf_s=3000.0, seed=seed)
    assert calm.failures == calm.ledger.lost == 0
    assert failing.failures > 0
    assert failing.ledger.lost > 0
    assert failing.ledger.useful + failing.ledger.measuring == pytest.approx(calm.ledger.useful + calm.ledger.measuring)
    assert failing.trainings == calm.trainings == len(asked.trainings)


def test_the_more_often_nodes_fail_the_more_is_lost() -> None:
    asked = some_work(3)
    lost = [
        sum(run(asked, nodes=4, slots=8, at_once=4, mtbf_s=mtbf_s, checkpoint_s=60.0, seed=seed).ledger.lost
            for seed in range(8))
        for mtbf_s in (100_000.0, 10_000.0, 1_000.0)
    ]  # fmt: skip
    assert lost == sorted(lost)
    assert lost[0] < lost[2]


def test_rarer_checkpoints_lose_more() -> None:
    asked = some_work(1)
    lost = [
        sum(run(asked, nodes=4, slots=8, at_once=4, mtbf_s=3000.0, checkpoint_s=every, seed=s).ledger.lost
            for s in range(8))
        for every in (5.0, 50.0, 500.0)
    ]  # fmt: skip
    assert lost == sorted(lost)


@pytest.mark.parametrize("seed", range(6))
def test_chance_is_the_seeds_alone(seed: int) -> None:
    asked = some_work(seed)
    assert run(asked, nodes=4, slots=8, seed=1, **RISKY) == run(asked, nodes=4, slots=8, seed=1, **RISKY)
    assert run(asked, nodes=4, slots=8, seed=1, **RISKY) != run(asked, nodes=4, slots=8, seed=2, **RISKY)
    calm = {"nodes": 4, "slots": 8, "at_once": 4}
    assert run(asked, **calm, seed=1) == run(asked, **calm, seed=2)


@pytest.mark.parametrize("seed", range(6))
def test_no_sweep_is_faster_than_its_bounds_nor_slower_than_one_trial_after_the_other(seed: int) -> None:
    asked = some_work(seed)
    serial = run(asked, slots=8).wall_s
    for at_once in (1, 2, 8, 64):
        scenario = Scenario(at_once=at_once, measuring_nodes=max(1, at_once // 4))
        machines = Machines(nodes=max(1, at_once), slots_a_node=8)
        wall = simulate(asked, machines, scenario).wall_s
        assert bounds(asked, machines, scenario)[0].seconds <= wall * (1 + 1e-9)
        # Trials that begin together each encode what one of them could have kept for the others.
        assert wall <= serial + sum(each.encode_s for each in asked.trials)


@pytest.mark.parametrize("seed", range(6))
def test_more_places_do_not_make_it_slower_where_nothing_is_kept(seed: int) -> None:
    asked = replace(some_work(seed), kept=0.0, units=tuple(sorted(some_work(seed).units, key=lambda u: u[0].chain)))
    walls = [run(asked, nodes=n, slots=8, at_once=n, measuring_nodes=n).wall_s for n in (1, 2, 4, 32)]
    assert all(fewer >= more * 0.999 for fewer, more in pairwise(walls))


def test_stragglers_hold_up_a_training_more_than_a_pass() -> None:
    """A training waits for the slowest of 8 workers: 1.42 standard deviations on average (order statistics)."""
    trainings = {"a": training("a", 1000.0)}
    slow = [run(work(trainings, trial("t", "a"), train_slots=8), slots=8, straggle=0.1, seed=s).wall_s / 1000
            for s in range(300)]  # fmt: skip
    assert sum(slow) / 300 == pytest.approx(1.148, abs=0.02)
    quick = work({"a": training("a", 0.0)}, trial("t", "a", own=8000.0), detect_slots=8)
    passes = [run(quick, slots=8, straggle=0.1, seed=s).wall_s / 1000 for s in range(300)]
    assert sum(passes) / 300 == pytest.approx(1.0, abs=0.02)
