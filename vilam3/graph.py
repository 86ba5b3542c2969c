"""The serving graph as KServe's InferenceGraph, generated from the experts at hand; knows nothing of a cluster.

``root`` is a sequence of the language model's steps with a switch over the experts between each two, unrolled to the
configured rounds, so that it has no cycle. KServe's router stops a sequence at the first step whose condition does not
hold and returns what it has; an answer without a call of an expert therefore ends the graph early. Facts from
kserve/kserve v0.19.0 ``cmd/router/main.go``.

Every step is a hard dependency on purpose: the router replaces the body by whatever a step returns, so that after a
soft failure the next step would be sent an error in place of the conversation. Experts report their failures within
the conversation, where the model and the reader are told.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

STEP_PATH = "/v1/graph"
PASSING_PATH = "/v1/graph/pass"
API_VERSION = "serving.kserve.io/v1alpha1"
CALLS_AN_EXPERT = '[@this].#(expert%"?*")'  # GJSON: `expert` is a string of at least one character
ALWAYS = "@this"
MODEL = "vlm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long KServe's router waits, in whole seconds.

    Attributes:
        step_s: For one step; segmenting a large CT takes minutes.
        whole_s: For the whole question; the router's own default of 60 would cut it off.
    """

    step_s: int = 600
    whole_s: int = 1800


def inference_graph(
    urls: Mapping[str, str],
    *,
    rounds: int,
    name: str = "vilam3",
    namespace: str | None = None,
    timeouts: Timeouts | None = None,
) -> dict[str, Any]:
    """The manifest.

    Args:
        urls: Base address of the language model (under `MODEL`) and of each expert (under its name in triggers).
        rounds: Most rounds of experts.
        name: Of the object.
        namespace: Of the object; None leaves it to whoever applies it.
        timeouts: Of the router.
    """
    waits = timeouts or Timeouts()
    experts = [expert for expert in urls if expert != MODEL]
    metadata = {"name": name, "annotations": {"serving.kserve.io/deploymentMode": "Standard"}}
    if namespace is not None:
        metadata["namespace"] = namespace
    seconds = {
        "serverRead": waits.whole_s,
        "serverWrite": waits.whole_s,
        "serverIdle": waits.whole_s,
        "serviceClient": waits.step_s,
    }
    nodes = {"root": _root(urls[MODEL], rounds=rounds if experts else 0)}
    if experts and rounds:
        nodes["experts"] = _switch(urls, experts)
    return {
        "apiVersion": API_VERSION,
        "kind": "InferenceGraph",
        "metadata": metadata,
        "spec": {"nodes": nodes, "routerTimeouts": seconds},
    }


def document(graph: Mapping[str, Any]) -> str:
    """The manifest as text; JSON is YAML, and this has one spelling."""
    return json.dumps(graph, indent=2) + "\n"


def service_urls(experts: Sequence[str], *, release: str, namespace: str) -> dict[str, str]:
    """Addresses of a release's services within the cluster: those of its predictors, which serve every path."""
    names = {MODEL: MODEL, **{expert: expert.lower() for expert in experts}}
    return {key: f"http://{release}-{name}-predictor.{namespace}.svc.cluster.local" for key, name in names.items()}


def _root(model_url: str, *, rounds: int) -> dict[str, Any]:
    model_step = f"{model_url}{STEP_PATH}?rounds={rounds}"
    steps: list[dict[str, Any]] = [{"name": "reply-0", "serviceUrl": model_step, "dependency": "Hard"}]
    for number in range(1, rounds + 1):
        answered = {"data": "$response", "dependency": "Hard"}
        steps.append({"name": f"experts-{number}", "nodeName": "experts", "condition": CALLS_AN_EXPERT, **answered})
        steps.append({"name": f"reply-{number}", "serviceUrl": model_step, **answered})
    return {"routerType": "Sequence", "steps": steps}


def _switch(urls: Mapping[str, str], experts: Sequence[str]) -> dict[str, Any]:
    steps = [
        {
            "name": expert.lower(),
            "serviceUrl": f"{urls[expert]}{STEP_PATH}",
            "condition": f'[@this].#(expert=="{expert}")',
            "dependency": "Hard",
        }
        for expert in experts
    ]
    # A switch without a match is a 404: what is left over passes, and the model is told that nobody answered.
    rest = {"name": "pass", "serviceUrl": f"{urls[MODEL]}{PASSING_PATH}", "condition": ALWAYS, "dependency": "Hard"}
    return {"routerType": "Switch", "steps": [*steps, rest]}
