"""launch/gke_jobset.yaml and launch/Dockerfile, as far as they can be looked at without a cluster.

The fields are those of the JobSet API where the package kubeflow-trainer-api is installed, which
has its models; without it only what is asserted here by hand.
"""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from cleanclip_jax.args import Parser, apply, parse
from cleanclip_jax.config import load
from cleanclip_jax.process import add_flags

ROOT = Path(__file__).parent.parent.parent
FILE = ROOT / "launch" / "gke_jobset.yaml"
JOBSETS = {job["metadata"]["name"]: job for job in yaml.safe_load_all(FILE.read_text())}


@pytest.fixture(params=["cleanclip-tpu", "cleanclip-gpu"])
def jobset(request: pytest.FixtureRequest) -> dict[str, Any]:
    return JOBSETS[request.param]


def job_of(jobset: dict[str, Any]) -> dict[str, Any]:
    [workers] = jobset["spec"]["replicatedJobs"]
    return workers["template"]["spec"]


def container_of(jobset: dict[str, Any]) -> dict[str, Any]:
    [container] = job_of(jobset)["template"]["spec"]["containers"]
    return container


def test_there_are_two(jobset: dict[str, Any]):
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    name = jobset["metadata"]["name"]
    assert len(JOBSETS) == 2 and jobset["metadata"]["labels"] == {"cleanclip": name[-3:]}


def test_the_fields_are_those_of_the_api(jobset: dict[str, Any]):
    models = pytest.importorskip("kubeflow_trainer_api.models")

    def given(value: Any) -> Any:
        """Without what the models add: fields that were left out, as None."""
        if isinstance(value, dict):
            return {key: given(each) for key, each in value.items() if each is not None}
        return [given(each) for each in value] if isinstance(value, list) else value

    known = models.JobsetV1alpha2JobSet.from_dict(jobset).to_dict()
    assert given(known) == jobset  # a field that they don't know is lost


def test_codes_mean_what_they_mean_everywhere(jobset: dict[str, Any]):
    """2 and 1 end it; whatever else fails makes all pods anew, so many times."""
    job, policy = job_of(jobset), jobset["spec"]["failurePolicy"]
    count, fail = job["podFailurePolicy"]["rules"]
    assert count["action"] == "Count"
    assert [each["type"] for each in count["onPodConditions"]] == ["DisruptionTarget"]
    assert fail["action"] == "FailJob"
    codes = fail["onExitCodes"]
    assert (codes["operator"], codes["values"]) == ("In", [1, 2])
    assert codes["containerName"] == container_of(jobset)["name"]
    actions = [(rule["action"], rule["onJobFailureReasons"]) for rule in policy["rules"]]
    assert actions == [
        ("FailJobSet", ["PodFailurePolicy"]),
        ("RestartJobSet", ["BackoffLimitExceeded"]),
    ]
    assert policy["maxRestarts"] > 0
    # One pod's end is its job's end, and a pod never starts again alone: both are what a
    # podFailurePolicy asks for.
    assert job["backoffLimit"] == 0
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    assert job["template"]["spec"]["terminationGracePeriodSeconds"] >= 120


def test_the_command_is_one_that_cleanclip_takes(jobset: dict[str, Any]):
    job, container = job_of(jobset), container_of(jobset)
    assert "command" not in container  # the image's: cleanclip itself, which SIGTERM must reach
    filled = {"JOBSET": jobset["metadata"]["name"], "INDEX": "1"}
    words = [re.sub(r"\$\((\w+)\)", lambda name: filled[name[1]], w) for w in container["args"]]
    parser = Parser(prog="cleanclip train")
    parser.add_argument("--config")
    parser.add_argument("--workdir", type=Path)
    add_flags(parser)
    assert words[0] == "train"
    asked, overrides = parse(parser, words[1:])
    config = apply(load(asked.config), overrides)
    assert config.data.train.kind == "arrayrecord"
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert mounts[f"/{asked.workdir.parts[1]}"] == "runs"
    volumes = {volume["name"]: volume for volume in job["template"]["spec"]["volumes"]}
    assert set(mounts.values()) == set(volumes) and "persistentVolumeClaim" in volumes["runs"]
    assert job["completionMode"] == "Indexed" and job["parallelism"] == job["completions"]
    if asked.coordinator:
        workers = jobset["spec"]["replicatedJobs"][0]["name"]
        name = jobset["metadata"]["name"]
        # JobSet's name for the pod 0 of job 0, and the name of its service.
        assert asked.coordinator.split(":")[0] == f"{name}-{workers}-0-0.{name}"
        assert (asked.processes, asked.process) == (job["parallelism"], 1)


def test_the_slice_has_as_many_chips_as_its_hosts():
    job, container = job_of(JOBSETS["cleanclip-tpu"]), container_of(JOBSETS["cleanclip-tpu"])
    topology = job["template"]["spec"]["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    rows, columns = map(int, topology.split("x"))
    resources = container["resources"]
    assert resources["requests"] == resources["limits"]
    assert rows * columns == job["parallelism"] * resources["limits"]["google.com/tpu"]
    assert not any("--coordinator" in word for word in container["args"])  # GKE tells


def test_the_image_is_made_of_what_is_here():
    lines = (ROOT / "launch" / "Dockerfile").read_text().splitlines()
    words = [line.split() for line in lines if line and line[0] not in "#"]
    sources = [source for word in words if word[0] == "COPY" for source in word[1:-1]]
    assert sources and all((ROOT / source).exists() for source in sources)
    [python] = [word[1].split(":")[1].split("-")[0] for word in words if word[0] == "FROM"]
    [install] = [" ".join(word) for word in words if word[0] == "RUN"]
    assert f"-c constraints/py{python.replace('.', '')}.txt" in install
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"tpu", "cuda", "gcs"} <= extras["optional-dependencies"].keys()
    assert "${EXTRA},gcs" in install
    [entry] = [" ".join(word[1:]) for word in words if word[0] == "ENTRYPOINT"]
    assert json.loads(entry) == ["cleanclip"]
