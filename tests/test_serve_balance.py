"""Which of several servers is asked next, and what is made of one that fails. Over sockets: test_serve_servers.py."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.balance import FRESH, LEAD, RESTS, Balance, Place, Silent, chosen
from serve.chat import ServeError, Unavailable

MODELS = {"base": False, "house": True, "barn": True}


def places(calls: list[int], models: Mapping[str, bool] = MODELS) -> list[Place]:
    return [Place(f"http://{n}:8000/v1", models, calls=busy) for n, busy in enumerate(calls)]


loads = st.lists(st.integers(0, 50), min_size=1, max_size=8)


@given(loads)
def test_a_base_model_goes_to_one_of_the_least_busy(calls: list[int]) -> None:
    assert chosen("base", places(calls)).calls == min(calls)


@given(loads, st.text(min_size=1, max_size=8))
def test_an_adapter_goes_home_unless_home_is_busier_by_more_than_the_lead(calls: list[int], name: str) -> None:
    servers = places(calls, {name: True})
    home = chosen(name, places([0] * len(calls), {name: True})).url

    picked = chosen(name, servers)

    at_home = next(place for place in servers if place.url == home)
    assert picked.calls in (min(calls), at_home.calls)
    assert (picked is at_home) == (at_home.calls <= min(calls) + LEAD)


@given(st.integers(2, 8), st.data())
def test_only_the_adapters_of_a_server_that_goes_move(n: int, data: st.DataObject) -> None:
    names = [f"adapter{i}" for i in range(40)]
    servers = places([0] * n, dict.fromkeys(names, True))
    gone = data.draw(st.sampled_from(servers))

    before = {name: chosen(name, servers).url for name in names}
    after = {name: chosen(name, [one for one in servers if one is not gone]).url for name in names}

    assert {name for name in names if before[name] != after[name]} == {n for n in names if before[n] == gone.url}


def test_adapters_have_their_homes_on_all_servers() -> None:
    names = [f"adapter{i}" for i in range(400)]

    homes = Counter(chosen(name, places([0] * 4, dict.fromkeys(names, True))).url for name in names)

    assert len(homes) == 4
    assert min(homes.values()) > 60, "a hundred each, give or take"


class World:
    """Servers whose state is what the test says, and a clock."""

    def __init__(self, n: int) -> None:
        self.now = 0.0
        self.urls = tuple(f"http://{i}:8000/v1" for i in range(n))
        self.offers: dict[str, Mapping[str, bool] | Unavailable] = dict.fromkeys(self.urls, MODELS)
        self.looks: list[str] = []
        self.balance = Balance(self.urls, self.look, lambda: self.now)

    async def look(self, url: str) -> Mapping[str, bool]:
        self.looks.append(url)
        offer = self.offers[url]
        if isinstance(offer, Unavailable):
            raise offer
        return offer


@given(st.lists(st.one_of(st.sampled_from(["base", "house", "barn"]), st.integers(0, 30)), max_size=60))
async def test_whatever_comes_and_goes_no_server_leads_by_much(steps: list[str | int]) -> None:
    world, open_calls = World(3), list[tuple[str, ExitStack]]()
    for step in steps:
        if isinstance(step, str):
            before = Counter(dict.fromkeys(world.urls, 0))
            before.update(url for url, _ in open_calls)
            url = await world.balance.pick(step)
            assert url
            assert before[url] - min(before.values()) <= (LEAD if MODELS[step] else 0)
            stay = ExitStack()
            stay.enter_context(world.balance.busy(url))
            open_calls.append((url, stay))
        elif open_calls:
            open_calls.pop(step % len(open_calls))[1].close()


async def test_one_that_failed_rests_longer_each_time_and_is_looked_at_before_it_is_asked() -> None:
    world = World(2)
    bad, good = world.urls
    await world.balance.pick("base")
    for rest in RESTS:
        world.balance.failed(bad, "answered 503")
        world.looks.clear()

        world.now += rest - 0.01
        assert await world.balance.pick("base") == good
        assert bad not in world.looks

        world.now += 0.02
        assert await world.balance.pick("base", but=[good]) == bad
        assert world.looks[-1] == bad
        world.now += 0.01  # before what is known of the other is too old


async def test_where_nothing_else_is_left_a_resting_server_is_looked_at_at_once() -> None:
    world = World(2)
    for url in world.urls:
        await world.balance.pick("base")
        world.balance.failed(url, "answered 500")

    assert await world.balance.pick("base") in world.urls


async def test_a_server_that_is_too_busy_to_say_what_it_has_is_not_down_unless_it_was() -> None:
    world = World(2)
    await world.balance.pick("base")
    world.offers[world.urls[0]] = Silent("...")
    world.now += FRESH + 1
    await world.balance.pick("base")  # looks beside the call
    await asyncio.sleep(0)
    assert await world.balance.pick("base", but=world.urls[1:]) == world.urls[0]

    world.balance.failed(world.urls[0], "was silent")

    assert await world.balance.pick("base", but=world.urls[1:]) is None


async def test_an_adapter_that_is_loaded_somewhere_later_is_found() -> None:
    world = World(2)
    with pytest.raises(ServeError, match="no new"):
        await world.balance.pick("new")
    world.offers[world.urls[1]] = {**MODELS, "new": True}

    assert await world.balance.pick("new") == world.urls[1]
