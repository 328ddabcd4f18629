"""What the chart says to operators' own kinds: the fields that each has by its definition, as far as we use them.

Kubernetes' own kinds have published schemas; these stand in for those of the others, and refuse what was misspelt.
"""

from __future__ import annotations

from typing import Any, Final

from chart.rendering import Document

# A dict names every field that there may be, "*" any; a list holds the shape of each of its entries; a type is a leaf.
KINDS: Final[dict[tuple[str, str], Any]] = {
    ("gateway.networking.k8s.io/v1", "GRPCRoute"): {
        "parentRefs": [
            {"name": str, "namespace": str, "sectionName": str, "port": int, "group": str, "kind": str},
        ],
        "hostnames": [str],
        "rules": [
            {
                "matches": [{"method": {"service": str, "method": str, "type": str}}],
                "backendRefs": [{"name": str, "port": int, "weight": int}],
            }
        ],
    },
    ("keda.sh/v1alpha1", "ScaledObject"): {
        "scaleTargetRef": {"name": str, "kind": str, "apiVersion": str},
        "minReplicaCount": int,
        "maxReplicaCount": int,
        "advanced": {"horizontalPodAutoscalerConfig": {"behavior": {"*": dict}}},
        "triggers": [{"type": str, "metricType": str, "metadata": {"*": str}}],
    },
    ("monitoring.coreos.com/v1", "ServiceMonitor"): {
        "selector": {"matchLabels": {"*": str}, "matchExpressions": [{"key": str, "operator": str, "values": [str]}]},
        "endpoints": [
            {"port": str, "interval": str, "relabelings": [{"sourceLabels": [str], "targetLabel": str}]},
        ],
    },
    ("monitoring.coreos.com/v1", "PodMonitor"): {
        "selector": {"matchLabels": {"*": str}, "matchExpressions": [{"key": str, "operator": str, "values": [str]}]},
        "podMetricsEndpoints": [
            {"port": str, "interval": str, "relabelings": [{"sourceLabels": [str], "targetLabel": str}]},
        ],
    },
    ("monitoring.coreos.com/v1", "PrometheusRule"): {
        "groups": [
            {
                "name": str,
                "rules": [
                    {"alert": str, "expr": str, "for": str, "labels": {"*": str}, "annotations": {"*": str}},
                ],
            }
        ],
    },
    ("cert-manager.io/v1", "Certificate"): {
        "secretName": str,
        "duration": str,
        "renewBefore": str,
        "privateKey": {"algorithm": str, "size": int, "rotationPolicy": str},
        "usages": [str],
        "dnsNames": [str],
        "uris": [str],
        "issuerRef": {"name": str, "kind": str, "group": str},
    },
    ("external-secrets.io/v1", "ExternalSecret"): {
        "refreshInterval": str,
        "secretStoreRef": {"name": str, "kind": str},
        "target": {"name": str, "creationPolicy": str},
        "dataFrom": [{"extract": {"key": str}}],
    },
}


def is_custom(document: Document) -> bool:
    """Whether an operator's definition and not Kubernetes itself says what the object may hold."""
    group = document["apiVersion"].partition("/")[0]
    return "." in group and (not group.endswith(".k8s.io") or group == "gateway.networking.k8s.io")


def check(document: Document) -> None:
    """Raises: AssertionError, which names the field."""
    shape = KINDS[document["apiVersion"], document["kind"]]
    assert document.keys() == {"apiVersion", "kind", "metadata", "spec"}, document["kind"]
    _check(document["spec"], shape, document["kind"])


def _check(value: Any, shape: Any, place: str) -> None:
    if isinstance(shape, dict):
        assert isinstance(value, dict), place
        for name, inner in value.items():
            assert "*" in shape or name in shape, f"{place} has no field {name}"
            _check(inner, shape.get(name, shape.get("*")), f"{place}.{name}")
    elif isinstance(shape, list):
        assert isinstance(value, list), place
        for inner in value:
            _check(inner, shape[0], f"{place}[]")
    else:
        assert isinstance(value, shape), f"{place} is {value!r}"
