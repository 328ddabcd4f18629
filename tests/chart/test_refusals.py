"""Values that would not work, or not safely, are refused with a sentence that says what to do."""

from __future__ import annotations

import json
import re
from typing import Any

import helm_python
import pytest
import yaml
from chart.rendering import CHART, VALUES, Document, changed, render

PRODUCTION = VALUES["production"]
FLAG = {"name": "THROUGHLINE_TEST_ONLY_UNSAFE_DURABILITY", "value": "yes"}


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"nats": {"enabled": False}}, "set nats.url"),
        ({"nats": {"enabled": False, "url": "nats://elsewhere:4222"}}, "preflight needs nats.monitorUrls"),
        (changed(PRODUCTION, preflight__onStart=False), "set both to true"),
        ({"prepare": {"enabled": True}}, "set one of them to false"),
        (
            {"services": {"scoring": {"postgres": {"user": "throughline"}}}},
            "scoring: postgres.user is throughline, the owner of this chart's PostgreSQL",
        ),
        (changed(PRODUCTION, prepare__adminSecret=""), "set prepare.adminSecret"),
        (
            changed(PRODUCTION, externalSecrets={"enabled": True, "store": {"name": "v"}, "keys": "k"}, keys={}),
            "prepare.enabled and externalSecrets.enabled",
        ),
        ({"nats": {"url": "nats://elsewhere:4222"}}, "set nats.enabled to false"),
        ({"nats": {"replicas": 3}}, "nats.enabled runs one server"),
        ({"nats": {"credentialsSecret": "bus"}}, "credentialsSecret"),
        ({"services": {"journey": {"nats": {"credentialsKey": "j.creds"}}}}, "signs in to NATS as tl_journey"),
        (
            changed(VALUES["minimal"], services__journey={"nats": {"user": "j"}}),
            "journey: nats.user is j, but no secret has its password",
        ),
        (changed(PRODUCTION, nats__existingSecret=""), "feedback shows NATS nothing by which it is known"),
        (
            changed(PRODUCTION, defaults__nats={"credentialsKey": "user.creds"}),
            "feedback and identity are the same user of NATS",
        ),
        (changed(PRODUCTION, externalSecrets={"nats": "n"}), "what services show NATS can come from one place only"),
        ({"postgres": {"enabled": False}}, "set postgres.host"),
        ({"postgres": {"host": "elsewhere"}}, "set postgres.enabled to false"),
        ({"postgres": {"enabled": False, "host": "pg"}}, "feedback has no password"),
        ({"postgres": {"sslMode": "require"}}, "quick-start PostgreSQL has no certificate"),
        (changed(PRODUCTION, postgres__caSecret=""), "set postgres.caSecret"),
        (
            changed(PRODUCTION, nats__enabled=True, nats__url="", nats__existingSecret="", nats__replicas=1),
            "JetStream cluster",
        ),
        (
            changed(
                PRODUCTION,
                postgres__enabled=True,
                postgres__host="",
                postgres__sslMode="prefer",
                prepare__enabled=False,
            ),
            "without backups",
        ),
        (changed(PRODUCTION, nats__replicas=1), "set nats.replicas to 3"),
        (changed(PRODUCTION, keys__existingSecret=""), "their loss is for ever"),
        (changed(PRODUCTION, postgres__sslMode="prefer"), "in the clear"),
        (changed(PRODUCTION, image={"tag": "latest"}), "image.tag is latest, which moves"),
        (changed(PRODUCTION, auth={"provedElsewhere": True}), "auth.defaultRole is admin"),
        (changed(PRODUCTION, auth={"defaultRole": "none"}), "callers are believed or called in the clear"),
        ({"tls": {"enabled": True}}, "set tls.existingSecret"),
        ({"certificates": {"enabled": True}}, "the services would not use them"),
        ({"tls": {"enabled": True}, "certificates": {"enabled": True}}, "set certificates.issuerRef.name"),
        ({"auth": {"by": ["certificate"]}}, "or nobody shows one"),
        ({"auth": {"by": ["jwt"]}}, "set auth.issuer and auth.audience"),
        ({"auth": {"by": ["jwt"], "issuer": "i", "audience": "a"}}, "tokens would travel in the clear"),
        (
            {"auth": {"by": ["jwt"], "issuer": "i", "audience": "a", "provedElsewhere": True}},
            "helm test has no token",
        ),
        ({"auth": {"issuer": "https://issuer"}}, "but auth.by is empty"),
        ({"auth": {"by": ["password"]}}, "one of 'jwt', 'certificate'"),
        ({"auth": {"callers": {"till": {"roles": ["god"]}}}}, "/auth/callers/till/roles/0"),
        ({"nats": {"certificateSecret": "bus"}}, "without nats.caSecret"),
        (changed(PRODUCTION, development__sync=True), "set it to false"),
        ({"externalSecrets": {"enabled": True}}, "externalSecrets.store.name"),
        ({"externalSecrets": {"enabled": True, "store": {"name": "vault"}}}, "nothing is to be fetched"),
        ({"externalSecrets": {"keys": "keys"}}, "externalSecrets.enabled is false"),
        (
            {
                "externalSecrets": {"enabled": True, "store": {"name": "v"}, "keys": "k"},
                "keys": {"existingSecret": "k"},
            },
            "one place only",
        ),
        ({"monitoring": {"serviceMonitor": {"enabled": True}, "podMonitor": {"enabled": True}}}, "scraped twice"),
        ({"monitoring": {"rules": {"disabled": ["ThroughlineAway"]}}}, "monitoring/rules/disabled"),
        ({"route": {"enabled": True}}, "set route.parentRefs"),
        ({"ingress": {"enabled": True}}, "set ingress.host"),
        ({"defaults": {"terminationGracePeriodSeconds": 24}}, "give at least 25"),
        ({"services": {"journey": {"drainSeconds": 60}}}, "journey: terminationGracePeriodSeconds is 60"),
        ({"defaults": {"autoscaling": {"enabled": True, "minReplicas": 9}}}, "the least cannot be above the most"),
        ({"defaults": {"autoscaling": {"enabled": True, "lagMessages": 9}}}, "only KEDA knows the lag"),
        (
            {"keda": {"enabled": True}, "defaults": {"autoscaling": {"enabled": True, "lagMessages": 9}}},
            "set keda.prometheusAddress",
        ),
        ({"services": {"scoring": {"extraEnv": [FLAG]}}}, "acknowledged events may be lost"),
        (
            {"defaults": {"extraEnv": [{"name": "POSTGRES_USER", "value": "me"}]}},
            "which the chart sets from its values",
        ),
        ({"replicas": 3}, "replicas"),
        ({"services": {"billing": {}}}, "billing"),
        ({"services": {"journey": {"replica": 2}}}, "replica"),
        ({"nats": {"storage": "ten gigs"}}, "ten gigs"),
        ({"nats": {"url": "elsewhere:4222", "enabled": False}}, "elsewhere:4222"),
        ({"services": {"journey": {"resources": {"limits": {"memory": "1 gigabyte"}}}}}, "1 gigabyte"),
        ({"image": {"digests": {"cli": "latest"}}}, "latest"),
        ({"defaults": {"callers": [{"podselector": {}}]}}, "podselector"),
    ],
)
def test_wrong_values_are_refused_with_a_sentence_that_helps(values: Document, sentence: str) -> None:
    """The message names the key or value at fault."""
    with pytest.raises(helm_python.HelmError, match=re.escape(sentence)):
        render(values)


