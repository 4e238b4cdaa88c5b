"""`serve up` as a process over a stub of the engine: what it counts, logs and keeps of one conversation agree."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from scripts import serving
from serve.capture import read_captured
from tests.ports import held, number_of
from tests.serve_stub import Echo, echoing

SECRET = "the passphrase of the vault is plover"
ASKED = {"model": "base:none:direct", "messages": [{"role": "user", "content": SECRET}], "stream": True}


@dataclass
class Up:
    """A gateway that is a process."""

    url: str
    metrics: str
    said: list[str]
    """Its log, line by line."""
    echo: Echo


@contextmanager
def up(folder: Path) -> Iterator[Up]:
    with held() as place, echoing() as echo:
        port = number_of(place)
        (folder / "stack.yaml").write_text(
            f"model: m\nurl: {echo.url}\nstrategies: {{direct: {{kind: direct}}}}\ncapture: kept/chats.jsonl\n"
        )
        said: list[str] = []
        with serving.up(folder / "stack.yaml", "--metrics", str(port), said=said) as (process, url):
            yield Up(url.removesuffix("/v1"), f"http://127.0.0.1:{port}/metrics", said, echo)
            process.terminate()
            process.wait(60)


def test_the_count_the_line_and_the_kept_chat_are_of_one_request(tmp_path: Path) -> None:
    with up(tmp_path) as gateway, httpx.Client(base_url=gateway.url, timeout=30) as client:
        answer = client.post("/v1/chat/completions", json=ASKED)
        name = json.loads(answer.text.split("\n\n")[0].removeprefix("data: "))["id"]
        unknown = client.post("/v1/chat/completions", json=ASKED | {"model": f"{SECRET}:none:direct"})
        kept = client.post("/v1/feedback", json={"id": name, "rating": "up"})
        stranger = client.post("/v1/feedback", json={"id": "chatcmpl-0", "rating": "up"})
        huge = client.post("/v1/feedback", json={"id": name, "comment": "x" * 300_000})
        counted = httpx.get(gateway.metrics).text
        public = client.get("/metrics")
        page = client.get("/")

    assert [one.status_code for one in (answer, unknown, kept, stranger, huge, public)] == [
        200,
        404,
        200,
        404,
        413,
        404,
    ]
    lines = [json.loads(line) for line in gateway.said if line.startswith("{")]
    assert [(one["id"], one["status"]) for one in lines] == [
        (answer.headers["x-request-id"], 200),
        (unknown.headers["x-request-id"], 404),
    ]
    (chat,) = read_captured(tmp_path / "kept" / "chats.jsonl")
    assert (chat.id, chat.rating) == (answer.headers["x-request-id"], "up")
    assert (chat.messages[0]["content"], chat.text.strip()) == (SECRET, f"m heard Question: {SECRET}")
    totals = {
        (one.labels["combination"], one.labels["status"]): one.value
        for family in text_string_to_metric_families(counted)
        for one in family.samples
        if one.name == "fulcrum_requests_total"
    }
    assert totals == {("base:none:direct", "200"): 1, ("unknown", "404"): 1}
    assert SECRET not in counted + "".join(gateway.said)
    assert re.search(r"script-src 'sha256-[\w+/]+=*'; style-src 'sha256-", page.headers["content-security-policy"])
    assert "unsafe" not in page.headers["content-security-policy"]


def test_whoever_rates_an_answer_the_moment_it_is_there_is_heard(tmp_path: Path) -> None:
    with up(tmp_path) as gateway, httpx.Client(base_url=gateway.url, timeout=30) as client:
        heard = []
        for _ in range(25):
            answer = client.post("/v1/chat/completions", json=ASKED | {"stream": False}).json()
            heard.append(client.post("/v1/feedback", json={"id": answer["id"], "rating": "up"}).status_code)

    assert heard == [200] * 25


def test_a_refused_question_is_not_kept_and_cannot_be_rated(tmp_path: Path) -> None:
    with up(tmp_path) as gateway:
        gateway.echo.failures = [400]
        refused = httpx.post(f"{gateway.url}/v1/chat/completions", json=ASKED)
        votes = httpx.post(f"{gateway.url}/v1/feedback", json={"id": refused.headers["x-request-id"], "rating": "up"})

    assert (refused.status_code, votes.status_code) == (400, 404)
    assert (tmp_path / "kept" / "chats.jsonl").read_text() == ""
