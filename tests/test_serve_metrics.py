"""What Prometheus' own parser reads from our exposition is what happened, within a bound of labels."""

from collections import Counter
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from serve import metrics
from serve.metrics import Metrics
from tests.exchanges import answered

Sample = dict[tuple[str, frozenset[tuple[str, str]]], float]

EXCHANGES = st.builds(
    answered,
    combination=st.sampled_from(["", "base:none:direct", "house:hybrid:instructed"]),
    status=st.sampled_from([200, 400, 429, 499, 502]),
    error=st.sampled_from(["", "the engine broke off"]),
    first_seconds=st.none() | st.floats(0, 100),
)


def read(kept: Metrics) -> Sample:
    families = text_string_to_metric_families(kept.text().decode())
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


def value(samples: Sample, name: str, **labels: str) -> float:
    return samples.get((name, frozenset(labels.items())), 0.0)


def total(samples: Sample, name: str) -> float:
    return sum(number for (sample, _), number in samples.items() if sample == name)


def test_one_request_is_in_every_family_with_its_values() -> None:
    kept, here = Metrics(), {"combination": "house:hybrid:instructed"}
    kept.observe(answered())
    kept.running.set(3)
    kept.waiting.set(2)

    told = read(kept)

    assert value(told, "fulcrum_requests_total", **here, route="chat", status="200") == 1
    assert value(told, "fulcrum_prompt_tokens_total", **here) == 120
    assert value(told, "fulcrum_completion_tokens_total", **here) == 7
    assert value(told, "fulcrum_unknown_citations_total", **here) == 1
    assert value(told, "fulcrum_errors_total", **here) == 0
    for name, seconds in (("queue", 0.002), ("search", 0.03), ("first_token", 0.2), ("request", 1.5)):
        assert value(told, f"fulcrum_{name}_seconds_sum", **here) == seconds
        assert value(told, f"fulcrum_{name}_seconds_count", **here) == 1
    assert (value(told, "fulcrum_requests_running"), value(told, "fulcrum_requests_waiting")) == (3, 2)


@given(st.lists(EXCHANGES, max_size=20))
def test_nothing_is_lost_or_counted_twice(ended: Iterable) -> None:  # type: ignore[type-arg]
    kept, ended = Metrics(), list(ended)

    for one in ended:
        kept.observe(one)
    told = read(kept)

    for (name, status), number in Counter((one.combination, one.status) for one in ended).items():
        label = name or "unknown"
        assert value(told, "fulcrum_requests_total", combination=label, route="chat", status=str(status)) == number
    assert total(told, "fulcrum_errors_total") == sum(bool(one.error) for one in ended)
    assert total(told, "fulcrum_request_seconds_count") == sum(not one.error for one in ended)
    assert total(told, "fulcrum_first_token_seconds_count") == sum(one.first_seconds is not None for one in ended)


def test_a_refusal_does_not_make_answers_look_fast_nor_a_bare_question_searches() -> None:
    kept = Metrics()
    kept.observe(answered(status=429, error="too many wait", first_seconds=None, sources=()))

    told = read(kept)

    assert total(told, "fulcrum_request_seconds_count") == total(told, "fulcrum_search_seconds_count") == 0
    assert total(told, "fulcrum_queue_seconds_count") == 1


def test_labels_are_bounded_whatever_is_asked_for() -> None:
    kept, most = Metrics(), metrics.MOST_COMBINATIONS
    for number in range(most + 50):
        kept.observe(answered(combination=f"a{number}:none:direct"))
    kept.observe(answered(combination=""))

    told = read(kept)

    labels = {dict(pairs)["combination"] for (name, pairs) in told if name == "fulcrum_requests_total"}
    assert len(labels) == most + 2
    assert value(told, "fulcrum_prompt_tokens_total", combination=metrics.OTHER) == 50 * 120
