"""One client of OpenAI's API at a gateway, as its own users call it; what it saw, as JSON, for `check_clients.py`.

    .venv-clients/bin/python scripts/client_probe.py langchain http://127.0.0.1:8000/v1 demo:lexical:direct "Who?"

Run by path in the environment of the clients, where nothing of ours is. Knows nothing of what is right.
"""

import asyncio
import json
import subprocess
import sys
from typing import Any

PLAIN: dict[str, Any] = {"temperature": 0, "max_tokens": 48}
ROOMY = PLAIN | {"max_tokens": 400}
"""A small model may put much white space into an object."""
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"colour": {"type": "string", "enum": ["red", "blue"]}},
    "required": ["colour"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": SCHEMA, "strict": True}}
CITED = "It is so [S1]."
"""An answer that a field of vLLM's own asks for, and in which the gateway marks a citation."""
Seen = dict[str, Any]


def seen(answer: Any, where: str = "") -> Seen:
    """What is in an answer in OpenAI's shape, whole."""
    choices = [dict(one) for one in answer["choices"]]
    told = choices[0].get("logprobs")
    return {
        "texts": [one["message"]["content"] for one in choices],
        "reasons": [one["finish_reason"] for one in choices],
        "usage": [answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]],
        "logprobs": len(told["content"]) if told else 0,
        "sources": [one["id"] for one in answer["sources"]] if "sources" in answer else None,
        "where": where,
    }


def heard(chunks: list[Any], where: str = "") -> Seen:
    """What is in a stream in OpenAI's shape."""
    choices = [one for chunk in chunks for one in chunk["choices"]]
    usage = next((chunk["usage"] for chunk in chunks if chunk.get("usage")), None)
    sources = next((chunk["sources"] for chunk in chunks if "sources" in chunk), None)
    return {
        "texts": ["".join(one["delta"].get("content") or "" for one in choices)],
        "reasons": [one["finish_reason"] for one in choices if one.get("finish_reason")],
        "usage": usage and [usage["prompt_tokens"], usage["completion_tokens"]],
        "sources": [one["id"] for one in sources] if sources is not None else None,
        "where": where,
    }


class Client:
    """A client, a model and a question."""

    def __init__(self, url: str, model: str, question: str) -> None:
        self.url, self.model, self.question = url, model, question
        self.messages = [{"role": "user", "content": question}]

    def models(self) -> list[str] | None:
        """The ids it lists; None where it has no such call."""
        return None

    def ask(self, **fields: Any) -> Seen:
        raise NotImplementedError

    def stream(self, **fields: Any) -> Seen:
        raise NotImplementedError

    def structured(self) -> Any:
        """The object that the schema wants, by the client's own way to ask for it."""
        return json.loads(self.ask(**ROOMY, response_format=FORMAT)["texts"][0])

    def follow_up(self) -> Seen:
        """Its own answer sent back, before another question."""
        raise NotImplementedError


class Curl(Client):
    def _call(self, path: str, body: Any = None) -> str:
        data = ["-H", "content-type: application/json", "-d", json.dumps(body)] if body else []
        command = ["curl", "-sS", "--fail-with-body", "-N", f"{self.url}{path}", *data]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def models(self) -> list[str]:
        return [one["id"] for one in json.loads(self._call("/models"))["data"]]

    def ask(self, **fields: Any) -> Seen:
        more = fields.pop("extra_body", {})
        body = {"model": self.model, "messages": self.messages, **fields, **more}
        return seen(json.loads(self._call("/chat/completions", body)), "`sources`")

    def stream(self, **fields: Any) -> Seen:
        body = {"model": self.model, "messages": self.messages, "stream": True, **fields}
        body["stream_options"] = {"include_usage": True}
        lines = self._call("/chat/completions", body).split("\n\n")
        events = [line.removeprefix("data: ") for line in lines if line]
        return heard([json.loads(event) for event in events if event != "[DONE]"], "`sources` of the first event")

    def follow_up(self) -> Seen:
        body = {"model": self.model, "messages": self.messages, **PLAIN}
        said = json.loads(self._call("/chat/completions", body))["choices"][0]["message"]
        messages = [*self.messages, said, {"role": "user", "content": "Are you sure?"}]
        return seen(json.loads(self._call("/chat/completions", body | {"messages": messages})))