def _open_objects(schema: Any, place: str) -> list[str]:
    if isinstance(schema, list):
        return [found for each in schema for found in _open_objects(each, place)]
    if not isinstance(schema, dict):
        return []
    found = [place] if schema.get("type") == "object" and "additionalProperties" not in schema else []
    for name, inner in schema.items():
        found += _open_objects(inner, f"{place}/{name}")
    return found


def test_every_level_of_the_values_refuses_what_it_does_not_know() -> None:
    """Open are only what Kubernetes itself checks, and `global`, which charts above this one may set."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert _open_objects(schema, "") == ["/properties/global", "/$defs/kubernetes", "/$defs/named"]


def test_the_schema_and_the_values_name_the_same_keys() -> None:
    """What can be set stands in values.yaml with its default, and nothing stands there that cannot."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def compare(shape: Document, value: Any, place: str) -> None:
        shape = schema["$defs"][shape["$ref"].rpartition("/")[2]] if "$ref" in shape else shape
        if "properties" not in shape or not isinstance(value, dict) or place == ".image.digests":
            return
        # Partitions of all services at once are refused with a sentence of their own.
        known = shape["properties"].keys() - {"": {"global"}, ".defaults": {"partitions"}}.get(place, set())
        if place.startswith(".services.") or place.endswith(".resources"):
            return
        assert known == value.keys(), place
        for name in known:
            compare(shape["properties"][name], value[name], f"{place}.{name}")

    compare(schema, values, "")
