"""A model behind a URL, over real sockets: what it is asked, and a sentence for whatever goes wrong."""

import asyncio
import re
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from retrieval.__main__ import main
from retrieval.build import WRITTEN
from retrieval.files import read_jsonl
from retrieval.generation import current
from retrieval.index import open_index
from retrieval.model import model_at
from retrieval.passage import RetrievalError
from tests.ports import held, number_of
from tests.serve_stub import echoing
from tests.tiny_search import make_embedder, write_beir


def test_a_prompt_is_one_user_message_answered_greedily() -> None:
    with echoing() as echo:
        text = asyncio.run(model_at(echo.url, "pocket")("Summarise this."))

    assert text == "pocket heard Summarise this."
    assert echo.asked == [
        {
            "model": "pocket",
            "messages": [{"role": "user", "content": "Summarise this."}],
            "temperature": 0,
            "max_tokens": 256,
        }
    ]


def test_one_model_serves_several_event_loops_one_after_the_other() -> None:
    with echoing() as echo:
        write = model_at(echo.url, "pocket")
        texts = [asyncio.run(write(f"Number {n}.")) for n in range(3)]

    assert texts == [f"pocket heard Number {n}." for n in range(3)]


def test_a_busy_server_is_asked_again() -> None:
    with echoing(failures=[503]) as echo:
        text = asyncio.run(model_at(echo.url, "pocket")("Who?"))

    assert (text, len(echo.asked)) == ("pocket heard Who?", 2)


def test_a_model_the_server_does_not_have_is_said_with_those_it_has() -> None:
    with echoing(failures=[404], models=("pocket", "house")) as echo:
        says = f"{echo.url} has no model 'pocke'; it has: pocket, house"

        with pytest.raises(RetrievalError, match=re.escape(says)):
            asyncio.run(model_at(echo.url, "pocke")("Who?"))


def test_a_refusal_is_in_the_servers_words() -> None:
    with echoing(failures=[400], complaint="the prompt is too long") as echo:
        with pytest.raises(RetrievalError, match=r"/v1 answered 400: the prompt is too long"):
            asyncio.run(model_at(echo.url, "pocket")("Who?"))

        assert len(echo.asked) == 1


def test_a_server_that_is_not_there_is_said_and_what_to_do() -> None:
    says = r"no model answers at http.*/v1; start a server \(`python -m serve up"

    with held() as nobody, pytest.raises(RetrievalError, match=says):
        asyncio.run(model_at(f"http://127.0.0.1:{number_of(nobody)}/v1", "pocket")("Who?"))


@pytest.mark.parametrize("status", [200, 404])
def test_a_server_of_something_else_is_said(status: int) -> None:
    class Page(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<html>It works!</html>")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            with pytest.raises(RetrievalError, match=f"{url} does not speak OpenAI's API; .* ends with /v1"):
                asyncio.run(model_at(url, "pocket")("Who?"))
        finally:
            server.shutdown()


def test_a_build_has_a_model_write_its_summaries_once_and_none_for_plain_views(tmp_path: Path) -> None:
    embedder = make_embedder(tmp_path / "embedder")
    write_beir(tmp_path / "beir", [{"_id": name, "title": "", "text": f"{name} true"} for name in ("d7", "d8")], [])
    with echoing() as echo:
        words = ["build", str(tmp_path / "beir/corpus.jsonl"), str(tmp_path / "index"), "--embedder", str(embedder)]
        model = ["--model-url", echo.url, "--model", "pocket"]

        codes = [main([*words, "--view", "summary", "titled", *model]) for _ in range(2)]
        idle = main([*words, *model])

    written = [row["text"] for _, row in read_jsonl(current(tmp_path / "index-summary") / WRITTEN)]
    assert (codes, idle) == ([0, 0], 1)
    assert written == ["pocket heard d7 true", "pocket heard d8 true"]
    assert len(echo.asked) == 2
    assert open_index(tmp_path / "index-titled").manifest.inputs.settings.writer == ""
