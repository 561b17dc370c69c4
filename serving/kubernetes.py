"""A Bento on Kubernetes: plain manifests, rendered from one frozen value.

What is promised: no request is lost while pods are replaced (a new one is ready before an old one goes, which first stays up
while it leaves the Service, then finishes what it accepted); pods are added as requests in flight grow; nothing runs as
root or writes anywhere but into the workspace and a scratch volume.
"""

from __future__ import annotations

from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from serving.containers import UID
from serving.manifest import ServiceName

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,50}[a-z0-9])?$")]
"""A DNS label, with room for a prefix."""
Value = dict[str, Any]
PORT = 3000
APART: tuple[ServiceName, ...] = ("retriever", "ranker", "artwork")
WORKSPACE, SCRATCH = "/workspace", "/scratch"
IN_FLIGHT = "matinee_requests_in_flight"
LEAVES_SERVICE_S = 5
"""Seconds in which endpoints are taken out of load balancers before a pod is told to stop."""


class NotDeployable(ValueError):
    """What was asked for cannot be deployed; the message names each setting and what is wrong with it."""

    def __init__(self, tag: str, problem: ValidationError) -> None:
        faults = (f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in problem.errors())
        super().__init__(f"{tag}: {'; '.join(faults)}")


class Deployed(BaseModel):
    """How one Bento runs in a cluster."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    service: ServiceName
    version: str = Field(pattern=r"^[a-z0-9][-a-z0-9._]{0,62}$", description="the Bento's, in its tag")
    image: str = Field(
        min_length=1, description="as `bentoml containerize` tagged it, with a registry before it"
    )
    namespace: Name = "matinee"
    claim: Name = Field("matinee-workspace", description="the volume of the workspace; ReadWriteMany")
    token_secret: Name | None = Field(
        "matinee-api", description="Secret whose key `token` clients must send; None: anybody may ask"
    )
    apart: bool = Field(False, description="homepage: ask the other services instead of holding their models")
    min_replicas: int = Field(2, ge=1)
    max_replicas: int = Field(10, ge=1)
    in_flight: int = Field(4, ge=1, description="requests in flight a pod, around which pods are added")
    cpu: str = Field("1", pattern=r"^\d+m?$", description="asked for; no limit, as throttling is latency")
    memory: str = Field("1536Mi", pattern=r"^\d+[MG]i$", description="asked for, and the limit")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas {self.min_replicas} is more than max_replicas {self.max_replicas}."
            )
        if self.apart and self.service != "homepage":
            raise ValueError(f"only a homepage runs apart from the other services, not {self.service!r}.")
        return self

    @classmethod
    def of_tag(cls, tag: str, **how: object) -> Self:
        """The Bento NAME:VERSION; its image is called as its tag if `how` does not say.

        Raises:
            NotDeployable: a setting is not one that Kubernetes takes, or they do not fit each other.
        """
        service, _, version = tag.partition(":")
        try:
            return cls.model_validate({"service": service, "version": version, "image": tag} | how)
        except ValidationError as problem:
            raise NotDeployable(tag, problem) from None

    @property
    def name(self) -> str:
        """What its objects are called."""
        return f"matinee-{self.service}"

    @property
    def selector(self) -> dict[str, str]:
        """The labels that never change."""
        return {"app.kubernetes.io/name": self.name}

    @property
    def labels(self) -> dict[str, str]:
        """All labels."""
        return self.selector | {
            "app.kubernetes.io/part-of": "matinee",
            "app.kubernetes.io/version": self.version,
        }


def manifests(deployed: Deployed) -> tuple[Value, ...]:
    """Service, Deployment, PodDisruptionBudget and HorizontalPodAutoscaler."""
    return (_service(deployed), _deployment(deployed), _budget(deployed), _autoscaler(deployed))


class _Dumper(yaml.SafeDumper):
    """Quotes what begins with a digit: `12e4` is text in YAML 1.1, which this writes, and a number in 1.2."""

    def ignore_aliases(self, _: object) -> bool:
        """Never refer back: every object stands alone."""
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if text[:1].isdigit() else None)


_Dumper.add_representer(str, _text)


def to_yaml(objects: tuple[Value, ...]) -> str:
    """For `kubectl apply -f -`."""
    text: str = yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False)
    return text


def _object(deployed: Deployed, api: str, kind: str, spec: Value) -> Value:
    about = {"name": deployed.name, "namespace": deployed.namespace, "labels": deployed.labels}
    return {"apiVersion": api, "kind": kind, "metadata": about, "spec": spec}


def _service(deployed: Deployed) -> Value:
    port = {"name": "http", "port": PORT, "targetPort": "http"}
    return _object(deployed, "v1", "Service", {"selector": deployed.selector, "ports": [port]})


def _deployment(deployed: Deployed) -> Value:
    scraped = {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(PORT),
        "prometheus.io/path": "/metrics",
    }
    spec = {
        # No `replicas`: they are the autoscaler's.
        "selector": {"matchLabels": deployed.selector},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "minReadySeconds": 5,
        "revisionHistoryLimit": 5,
        "template": {"metadata": {"labels": deployed.labels, "annotations": scraped}, "spec": _pod(deployed)},
    }
    return _object(deployed, "apps/v1", "Deployment", spec)


def _pod(deployed: Deployed) -> Value:
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": deployed.selector},
    }
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": LEAVES_SERVICE_S + 30,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": UID,
            "runAsGroup": UID,
            "fsGroup": UID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [spread],
        "containers": [_container(deployed)],
        "volumes": [
            {"name": "workspace", "persistentVolumeClaim": {"claimName": deployed.claim}},
            {"name": "scratch", "emptyDir": {"sizeLimit": "256Mi"}},
        ],
    }


def _container(deployed: Deployed) -> Value:
    read_only = deployed.service != "homepage"  # which writes exposures and samples there
    return {
        "name": deployed.service,
        "image": deployed.image,
        "args": ["serve", "--host", "0.0.0.0", "--port", str(PORT)],  # noqa: S104  (of a pod)
        "ports": [{"name": "http", "containerPort": PORT}],
        "env": _environment(deployed),
        "resources": {
            "requests": {"cpu": deployed.cpu, "memory": deployed.memory},
            "limits": {"memory": deployed.memory},
        },
        "startupProbe": _probe("/readyz", every_s=2, failures=60),
        "readinessProbe": _probe("/readyz", every_s=2, failures=2),
        "livenessProbe": _probe("/livez", every_s=10, failures=3),
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(LEAVES_SERVICE_S)]}}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "workspace", "mountPath": WORKSPACE, "readOnly": read_only},
            {"name": "scratch", "mountPath": SCRATCH},
        ],
    }


def _environment(deployed: Deployed) -> list[Value]:
    plain: dict[str, str] = {
        "MATINEE_HOME": WORKSPACE,
        "OMP_NUM_THREADS": "1",
        "BENTOML_HOME": f"{SCRATCH}/bentoml",  # BentoML writes there; the Bento is served by its path
        "BENTOML_DO_NOT_TRACK": "True",
        "TMPDIR": SCRATCH,
    }
    apart = {
        f"MATINEE_{kind.upper()}_URL": f"http://matinee-{kind}:{PORT}" for kind in APART if deployed.apart
    }
    values: list[Value] = [{"name": name, "value": value} for name, value in (plain | apart).items()]
    if deployed.token_secret is not None:
        key = {"secretKeyRef": {"name": deployed.token_secret, "key": "token"}}
        values.append({"name": "MATINEE_API_TOKEN", "valueFrom": key})
    return values


def _probe(path: str, *, every_s: int, failures: int) -> Value:
    asked = {"path": path, "port": "http"}
    return {"httpGet": asked, "periodSeconds": every_s, "timeoutSeconds": 2, "failureThreshold": failures}


def _budget(deployed: Deployed) -> Value:
    spec = {"maxUnavailable": 1, "selector": {"matchLabels": deployed.selector}}
    return _object(deployed, "policy/v1", "PodDisruptionBudget", spec)


def _autoscaler(deployed: Deployed) -> Value:
    """By the requests in flight in each pod, a metric of ours that an adapter hands to the cluster."""
    target = {"type": "AverageValue", "averageValue": str(deployed.in_flight)}
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": deployed.name},
        "minReplicas": deployed.min_replicas,
        "maxReplicas": deployed.max_replicas,
        "metrics": [{"type": "Pods", "pods": {"metric": {"name": IN_FLIGHT}, "target": target}}],
        "behavior": {
            "scaleUp": {
                "stabilizationWindowSeconds": 0,
                "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}],
            },
            "scaleDown": {
                "stabilizationWindowSeconds": 300,
                "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}],
            },
        },
    }
    return _object(deployed, "autoscaling/v2", "HorizontalPodAutoscaler", spec)
