"""Manifests: what the cluster is promised, and that its own schema takes them."""

from __future__ import annotations

import kubernetes_validate
import pytest
import yaml
from ruamel.yaml import YAML

from serving import metrics
from serving.containers import UID
from serving.edge import Edge
from serving.kubernetes import APART, SCRATCH, WORKSPACE, Deployed, NotDeployable, manifests, to_yaml
from serving.manifest import NEEDS
from serving.service import Settings

TAG = "homepage:afb53b7aa11cb9a8"


def rendered(tag=TAG, **how):
    """As text, and read again: what kubectl would see."""
    return {
        found["kind"]: found for found in yaml.safe_load_all(to_yaml(manifests(Deployed.of_tag(tag, **how))))
    }


def pod(objects):
    return objects["Deployment"]["spec"]["template"]["spec"]


def container(objects):
    (only,) = pod(objects)["containers"]
    return only


def environment(objects):
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container(objects)["env"]}


@pytest.mark.parametrize("service", NEEDS)
@pytest.mark.parametrize("version", ["1.27", "1.31", "1.37"])
def test_every_kind_fits_the_clusters_schema_strictly(service, version):
    objects = rendered(f"{service}:afb53b7aa11cb9a8", token_secret="matinee-api")
    assert set(objects) == {"Service", "Deployment", "PodDisruptionBudget", "HorizontalPodAutoscaler"}
    for found in objects.values():
        kubernetes_validate.validate(found, version, strict=True)


