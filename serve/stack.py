"""`stack.yaml`: the base model, its adapters, the named retrievers and strategies, and how to sample.

Reads and checks the file; knows nothing of engines, and opens none of the things it names.
"""

import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from retrieval.files import STRICT, FileError, read_text, read_yaml
from retrieval.settings import RetrieverSettings
from serve.admission import GatewaySettings
from serve.chat import Sampling
from serve.combination import BASE, GOLD, NAME, NONE, Combination
from serve.strategies.kinds import Settings, circles, needed

T = TypeVar("T")


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise ValueError(
            f"{text!r} is not a name: small letters, digits, `.`, `_`, `-`, at most 64, a letter or digit first"
        )
    return text


def _reachable(written: object) -> object:
    """Checked before its type is, which of a union would be said once for each of its members."""
    urls: Sequence[Any] = written if isinstance(written, list | tuple) else [written]
    if not urls:
        raise ValueError("an empty list; name a server, `http://host:8000/v1`, or remove the key")
    for one in urls:
        parts = urlsplit(one) if isinstance(one, str) else None
        if not parts or parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{one!r} is no address of a server; write it as `http://host:8000/v1`")
    if twice := [one for one, times in Counter(one.rstrip("/") for one in urls).items() if times > 1]:
        raise ValueError(f"{twice[0]} is there twice; name each server once")
    return written


