"""How large a cluster a study needs, and what settings are refused."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from k8s_rules import pods

from vodbench.errors import UserError
from vodbench.launch import sizes as sizing
from vodbench.launch.manifests import MAX_NAME, check_pod, job_name, ray_job, study_text
from vodbench.launch.settings import Cluster, Gpu, load_cluster
from vodbench.launch.sizes import Sizes, sizes_of
from vodbench.studies import Study, load_study, parse_study, shipped_studies

MINIMAL = {"image": "vodbench:1", "store": "s3://bucket/studies"}


@pytest.fixture(autouse=True)
def _no_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grid of 12 points, whatever the method: what a grid holds is tested with studies."""
    monkeypatch.setattr(sizing, "grid_points", lambda study: [None] * 12)


def study(**changes: Any) -> Study:
    return parse_study({"name": "s", "title": "t", "methods": [{"method": "m"}], **changes}, "s")


def sizes(max_gpus: int | None = None, *, gpu: Gpu | None = Gpu(), **changes: Any) -> Sizes:
    return sizes_of(study(**changes), Cluster(image="vodbench:1", store="s3://b/s", gpu=gpu), max_gpus)


@pytest.mark.parametrize(
    ("max_gpus", "workers", "at_once", "pods", "a_pod"),
    [
        (None, {}, 1, 1, 1),
        (None, {"concurrent_trials": 3}, 3, 3, 1),
        (8, {}, 8, 8, 1),
        (100, {}, 12, 12, 1),  # no more than there are trials
        (8, {"training": 4}, 2, 2, 4),  # a training inside a pod
        (7, {"training": 4}, 1, 1, 4),
        (32, {"training": 16, "evaluation": 2}, 2, 4, 8),  # no larger pod than machines have
        (8, {"evaluation": 2}, 4, 8, 1),
        (1, {"evaluation": 2}, 1, 1, 1),  # evaluation shares what there is
    ],
)
def test_as_many_trials_at_once_as_fit(
    max_gpus: int | None, workers: dict[str, int], at_once: int, pods: int, a_pod: int
) -> None:
    found = sizes(max_gpus, workers=workers)
    assert (found.at_once, found.pods, found.slots_a_pod) == (at_once, pods, a_pod)
    assert found.first_pods <= found.pods
    assert found.first_pods * found.slots_a_pod >= found.training_processes
    assert max_gpus is None or found.slots <= max_gpus


def test_searches_keep_rounds_to_learn_from() -> None:
    for sampler, at_once in (("tpe", 4), ("nsga2", 4), ("random", 20)):
        found = sizes(64, search={"sampler": sampler, "trials": 20})
        assert (found.trials, found.at_once) == (20, at_once), sampler
    assert "learn" in sizes(64, search={"sampler": "tpe", "trials": 20}).at_once_because
    assert sizes(64, search={"sampler": "tpe", "trials": 2}).at_once == 1


def test_trials_count_seeds_and_the_grids_bound() -> None:
    assert sizes(seeds=[0, 1, 2]).trials == 36
    assert sizes(seeds=[0, 1], search={"trials": 5}).trials == 5


def test_cores_for_decoding_follow_the_gpus_rate() -> None:
    slow, fast = sizes(gpu=Gpu(frames_per_second=235)), sizes(gpu=Gpu(frames_per_second=1000))
    assert (slow.decoding_cores, fast.decoding_cores) == (1, 5)
    eight = sizes(8, gpu=Gpu(per_pod=8, frames_per_second=1000), workers={"training_threads": 2})
    assert (eight.cpus, eight.memory_gib, eight.pods) == (8 * (2 + 5 + 1), 8 * 24, 1)


def test_a_bound_below_one_training_is_refused() -> None:
    with pytest.raises(UserError, match=r"--max-gpus 3 is below what one training takes: 4 in pods of 4"):
        sizes(3, workers={"training": 4})
    with pytest.raises(UserError, match="--max-gpus 7"):
        sizes(7, gpu=Gpu(per_pod=8))


def test_without_gpus_the_table_says_workers() -> None:
    found = sizes(4, gpu=None)
    assert not found.gpus
    assert ("CPU workers in all", "4", "4 pods of 1") in found.rows()


def test_names_are_labels_and_tell_studies_apart() -> None:
    assert job_name("rdn-table4") == "vodbench-rdn-table4"
    names = [job_name(name) for name in ("a.b", "a_b", "a-b", "x" * 60, "x" * 61, "7")]
    assert len(set(names)) == len(names)
    for name in names:
        assert len(name) <= MAX_NAME
        assert name.replace("-", "a").isalnum()
        assert name == name.lower()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"imagee": "x"}, "unknown key 'imagee': did you mean 'image'"),
        ({"image": "vodbench:latest"}, "names no fixed version"),
        ({"image": "vodbench"}, "names no fixed version"),
        ({"image": "registry:5000/vodbench"}, "names no fixed version"),
        ({"store": "/studies"}, "store = '/studies'"),
        ({"tracking": "http://user:password@mlflow:5000"}, "tracking = "),
        ({"ray_version": "2.51.0"}, "has no token authentication"),
        ({"shm_gib": 24}, "shm_gib = 24 is part of memory_gib"),
        ({"gpu.typ": "H100"}, "unknown key 'typ': did you mean 'type'"),
        ({"gpu.per_pod": 0}, "gpu.per_pod = 0"),
        ({"namespace": "My_Space"}, "namespace = 'My_Space'"),
    ],
)
def test_settings_are_strict(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError) as refused:
        load_cluster(None, {**MINIMAL, **changes})
    assert expected in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_registrys_secret_and_the_priority_reach_every_pod() -> None:
    settings = load_cluster(None, {**MINIMAL, "pull_secret": "registry", "priority_class": "batch"})
    job = ray_job(study(), settings, sizes_of(study(), settings))
    found = [pod["spec"] for _, pod in pods(job)]
    assert len(found) == 3
    for spec in [*found, check_pod(study(), settings)["spec"]]:
        assert (spec["imagePullSecrets"], spec["priorityClassName"]) == ([{"name": "registry"}], "batch")


@pytest.mark.parametrize("name", sorted(shipped_studies()))
def test_the_study_that_is_sent_is_the_study(name: str) -> None:
    sent = load_study(name)
    assert parse_study(yaml.safe_load(study_text(sent)), "sent") == sent


def test_images_may_name_a_registry_with_a_port_or_a_digest() -> None:
    for image in ("registry:5000/team/vodbench:1.2", f"vodbench@sha256:{'a' * 64}", f"r/v:1@sha256:{'b' * 64}"):
        assert load_cluster(None, {**MINIMAL, "image": image}).image == image
