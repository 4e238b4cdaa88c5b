"""The front of a Ray Serve LLM deployment that offers a stack's adapters beside its model, each under its own name.

Ray alone opens this file, by the name that `serve.deploy` writes down, so it may import Ray. Ray's own front calls an
adapter `model:adapter`, and a replica fetches it from a bucket (s3://, gs://, azure://) when it is first asked for; it
refuses folders. Here every replica starts with all of them, so that each answers any request. Knows nothing of how.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ray.serve.llm.ingress import OpenAiIngress


class Ingress(OpenAiIngress):  # type: ignore[misc]
    """Ray's own, which takes one deployment for several models."""

    def __init__(
        self,
        llm_deployments: Mapping[str, Any],
        model_cards: Mapping[str, Any],
        *,
        adapters: Sequence[str],
        **rest: Any,
    ) -> None:
        ((model, replicas),) = llm_deployments.items()
        names = (model, *adapters)
        cards = {name: model_cards[model].model_copy(update={"id": name}) for name in names}
        super().__init__(dict.fromkeys(names, replicas), cards, **rest)