Name = Annotated[str, AfterValidator(_name)]
Url = Annotated[str | tuple[str, ...], BeforeValidator(_reachable)]
"""Of one OpenAI-compatible server, or of several that offer the same models."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """How vLLM is started; settings that are not here have vLLM's own defaults."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    max_model_len: int = 4096
    """The most tokens of prompt and answer together."""
    gpu_memory_utilization: float = 0.9
    """The engine's share of the GPU; an embedder beside it needs the rest. Without a GPU it means nothing."""
    tensor_parallel_size: Annotated[int, Field(ge=1)] = 1
    """GPUs that share each layer."""
    data_parallel_size: Annotated[int, Field(ge=1)] = 1
    """Copies of the model, each on GPUs of its own."""
    max_loras: Annotated[int, Field(ge=1)] | None = None
    """The most adapters at once. None: those of the stack, and with an `adapter_folder` four more."""
    max_lora_rank: Literal[1, 8, 16, 32, 64, 128, 256, 320, 512] | None = None
    """The highest rank. None: that of the stack's adapters, and with an `adapter_folder` at least 16."""
    arguments: tuple[str, ...] = ()
    """More arguments of vLLM's server, as on its command line."""
    ray: Annotated[str, Field(min_length=1)] | None = None
    """The Ray cluster whose machines run the engines of an evaluation: `head:6379`, or `local` for this machine."""
    replicas: Annotated[int, Field(ge=1)] = 1
    """How many of them Ray runs: more are faster, and answer nothing else."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        if self.replicas > 1 and self.ray is None:
            raise ValueError(f"replicas is {self.replicas}, and there is no Ray to run them; add `ray: local`")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Everything a question can be answered with. The parts are named; a Combination picks one of each."""

    model: str
    """A model folder, or a hub id (`Qwen/Qwen3-4B-Instruct-2507`) that is already on this machine."""
    strategies: dict[Name, Settings]
    adapters: dict[Name, Path] = field(default_factory=dict)
    adapter_folder: Path | None = None
    """A folder whose adapters are on offer too, each under its folder's name, for as long as they lie there."""
    retrievers: dict[Name, RetrieverSettings] = field(default_factory=dict)
    engine: EngineSettings = field(default_factory=EngineSettings)
    sampling: Sampling = field(default_factory=Sampling)
    aliases: dict[Name, str] = field(default_factory=dict)
    """Other names of combinations at the gateway: `support: house:hybrid:instructed`."""
    capture: Path | None = None
    """A file that keeps the gateway's chats, with sources and feedback; without it nothing is kept."""
    gateway: GatewaySettings = field(default_factory=GatewaySettings)
    url: Url | None = None
    """An OpenAI-compatible server to use (`http://host:8000/v1`) instead of starting an engine, or a list of some."""
    file: Path | None = None
    """Where it was read from; not a key of the file."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    @classmethod
    def load(cls, path: Path) -> "Stack":
        """Read a stack; relative paths in it are relative to it. FileError has every problem at once."""
        written = read_yaml(path, cls)
        stack = _resolved(written, path).relisted()
        problems = list(_problems(stack))
        if written.file is not None:
            problems.append((("file",), "unknown key; remove it."))
        if problems:
            raise FileError("\n".join(f"{stack.where(*trail)}: {'.'.join(trail)}: {what}" for trail, what in problems))
        return stack

    def relisted(self) -> "Stack":
        """The same with the adapters that lie in its folder now; those that it names itself go before them."""
        named = {name: path for name, path in self.adapters.items() if not self.on_the_shelf(name)}
        return replace(self, adapters={**_lying_in(self.adapter_folder), **named})

    def on_the_shelf(self, name: str) -> bool:
        """Whether this adapter is there because it lies in the folder."""
        return self.adapter_folder is not None and self.adapters[name] == self.adapter_folder / name

    @property
    def urls(self) -> tuple[str, ...]:
        """The servers to use; none where an engine is started."""
        urls = (self.url,) if isinstance(self.url, str) else self.url or ()
        return tuple(url.rstrip("/") for url in urls)

    @property
    def combinations(self) -> tuple[Combination, ...]:
        """Every combination on offer, `base` and `none` first."""
        names = product((BASE, *self.adapters), (NONE, *self.retrievers), self.strategies)
        return tuple(Combination(*parts) for parts in names)

    @property
    def offered(self) -> Mapping[str, Combination]:
        """Model id -> combination: every combination under its own name, then the aliases."""
        named = {str(one): one for one in self.combinations}
        return named | {alias: named[name] for alias, name in self.aliases.items() if name in named}

    def only(self, combinations: Iterable[Combination]) -> "Stack":
        """The stack without what these combinations do not use, so that nothing unused is checked or started."""
        wanted = tuple(combinations)
        strategies = needed(self.strategies, {c.strategy for c in wanted})
        examples = set().union(*(one.retrievers for one in strategies.values()))
        return replace(
            self,
            adapters=_kept(self.adapters, {c.adapter for c in wanted}),
            adapter_folder=None,
            retrievers=_kept(self.retrievers, {c.retriever for c in wanted} | examples),
            aliases={},
            strategies=strategies,
        )

    def where(self, *trail: str) -> str:
        """`stack.yaml:12`, for a sentence about the value under these keys."""
        return f"{self.file}:{_nearest(lines(self.file), trail)}" if self.file else ".".join(trail)


def lines(path: Path) -> Mapping[tuple[str, ...], int]:
    """The line of every key of a YAML file, by its trail of keys."""
    return dict(_walk(yaml.compose(read_text(path), yaml.SafeLoader), ()))


def _walk(node: yaml.Node | None, trail: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*trail, key.value), key.start_mark.line + 1
            yield from _walk(value, (*trail, key.value))


def _nearest(places: Mapping[tuple[str, ...], int], trail: tuple[str, ...]) -> int:
    """The line of the trail, or of the nearest key above it."""
    return next((places[trail[:n]] for n in range(len(trail), 0, -1) if trail[:n] in places), 1)


def _problems(stack: Stack) -> Iterator[tuple[tuple[str, ...], str]]:
    """What the types cannot say, as (trail of keys, sentence)."""
    if not stack.strategies:
        yield ("strategies",), "a stack needs at least one strategy, e.g. `direct: {kind: direct}`"
    yield from _adapter_problems(stack)
    for name, meaning in ((NONE, "no retrieval"), (GOLD, "the marked evidence, which only an evaluation has")):
        if name in stack.retrievers:
            yield ("retrievers", name), f"`{name}` always means {meaning}; choose another name"
    yield from _strategy_problems(stack)
    if stack.engine.ray and stack.url:
        yield ("engine", "ray"), "a stack with a `url` starts no engines; remove one of the two"
    offered = {str(one) for one in stack.combinations}
    for name, wanted in stack.aliases.items():
        if wanted not in offered:
            near = get_close_matches(wanted, offered, n=1)
            hint = f"did you mean {near[0]}?" if near else "write adapter:retriever:strategy"
            yield ("aliases", name), f"{wanted!r} is no combination of this stack; {hint}"


def _strategy_problems(stack: Stack) -> Iterator[tuple[tuple[str, ...], str]]:
    """A strategy may name a retriever and another strategy, but in no circle."""
    for name, settings in stack.strategies.items():
        named = (
            ("retriever", settings.retrievers, stack.retrievers),
            ("strategy", settings.strategies, stack.strategies),
        )
        for what, wanted, there in named:
            for one in wanted:
                if one not in there:
                    trail = ("strategies", name, _setting(settings, one))
                    yield trail, f"there is no {what} {one!r}; there is: {', '.join(there) or 'none'}"
    for name in circles(stack.strategies):
        yield ("strategies", name), "is made of itself; a strategy is made of others"


def _setting(settings: Settings, value: str) -> str:
    """The setting that has this value."""
    return next((one.name for one in fields(settings) if getattr(settings, one.name) == value), "kind")


def _adapter_problems(stack: Stack) -> Iterator[tuple[tuple[str, ...], str]]:
    if BASE in stack.adapters:
        yield ("adapters", BASE), f"`{BASE}` always means no adapter; choose another name"
    if stack.adapter_folder and not stack.adapter_folder.is_dir():
        yield ("adapter_folder",), f"there is no folder {stack.adapter_folder}"
    if stack.adapter_folder and stack.url:
        yield ("adapter_folder",), "a server with a `url` has its own adapters; name those in `adapters`"
    named = sum(not stack.on_the_shelf(name) for name in stack.adapters)
    if stack.engine.max_loras and stack.engine.max_loras < named:
        yield ("engine", "max_loras"), f"{stack.engine.max_loras}, and the stack names {named} adapters"


def _resolved(stack: Stack, path: Path) -> Stack:
    here = path.parent.resolve()
    return replace(
        stack,
        model=stack.model if stack.url else _model(stack.model, here),
        adapters={name: (here / folder).resolve() for name, folder in stack.adapters.items()},
        adapter_folder=_under(here, stack.adapter_folder),
        retrievers={name: one.under(here) for name, one in stack.retrievers.items()},
        strategies={name: one.under(here) for name, one in stack.strategies.items()},
        capture=_under(here, stack.capture),
        gateway=replace(stack.gateway, keys=_under(here, stack.gateway.keys)),
        file=path,
    )


def _lying_in(folder: Path | None) -> dict[str, Path]:
    """The adapters in a folder by name. What has no adapter's name, or is a link to somewhere else, is none."""
    if folder is None or not folder.is_dir():
        return {}
    inside = (path for path in sorted(folder.iterdir()) if NAME.fullmatch(path.name) and not path.is_symlink())
    return {path.name: path for path in inside if (path / "adapter_config.json").is_file() and path.name != BASE}


def _under(here: Path, path: Path | None) -> Path | None:
    return (here / path).resolve() if path else None


def _model(model: str, here: Path) -> str:
    """A folder stays one however the program was started; `owner/name` without such a folder is a hub id."""
    folder = (here / model).resolve()
    is_id = re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", model) and not folder.exists()
    return model if is_id else str(folder)


def _kept(named: dict[str, T], names: Container[str | None]) -> dict[str, T]:
    return {name: one for name, one in named.items() if name in names}
