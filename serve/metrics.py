"""What a Prometheus server reads: requests, tokens, times and errors of every combination.

Sees Exchanges and the two numbers that the gateway sets. Knows nothing of HTTP, and of no prompt or answer.
"""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from serve.exchange import Exchange

UNKNOWN: Final = "unknown"
"""The label of requests that named no combination on offer, whatever they named."""
OTHER: Final = "other"
MOST_COMBINATIONS: Final = 1_000
"""Combinations with a label of their own: adapters come and go while serving, and every label stays in memory."""

MOMENTS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Seconds: a wait, a search, a first token on an idle engine and on a busy one."""
ANSWERS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)


class Metrics:
    """Counts and times since the start. `running` and `waiting` are the gateway's to set."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry: Final = registry
        by = ("combination",)
        ProcessCollector(registry=registry)  # memory, CPU and open files: what a leak shows in first
        self.running: Final = Gauge("fulcrum_requests_running", "Requests being answered.", registry=registry)
        self.waiting: Final = Gauge("fulcrum_requests_waiting", "Requests waiting for a place.", registry=registry)
        self._requests: Final = Counter(
            "fulcrum_requests",
            "Requests that ended, by HTTP status; 499: the caller went away, 502: a stream failed midway.",
            (*by, "route", "status"),
            registry=registry,
        )

        def counter(name: str, means: str) -> Counter:
            return Counter(f"fulcrum_{name}", means, by, registry=registry)

        def seconds(name: str, means: str, buckets: tuple[float, ...] = MOMENTS) -> Histogram:
            return Histogram(f"fulcrum_{name}_seconds", means, by, registry=registry, buckets=buckets)

        self._errors: Final = counter("errors", "Requests that ended with an error.")
        self._prompt: Final = counter("prompt_tokens", "Tokens of prompts, as the engine counted them.")
        self._completion: Final = counter("completion_tokens", "Tokens of answers, as the engine counted them.")
        self._unknown: Final = counter("unknown_citations", "Markers of sources that the model was not given.")
        self._queue: Final = seconds("queue", "Waiting for a place, refused requests included.")
        self._search: Final = seconds("search", "Retrieval, of requests that found something.")
        self._first: Final = seconds("first_token", "From the request to the first token.", ANSWERS)
        self._whole: Final = seconds("request", "From the request to its answer, where all went well.", ANSWERS)
        self._labels: Final[set[str]] = set()

    def observe(self, exchange: Exchange) -> None:
        """Count one request that has ended."""
        label = self._label(exchange.combination)
        self._requests.labels(label, exchange.route, exchange.status).inc()
        self._prompt.labels(label).inc(exchange.usage.prompt_tokens)
        self._completion.labels(label).inc(exchange.usage.completion_tokens)
        self._unknown.labels(label).inc(exchange.unknown_citations)
        self._errors.labels(label).inc(bool(exchange.error))
        self._queue.labels(label).observe(exchange.queue_seconds)
        if exchange.sources:
            self._search.labels(label).observe(exchange.search_seconds)
        if exchange.first_seconds is not None:
            self._first.labels(label).observe(exchange.first_seconds)
        if not exchange.error:  # a refusal takes no time, and would make the answers look fast
            self._whole.labels(label).observe(exchange.seconds)

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self._registry)

    def _label(self, combination: str) -> str:
        if not combination:
            return UNKNOWN
        if combination not in self._labels and len(self._labels) >= MOST_COMBINATIONS:
            return OTHER
        self._labels.add(combination)
        return combination
