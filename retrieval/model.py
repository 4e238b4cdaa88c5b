"""A model behind a URL, for a room that needs one: prompt -> text. The only door to the `openai` client here.

Knows nothing of why it is asked. Nothing is sent to anybody but the server that was named.
"""

import os
from typing import Any, Final

from retrieval.passage import RetrievalError
from retrieval.reuse import Write

MOST_TOKENS: Final = 256
"""Of what a model writes for a search: some passages, or some questions, of a line each."""
RETRIES: Final = 2
"""After half a second and a second: a busy server recovers, one that is gone does not."""
SILENT_SECONDS: Final = 600.0
"""How long a server may say nothing; to be reached at all it has five seconds."""


def model_at(url: str, name: str) -> Write:
    """The model `name` of the OpenAI-compatible server at `url` (`http://host:8000/v1`), asked greedily.

    Nothing is called before the first prompt. What goes wrong then is a RetrievalError. OPENAI_API_KEY is sent when
    set.
    """
    client = _client(url)

    async def write(prompt: str) -> str:
        import openai

        try:
            completion = await client.chat.completions.create(
                model=name,
                messages=[{"role": "user", "content": prompt}],
                temperature=0,
                max_tokens=MOST_TOKENS,
            )
        except openai.NotFoundError:
            raise RetrievalError(await _unknown(client, url, name)) from None
        except openai.APIError as error:
            raise RetrievalError(_sentence(url, error)) from None
        if not getattr(completion, "choices", None):
            raise RetrievalError(_strange(url))
        return completion.choices[0].message.content or ""

    return write


def _client(url: str) -> Any:
    import openai

    return openai.AsyncOpenAI(
        base_url=url,
        api_key=os.environ.get("OPENAI_API_KEY", "none"),
        max_retries=RETRIES,
        timeout=openai.Timeout(SILENT_SECONDS, connect=5.0),
        # A connection belongs to the event loop that opened it, and a command may run several, one after the other: so
        # none is kept. A new one costs next to nothing beside what a model takes to write.
        default_headers={"Connection": "close"},
    )


async def _unknown(client: Any, url: str, name: str) -> str:
    """Why the server says 404: it has other models, or no such API."""
    import openai

    try:
        offered = [model.id for model in (await client.models.list()).data]
    except (openai.APIError, AttributeError, TypeError):
        return _strange(url)
    return f"{url} has no model {name!r}; it has: {', '.join(offered) or 'none'}"


def _strange(url: str) -> str:
    return f"{url} does not speak OpenAI's API; the URL of such a server ends with /v1, as in http://127.0.0.1:8000/v1"


def _sentence(url: str, error: Exception) -> str:
    import openai

    if isinstance(error, openai.APITimeoutError):
        return f"{url} was silent for {SILENT_SECONDS:.0f} s"
    if isinstance(error, openai.APIConnectionError):
        return f"no model answers at {url}; start a server (`python -m serve up STACK`) or give the URL of another"
    if isinstance(error, openai.APIStatusError):
        return f"{url} answered {error.status_code}: {_complaint(error.body) or error.message}"
    return _strange(url)


def _complaint(body: object) -> str:
    """The sentence in an error body, where there is one."""
    return str(body.get("message") or "") if isinstance(body, dict) else ""
