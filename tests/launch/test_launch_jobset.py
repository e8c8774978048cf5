"""launch/jobset.yaml against the published types of JobSet v1alpha2 and of Kubernetes' Jobs."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from wsicl_jax.distributed.processes import find_cluster

FILE = Path(__file__).parents[2] / "launch" / "jobset.yaml"

ACTIONS = {"FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"}
"""Of a JobSet's failure rules; the published types have them in words only."""


@pytest.fixture
def jobset() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text())


def check(document: dict[str, Any]) -> None:
    """Raise ValueError where the document is not of the published types; unknown keys too."""
    pytest.importorskip("kubeflow_trainer_api", reason="install the extra `dev`")
    from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet

    # The types were generated without forbidding unknown keys, but they do not keep them.
    understood = JobsetV1alpha2JobSet.from_dict(document).to_dict()
    unknown = _difference(document, understood)
    if unknown:
        raise ValueError(f"no such keys: {unknown}")


def _difference(given: Any, understood: Any, path: str = "") -> list[str]:
    if isinstance(given, dict) and isinstance(understood, dict):
        return [
            found
            for key, value in given.items()
            for found in (
                _difference(value, understood[key], f"{path}.{key}")
                if key in understood
                else [f"{path}.{key}"]
            )
        ]
    if isinstance(given, list) and isinstance(understood, list) and len(given) == len(understood):
        pairs = enumerate(zip(given, understood, strict=True))
        return [found for i, (a, b) in pairs for found in _difference(a, b, f"{path}[{i}]")]
    return [] if given == understood else [path]


def at(document: Any, path: str) -> Any:
    for step in path.split("/"):
        document = document[int(step)] if step.isdecimal() else document[step]
    return document


JOB = "spec/replicatedJobs/0/template/spec"
POD = f"{JOB}/template/spec"


def test_the_file_is_a_jobset_as_published(jobset):
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    check(jobset)
    assert {rule["action"] for rule in jobset["spec"]["failurePolicy"]["rules"]} <= ACTIONS


@pytest.mark.parametrize(
    ("where", "key", "value"),
    [
        ("spec", "replicas", 2),
        ("spec/network", "enableDNSHostname", True),
        ("spec/failurePolicy", "maxRestarts", "3"),
        ("spec/failurePolicy/rules/0", "action", None),
        (JOB, "backOffLimit", 0),
        (f"{JOB}/podFailurePolicy/rules/0/onExitCodes", "values", ["75"]),
        (POD, "restartpolicy", "Never"),
        (f"{POD}/containers/0", "args", "train"),
        (f"{POD}/containers/0/env/0/valueFrom/fieldRef", "path", "metadata.name"),
        (f"{POD}/volumes/0/persistentVolumeClaim", "name", "work"),
    ],
)
def test_the_check_finds_mistakes(jobset, where, key, value):
    wrong = copy.deepcopy(jobset)
    at(wrong, where)[key] = value
    with pytest.raises(ValueError):
        check(wrong)


def test_its_pods_find_each_other_by_the_variables_that_it_sets(jobset):
    [job] = jobset["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    name, replicas = jobset["metadata"]["name"], job["replicas"]
    labels = {
        "jobset-name": name,
        "replicatedjob-name": job["name"],
        "replicatedjob-replicas": str(replicas),
    }
    seen = set()
    for index in range(replicas):
        environment = {"JOB_COMPLETION_INDEX": "0"}
        for variable in at(jobset, f"{POD}/containers/0/env"):
            if "value" in variable:
                environment[variable["name"]] = variable["value"]
                continue
            path = variable["valueFrom"]["fieldRef"]["fieldPath"]
            label = path.removeprefix("metadata.labels['jobset.sigs.k8s.io/").removesuffix("']")
            environment[variable["name"]] = (labels | {"job-index": str(index)})[label]
        joining = find_cluster(environment=environment).joining
        assert joining["coordinator_address"].startswith(f"{name}-{job['name']}-0-0.{name}:")
        assert joining["num_processes"] == replicas * spec["parallelism"]
        seen.add(joining["process_id"])
    assert seen == set(range(replicas))
    pods = environment["JOBSET_PODS_PER_JOB"]
    assert (spec["parallelism"], spec["completions"]) == (int(pods), int(pods))
    assert spec["completionMode"] == "Indexed"


def test_a_run_that_was_stopped_on_request_restarts_without_using_up_the_retries(jobset):
    spec, container = at(jobset, JOB), at(jobset, f"{POD}/containers/0")
    stopped = spec["podFailurePolicy"]["rules"][0]
    assert stopped["action"] == "FailJob"
    assert stopped["onExitCodes"] == {
        "containerName": container["name"],
        "operator": "In",
        "values": [75],
    }
    assert at(jobset, POD)["restartPolicy"] == "Never"  # or Kubernetes refuses the policy
    [rule] = jobset["spec"]["failurePolicy"]["rules"]
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert container["command"] == ["wsicl", "train"]
    assert container["args"][-1] == "--resume"
