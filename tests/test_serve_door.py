"""Who gets in, how many at once, and what the rest are told."""

import asyncio
from pathlib import Path

import httpx
import pytest

from retrieval.files import FileError
from serve.admission import Admission, GatewaySettings, TurnedAway
from serve.door import Door
from serve.gateway import Gateway, application
from serve.keys import Keys, new_key
from serve.pipeline import Pipeline
from serve.stack import Stack
from serve.strategies.prompted import Prompted
from tests.serve_stub import echoing

DIRECT = {"direct": Prompted(kind="direct")}
ASKED = {"model": "base:none:direct", "messages": [{"role": "user", "content": "Who?"}]}


def stack(url: str, **limits: int) -> Stack:
    return Stack(model="pocket", url=url, strategies=DIRECT, gateway=GatewaySettings(**limits))  # type: ignore[arg-type]


def client(gateway: Gateway, keys: Keys | None = None) -> httpx.AsyncClient:
    door = Door(application(gateway), keys)
    return httpx.AsyncClient(transport=httpx.ASGITransport(door), base_url="http://127.0.0.1:8000")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "localhost:8000"}, 200),
        ({"host": "[::1]:8000"}, 200),
        ({"host": "rebound.example"}, 421),
        ({"host": "[::1"}, 421),
        ({"origin": "https://elsewhere.example"}, 403),
        ({"origin": "http://127.0.0.1:8000"}, 200),
    ],
)
async def test_only_this_machines_own_pages_and_programs_are_answered(headers: dict[str, str], status: int) -> None:
    async with Pipeline(stack("http://127.0.0.1:9/v1")) as pipeline, client(Gateway(pipeline)) as http:
        answer = await http.get("/v1/models", headers=headers)

    assert answer.status_code == status
    assert len(answer.headers["x-request-id"]) == 32


async def test_with_keys_only_their_owners_are_answered_but_anybody_may_ask_for_health() -> None:
    key, line = new_key("ann")
    keys = Keys({line.split()[0]: line.split()[1]})
    async with Pipeline(stack("http://127.0.0.1:9/v1")) as pipeline, client(Gateway(pipeline), keys) as http:
        said = [
            (await http.get("/v1/models", headers={"authorization": value})).status_code
            for value in (f"Bearer {key}", f"bearer {key}", "Bearer wrong", key, "")
        ]
        health = await http.get("/healthz")

    assert said == [200, 200, 401, 401, 401]
    assert health.status_code == 200


def test_a_file_of_keys_is_read_or_every_wrong_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    (first, one), (_, two) = new_key("ann"), new_key("ann")
    file.write_text(f"# ours\n{one}\n\n")

    assert (Keys.load(file).owner(first), Keys.load(file).owner("x")) == ("ann", None)
    file.write_text(f"{one}\n{two}\nbob {first}\n")
    with pytest.raises(FileError, match=r"keys:2: ann has a key already(.|\n)*keys:3: not `name sha256`"):
        Keys.load(file)
    file.write_text("")
    with pytest.raises(FileError, match="no keys"):
        Keys.load(file)


async def hold(admission: Admission, key: str, until: asyncio.Event) -> None:
    async with admission.admitted(key):
        await until.wait()


async def test_so_many_run_so_many_wait_and_the_rest_are_told_when_to_come_back() -> None:
    admission, done = Admission(GatewaySettings(running=2, waiting=1)), asyncio.Event()
    tasks = [asyncio.create_task(hold(admission, "", done)) for _ in range(3)]
    await asyncio.sleep(0)

    assert (admission.running, admission.waiting) == (2, 1)
    with pytest.raises(TurnedAway) as turned:
        await hold(admission, "", done)
    assert (turned.value.status, turned.value.seconds >= 1) == (503, True)

    done.set()
    await asyncio.gather(*tasks)
    assert (admission.running, admission.waiting) == (0, 0)


async def test_a_key_has_its_share_and_whoever_gives_up_waiting_leaves_no_trace() -> None:
    admission, done = (
        Admission(GatewaySettings(running=1, waiting=9, per_key=2, keys=Path("keys.txt"))),
        asyncio.Event(),
    )
    first, second = (asyncio.create_task(hold(admission, "ann", done)) for _ in range(2))
    await asyncio.sleep(0)

    with pytest.raises(TurnedAway) as turned:
        await hold(admission, "ann", done)
    assert turned.value.status == 429
    second.cancel()
    await asyncio.wait([second])
    other = asyncio.create_task(hold(admission, "ann", done))
    done.set()
    await asyncio.gather(first, other)

    assert (admission.running, admission.waiting) == (0, 0)


async def test_a_place_that_does_not_come_is_a_refusal() -> None:
    admission, done = Admission(GatewaySettings(running=1, queue_seconds=0.01)), asyncio.Event()
    first = asyncio.create_task(hold(admission, "", done))
    await asyncio.sleep(0)

    with pytest.raises(TurnedAway, match="not this question's turn"):
        await hold(admission, "", done)
    done.set()
    await first


async def test_what_is_too_much_is_refused_before_the_engine_sees_it() -> None:
    with echoing() as echo:
        limited = stack(echo.url, body_bytes=2000, messages=3)
        async with Pipeline(limited) as pipeline, client(Gateway(pipeline)) as http:
            long = await http.post("/v1/chat/completions", content=b"x" * 2001)
            turns = [{"role": "user", "content": "x"}] * 4
            many = await http.post("/v1/chat/completions", json=ASKED | {"messages": turns})
            lost = await http.get("/v1/nothing")

    assert (long.status_code, many.status_code, lost.status_code) == (413, 400, 404)
    assert all("message" in answer.json()["error"] for answer in (long, many, lost))
    assert echo.asked == []