class OpenAI(Client):
    def __init__(self, *given: str) -> None:
        super().__init__(*given)
        from openai import OpenAI

        self.client = OpenAI(base_url=self.url, api_key="none", max_retries=0)

    def models(self) -> list[str]:
        return [one.id for one in self.client.models.list()]

    def ask(self, **fields: Any) -> Seen:
        made = self.client.chat.completions.create(model=self.model, messages=self.messages, **fields)
        return seen(made.model_dump() | {"sources": made.model_extra["sources"]}, '`answer.model_extra["sources"]`')

    def stream(self, **fields: Any) -> Seen:
        options = {"stream": True, "stream_options": {"include_usage": True}}
        chunks = self.client.chat.completions.create(model=self.model, messages=self.messages, **options, **fields)
        return heard([one.model_dump() for one in chunks], '`chunk.model_extra["sources"]` of the first')

    def structured(self) -> Any:
        from typing import Literal

        from pydantic import BaseModel

        class Verdict(BaseModel):
            colour: Literal["red", "blue"]

        made = self.client.chat.completions.parse(
            model=self.model, messages=self.messages, response_format=Verdict, **ROOMY
        )
        return made.choices[0].message.parsed.model_dump()

    def follow_up(self) -> Seen:
        made = self.client.chat.completions.create(model=self.model, messages=self.messages, **PLAIN)
        messages = [*self.messages, made.choices[0].message, {"role": "user", "content": "Are you sure?"}]
        return seen(self.client.chat.completions.create(model=self.model, messages=messages, **PLAIN).model_dump())


class AsyncOpenAI(Client):
    """The same, awaited."""

    def _awaited(self, asking: Any) -> Any:
        from openai import AsyncOpenAI

        async def run() -> Any:
            async with AsyncOpenAI(base_url=self.url, api_key="none", max_retries=0) as client:
                return await asking(client)

        return asyncio.run(run())

    def models(self) -> list[str]:
        async def listed(client: Any) -> list[str]:
            return [one.id async for one in client.models.list()]

        return self._awaited(listed)

    def ask(self, **fields: Any) -> Seen:
        made = self._awaited(
            lambda client: client.chat.completions.create(model=self.model, messages=self.messages, **fields)
        )
        return seen(made.model_dump(), '`answer.model_extra["sources"]`')

    def stream(self, **fields: Any) -> Seen:
        async def read(client: Any) -> list[Any]:
            options = {"stream": True, "stream_options": {"include_usage": True}}
            chunks = await client.chat.completions.create(model=self.model, messages=self.messages, **options, **fields)
            return [one.model_dump() async for one in chunks]

        return heard(self._awaited(read), '`chunk.model_extra["sources"]` of the first')

    def follow_up(self) -> Seen:
        async def talk(client: Any) -> Any:
            made = await client.chat.completions.create(model=self.model, messages=self.messages, **PLAIN)
            messages = [*self.messages, made.choices[0].message, {"role": "user", "content": "Are you sure?"}]
            return await client.chat.completions.create(model=self.model, messages=messages, **PLAIN)

        return seen(self._awaited(talk).model_dump())


class LangChain(Client):
    """`ChatOpenAI` keeps nothing that OpenAI does not send; a subclass of it can, in four lines."""

    def _model(self, **fields: Any) -> Any:
        from langchain_openai import ChatOpenAI

        class WithSources(ChatOpenAI):
            def _create_chat_result(self, response: Any, generation_info: Any = None) -> Any:
                result = super()._create_chat_result(response, generation_info)
                result.llm_output["sources"] = response.model_extra["sources"]
                return result

        return WithSources(model=self.model, base_url=self.url, api_key="none", max_retries=0, **fields)

    def ask(self, **fields: Any) -> Seen:
        from langchain_core.messages import HumanMessage

        result = self._model(**fields).generate([[HumanMessage(self.question)]])
        made = [one.message for one in result.generations[0]]
        told = [one.generation_info or {} for one in result.generations[0]]
        usage, logprobs = made[0].usage_metadata, told[0].get("logprobs")
        sources = made[0].response_metadata.get("sources")
        return {
            "texts": [one.content for one in made],
            "reasons": [one["finish_reason"] for one in told],
            "usage": [usage["input_tokens"], usage["output_tokens"]],
            "logprobs": len(logprobs["content"]) if logprobs else 0,
            "sources": [one["id"] for one in sources] if sources else None,
            "where": "dropped; `response_metadata` with a subclass of 4 lines",
        }

    def stream(self, **fields: Any) -> Seen:
        whole: Any = None
        for chunk in self._model(stream_usage=True, **fields).stream([("user", self.question)]):
            whole = chunk if whole is None else whole + chunk
        usage = whole.usage_metadata
        return {
            "texts": [whole.content],
            "reasons": [whole.response_metadata["finish_reason"]],
            "usage": [usage["input_tokens"], usage["output_tokens"]],
            "sources": whole.response_metadata.get("sources"),
            "where": "dropped",
        }

    def structured(self) -> Any:
        model = self._model(**ROOMY).with_structured_output(SCHEMA | {"title": "verdict"}, method="json_schema")
        return model.invoke(self.question)

    def follow_up(self) -> Seen:
        model = self._model(**PLAIN)
        said = model.invoke([("user", self.question)])
        made = model.invoke([("user", self.question), said, ("user", "Are you sure?")])
        usage = made.usage_metadata
        return {"texts": [made.content], "usage": [usage["input_tokens"], usage["output_tokens"]]}