def test_the_schema_would_notice_a_misspelt_field():
    deployment = rendered()["Deployment"]
    pod({"Deployment": deployment})["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, "1.31", strict=True)


@pytest.mark.parametrize(
    "version", ["123456789012e345", "1234567890123456", "0o17", "1_000", "0x1f", "true", "null", "1.5"]
)
def test_a_tag_that_looks_like_a_number_stays_text_to_yaml_of_either_version(version):
    text = to_yaml(manifests(Deployed.of_tag(f"homepage:{version}")))
    for objects in (yaml.safe_load_all(text), YAML(typ="safe", pure=True).load_all(text)):
        for found in objects:
            assert found["metadata"]["labels"]["app.kubernetes.io/version"] == version


def test_everything_selects_the_same_pods():
    objects = rendered()
    labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for selector in (
        objects["Service"]["spec"]["selector"],
        objects["Deployment"]["spec"]["selector"]["matchLabels"],
        objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
        assert "app.kubernetes.io/version" not in selector  # it changes, and a selector must not
    assert (
        objects["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"]
        == objects["Deployment"]["metadata"]["name"]
    )
    assert {one["metadata"]["namespace"] for one in objects.values()} == {"matinee"}
    assert rendered(namespace="films")["Service"]["metadata"]["namespace"] == "films"


def test_a_rolling_update_loses_no_request():
    objects = rendered()
    update = objects["Deployment"]["spec"]["strategy"]["rollingUpdate"]
    assert (update["maxUnavailable"], update["maxSurge"]) == (0, 1)
    (before_stop,) = [
        int(word) for word in container(objects)["lifecycle"]["preStop"]["exec"]["command"] if word.isdigit()
    ]
    longest_request_s = 10  # the services' own traffic timeout
    assert pod(objects)["terminationGracePeriodSeconds"] > before_stop + longest_request_s
    unready_after = container(objects)["readinessProbe"]
    assert unready_after["periodSeconds"] * unready_after["failureThreshold"] <= before_stop


def test_probes_ask_what_the_service_answers():
    found = container(rendered())
    assert {kind: found[kind]["httpGet"]["path"] for kind in ("startupProbe", "readinessProbe", "livenessProbe")} == {
        "startupProbe": "/readyz", "readinessProbe": "/readyz", "livenessProbe": "/livez",
    }  # fmt: skip
    assert found["startupProbe"]["periodSeconds"] * found["startupProbe"]["failureThreshold"] >= 60
    (port,) = found["ports"]
    assert found["args"][-1] == str(port["containerPort"])
    assert rendered()["Service"]["spec"]["ports"][0]["targetPort"] == port["name"]


def test_pods_are_added_by_requests_in_flight_which_is_a_metric_of_ours():
    spec = rendered(in_flight=6, min_replicas=3, max_replicas=7)["HorizontalPodAutoscaler"]["spec"]
    (metric,) = spec["metrics"]
    (described,) = metrics.IN_FLIGHT.describe()
    assert metric["pods"]["metric"]["name"] == described.name
    assert metric["pods"]["target"] == {"type": "AverageValue", "averageValue": "6"}
    assert (spec["minReplicas"], spec["maxReplicas"]) == (3, 7)
    assert "replicas" not in rendered()["Deployment"]["spec"]  # or every apply would undo the autoscaler


def test_nothing_runs_as_root_or_writes_where_it_need_not():
    objects = rendered()
    about, inside = pod(objects)["securityContext"], container(objects)["securityContext"]
    assert (about["runAsNonRoot"], about["runAsUser"], about["fsGroup"]) == (True, UID, UID)
    assert about["seccompProfile"] == {"type": "RuntimeDefault"}
    assert (inside["allowPrivilegeEscalation"], inside["readOnlyRootFilesystem"]) == (False, True)
    assert inside["capabilities"] == {"drop": ["ALL"]}
    assert pod(objects)["automountServiceAccountToken"] is False
    mounts = {mount["mountPath"]: mount for mount in container(objects)["volumeMounts"]}
    assert set(mounts) == {WORKSPACE, SCRATCH}
    assert mounts[WORKSPACE]["readOnly"] is False  # exposures are written there
    alone = container(rendered("ranker:afb53b7aa11cb9a8"))["volumeMounts"]
    assert {mount["mountPath"]: mount.get("readOnly", False) for mount in alone} == {
        WORKSPACE: True,
        SCRATCH: False,
    }


def test_memory_is_bounded_and_processors_are_not_throttled():
    resources = container(rendered(cpu="750m", memory="2Gi"))["resources"]
    assert resources == {"requests": {"cpu": "750m", "memory": "2Gi"}, "limits": {"memory": "2Gi"}}


def test_the_environment_is_one_that_the_service_reads():
    read = {f"MATINEE_{name.upper()}" for kind in (Settings, Edge) for name in kind.model_fields}
    for objects in (rendered(), rendered(apart=True)):
        set_here = {name for name in environment(objects) if name.startswith("MATINEE_")}
        assert set_here <= read
    assert environment(rendered())["MATINEE_HOME"] == WORKSPACE
    assert environment(rendered())["OMP_NUM_THREADS"] == "1"


def test_the_token_comes_from_a_secret_and_is_never_in_the_manifest():
    token = environment(rendered(token_secret="films-api"))["MATINEE_API_TOKEN"]
    assert token == {"secretKeyRef": {"name": "films-api", "key": "token"}}
    assert "MATINEE_API_TOKEN" not in environment(rendered(token_secret=None))


def test_a_homepage_apart_finds_the_services_of_the_others():
    services = {rendered(f"{kind}:1")["Service"]["metadata"]["name"]: kind for kind in APART}
    found = environment(rendered(apart=True))
    for name, kind in services.items():
        assert found[f"MATINEE_{kind.upper()}_URL"] == f"http://{name}:3000"
    assert not any(name.endswith("_URL") for name in environment(rendered()))


@pytest.mark.parametrize(
    ("tag", "how", "says"),
    [
        ("homepgae:1", {}, "service: Input should be 'homepage', 'retriever', 'ranker' or 'artwork'"),
        ("homepage", {}, "version: String should match"),
        (TAG, {"namespace": "Films!"}, "namespace: String should match"),
        (TAG, {"min_replicas": 4, "max_replicas": 3}, "min_replicas 4 is more than max_replicas 3"),
        ("ranker:1", {"apart": True}, "only a homepage runs apart"),
        (TAG, {"memory": "much"}, "memory: String should match"),
    ],
)
def test_what_no_cluster_would_take_is_refused_by_name(tag, how, says):
    with pytest.raises(NotDeployable, match=tag) as refused:
        Deployed.of_tag(tag, **how)
    assert says in str(refused.value)
