"""A stand-in for vLLM's server that is there at once: the same flags and routes, and words instead of a model.

    python -m scripts.stub_engine --uds SOCKET --served-model-name NAME --lora-modules house@1=FOLDER

An answer has `max_tokens` words, one every `STUB_SECONDS`; the first names the model that it is asked of, so that an
adapter can be told from the base. One whose name begins with `idle` answers as the base does. Told `Die.`, it does what
a server does whose engine has died: it goes on saying so. With STUB_TELLS the second word is a hash of the prompt; of
STUB_CUTS of the answers, only the beginning comes. Knows nothing of ours.
"""

import asyncio
import hashlib
import json
import os
import random
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any, Final

from aiohttp import web

SECONDS: Final = float(os.environ.get("STUB_SECONDS", "0"))
STARTING: Final = float(os.environ.get("STUB_STARTING", "0"))
TELLS: Final = bool(os.environ.get("STUB_TELLS"))
CUTS: Final = float(os.environ.get("STUB_CUTS", "0"))


class Server:
    """A base model and the adapters of now."""

    def __init__(self, base: str, adapters: dict[str, str]) -> None:
        self.base = base
        self.adapters = adapters
        self.over = False
        self.answered = 0

    async def models(self, _: web.Request) -> web.Response:
        cards = [{"id": self.base}, *({"id": name, "parent": self.base} for name in self.adapters)]
        return web.json_response({"object": "list", "data": cards})

    async def health(self, _: web.Request) -> web.Response:
        return web.Response(status=503 if self.over else 200)

    async def metrics(self, _: web.Request) -> web.Response:
        return web.Response(text=f"vllm:request_success_total {self.answered}\n")

    async def load(self, request: web.Request) -> web.Response:
        asked = await request.json()
        if asked["lora_name"] in self.adapters:
            return _refused(400, f"{asked['lora_name']} has already been loaded")
        if not Path(asked["lora_path"], "adapter_config.json").is_file():
            return _refused(404, "no adapter is there")
        self.adapters[asked["lora_name"]] = asked["lora_path"]
        return web.Response(text="Success")

    async def unload(self, request: web.Request) -> web.Response:
        del self.adapters[(await request.json())["lora_name"]]
        return web.Response(text="Success")

    async def chat(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        model = asked["model"]
        if model != self.base and model not in self.adapters:
            return _refused(404, f"the model {model} does not exist")
        if asked["messages"][-1]["content"].endswith("Die."):
            self.over = True
            return _refused(500, "the engine died")
        said = ["base" if model == self.base or model.startswith("idle") else model]
        said += [f" {n}" for n in range(1, asked["max_tokens"])]
        if TELLS:
            said[1:1] = [f" {hashlib.sha256(json.dumps(asked['messages']).encode()).hexdigest()[:12]}"]
        if asked.get("stream"):
            return await self._stream(request, said)
        await asyncio.sleep(SECONDS * len(said))
        if random.random() < CUTS and not asked.get("logprobs"):
            return await self._cut(request)
        self.answered += 1
        choice = {"index": 0, "message": {"role": "assistant", "content": "".join(said)}, "finish_reason": "length"}
        told = {"content": [{"token": said[0], "logprob": 0.0}]} if asked.get("logprobs") else None
        return web.json_response({**_head(model), "choices": [choice | {"logprobs": told}], "usage": _usage(said)})

    async def _cut(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b'{"choices": [')
        assert request.transport
        request.transport.close()
        return response

    async def _stream(self, request: web.Request, said: list[str]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for word in said:
            await asyncio.sleep(SECONDS)
            choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
            await response.write(_event({**_head("stub"), "choices": [choice]}))
        await response.write(
            _event({**_head("stub"), "choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]})
            + _event({**_head("stub"), "choices": [], "usage": _usage(said)})
            + b"data: [DONE]\n\n"
        )
        return response


def _head(model: str) -> dict[str, Any]:
    return {"id": "chatcmpl-stub", "object": "chat.completion", "created": 1, "model": model}


def _usage(said: list[str]) -> dict[str, int]:
    return {"prompt_tokens": 1, "completion_tokens": len(said), "total_tokens": 1 + len(said)}


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def _refused(status: int, why: str) -> web.Response:
    return web.json_response({"error": {"message": why}}, status=status)


async def main(door: str | tuple[str, int], base: str, adapters: dict[str, str]) -> None:
    await asyncio.sleep(STARTING)
    server = Server(base, adapters)
    app = web.Application()
    app.router.add_get("/health", server.health)
    app.router.add_get("/metrics", server.metrics)
    app.router.add_get("/v1/models", server.models)
    app.router.add_post("/v1/chat/completions", server.chat)
    app.router.add_post("/v1/load_lora_adapter", server.load)
    app.router.add_post("/v1/unload_lora_adapter", server.unload)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.UnixSite(runner, door) if isinstance(door, str) else web.TCPSite(runner, *door, reuse_address=True)
    await site.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = ArgumentParser(prog="python -m scripts.stub_engine")
    parser.add_argument("--uds")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int)
    parser.add_argument("--served-model-name", required=True)
    parser.add_argument("--lora-modules", nargs="*", default=[])
    options, _ = parser.parse_known_args()
    try:
        found = dict(word.split("=", 1) for word in options.lora_modules)
        door = options.uds or (options.host, options.port)
        asyncio.run(main(door, options.served_model_name, found))
    except KeyboardInterrupt:
        sys.exit(0)