class LlamaIndex(Client):
    def _model(self, **fields: Any) -> Any:
        from llama_index.llms.openai_like import OpenAILike

        own = {name: fields.pop(name) for name in ("temperature", "max_tokens") if name in fields}
        return OpenAILike(
            model=self.model,
            api_base=self.url,
            api_key="none",
            is_chat_model=True,
            max_retries=0,
            additional_kwargs=fields,
            **own,
        )

    def _message(self, text: str) -> Any:
        from llama_index.core.llms import ChatMessage

        return ChatMessage(role="user", content=text)

    def ask(self, **fields: Any) -> Seen:
        made = self._model(**fields).chat([self._message(self.question)])
        return seen(made.raw.model_dump(), '`response.raw.model_extra["sources"]`')

    def stream(self, **fields: Any) -> Seen:
        options = {"stream_options": {"include_usage": True}}
        pieces = list(self._model(**fields, **options).stream_chat([self._message(self.question)]))
        told = heard([one.raw.model_dump() for one in pieces], '`response.raw.model_extra["sources"]` of the first')
        return told | {"texts": [pieces[-1].message.content]}

    def structured(self) -> Any:
        return json.loads(
            self._model(**ROOMY, response_format=FORMAT).chat([self._message(self.question)]).message.content
        )

    def follow_up(self) -> Seen:
        model = self._model(**PLAIN)
        said = model.chat([self._message(self.question)]).message
        made = model.chat([self._message(self.question), said, self._message("Are you sure?")])
        return seen(made.raw.model_dump())


class LiteLLM(Client):
    def _call(self, messages: Any = None, **fields: Any) -> Any:
        import litellm

        litellm.suppress_debug_info = True
        return litellm.completion(
            model=f"openai/{self.model}",
            api_base=self.url,
            api_key="none",
            messages=messages or self.messages,
            num_retries=0,
            **fields,
        )

    def ask(self, **fields: Any) -> Seen:
        made = self._call(**fields)
        return seen(made.model_dump(), "`response.sources`")

    def stream(self, **fields: Any) -> Seen:
        chunks = self._call(stream=True, stream_options={"include_usage": True}, **fields)
        return heard([one.model_dump() for one in chunks], "`chunk.sources` of the first")

    def follow_up(self) -> Seen:
        said = self._call(**PLAIN).choices[0].message
        messages = [*self.messages, said, {"role": "user", "content": "Are you sure?"}]
        return seen(self._call(messages, **PLAIN).model_dump())


CLIENTS: dict[str, type[Client]] = {
    "curl": Curl,
    "openai": OpenAI,
    "openai, async": AsyncOpenAI,
    "langchain": LangChain,
    "llama-index": LlamaIndex,
    "litellm": LiteLLM,
}


def probe(client: Client) -> dict[str, Any]:
    """Everything that is asked of it, by name; what went wrong is a sentence in its place."""
    cited = {"structured_outputs": {"choice": [CITED]}}
    hot = {"temperature": 1.5, "max_tokens": 24}
    asked = {
        "models": client.models,
        "plain": lambda: client.ask(**PLAIN),
        "max_tokens": lambda: client.ask(temperature=0, max_tokens=3),
        "stop": lambda: client.ask(**PLAIN, stop=["sources"]),
        "seed": lambda: [client.ask(**hot, seed=seed)["texts"] for seed in (7, 7, 8, 9)],
        "n": lambda: client.ask(**hot, seed=7, n=3),
        "logprobs": lambda: client.ask(**PLAIN, logprobs=True, top_logprobs=2),
        "stream": lambda: client.stream(**PLAIN),
        "structured": client.structured,
        "cited": lambda: client.ask(**PLAIN, extra_body=cited),
        "follow up": client.follow_up,
    }
    told: dict[str, Any] = {}
    for name, call in asked.items():
        try:
            told[name] = call()
        except Exception as error:
            told[name] = f"{type(error).__name__}: {error}"[:300]
    return told


if __name__ == "__main__":
    name, *given = sys.argv[1:]
    print(json.dumps(probe(CLIENTS[name](*given))))
