"""`react`: the model thinks, acts and looks at what came of it, step by step, until it has what the question needs.

Yao et al. 2022 (2210.03629), but that the answer is left to another strategy, which sees all that was found: so it has
its form, and its citations are numbers of passages. Knows nothing of how the answer is made.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field

from retrieval.passage import Hit, Query
from retrieval.retriever import Retriever
from serve.arithmetic import ArithmeticMistake, value
from serve.chat import Answer, Message, Model
from serve.layout import layout, numbered, passages, titled
from serve.passed import Given, continued, tool_hit
from serve.sql.shown import rows_of, run_on, tables_of
from serve.strategies.kind import Kind, Parts, Strategy, prompt

ACTION: Final = re.compile(r"^\W*Action\W*:\W*?(\w+) ?\[(.*)\]\W*$", re.IGNORECASE | re.MULTILINE)
FINISH: Final = "finish"
NOTHING: Final = "Nothing was found. Use other words."
UNKNOWN: Final = "That is no action. Write a line such as Action: {form}, or Action: finish[] once all has been found."
AGAIN: Final = "You did this before, and it would give the same. Do something else, or write Action: finish[]."

Acted = tuple[Hit, ...] | str
"""What an action gave: passages, or a sentence why there are none."""
Act = Callable[[str], Awaitable[Acted]]


@dataclass(frozen=True, slots=True, kw_only=True)
class React(Kind):
    """A loop of thoughts and actions, and then `of` with all that was found in place of what it would search for."""

    kind: Literal["react"]
    of: str
    """The strategy that answers in the end."""
    actions: tuple[Literal["search", "calculate", "sql"], ...] = ("search",)
    """`search` asks the combination's retriever, `sql` the database."""
    database: Path | None = None
    """An SQLite file for `sql`."""
    steps: Annotated[int, Field(ge=1)] = 6
    """The most actions; then `of` answers from what there is."""
    instructions: str = ""
    """Instead of `serve/prompts/react.txt`; `$actions` and `$form` stand for what can be done."""

    def __post_init__(self) -> None:
        if not self.actions or ("sql" in self.actions) != (self.database is not None):
            raise ValueError("`react` needs `actions`; `sql` needs a `database`, which nothing else reads")

    def build(self, parts: Parts) -> Strategy:
        """Notes the steps, how many repeated an earlier one, and whether it was stopped before it was done."""
        ask = parts.strategy(self.of)
        told = {one: ACTIONS[one] for one in self.actions}
        if self.database:
            told["sql"] = f"{told['sql']}\n{tables_of(self.database)}"
        instructions = prompt("react", self.instructions, actions="\n".join(told.values()), form=_form(self))

        async def react(query: Query, retriever: Retriever, model: Model) -> Answer:
            trail = await self._walk(query, _acts(self, query, retriever), model, instructions)
            answer = await ask(query, Given(tuple(trail.found)), model)
            return answer.noted(**trail.notes)

        return react

    async def _walk(self, query: Query, acts: Mapping[str, Act], model: Model, instructions: str) -> "Trail":
        trail = Trail()
        sampling = replace(model.sampling, stop=(*model.sampling.stop, "Observation:"))
        for _ in range(self.steps):
            said = (await model.chat(layout((), continued(query, *trail.turns), (), instructions), sampling)).text
            action = ACTION.search(said)
            if action and action[1].lower() == FINISH:
                trail.gave_up = False
                break
            # What it writes after its action is what it imagines would come of it.
            thought = said[: action.end()] if action else said
            trail.turns += [Message("assistant", thought.strip()), Message("user", await _done(trail, action, acts))]
        return trail


@dataclass(slots=True)
class Trail:
    """What was done so far, and what came of it."""

    turns: list[Message] = field(default_factory=list)
    found: list[Hit] = field(default_factory=list)
    done: set[tuple[str, str]] = field(default_factory=set)
    repeated: int = 0
    gave_up: bool = True

    @property
    def notes(self) -> Mapping[str, float]:
        """In figures."""
        return {"steps": len(self.turns) // 2, "repeated": self.repeated, "gave_up": float(self.gave_up)}


ACTIONS: Final[Mapping[str, str]] = {
    "search": "search[words]: find passages about the words",
    "calculate": "calculate[expression]: work out an expression of numbers, such as (48 / 2) + 48",
    "sql": "sql[query]: what one SQLite query gives, on these tables:",
}
"""What can be done, as the model is told."""


def _acts(settings: React, query: Query, retriever: Retriever) -> Mapping[str, Act]:
    """The actions that the stack gives."""

    async def search(words: str) -> Acted:
        return passages(await retriever.search(Query(words, meta=query.meta))) or NOTHING

    async def calculate(expression: str) -> Acted:
        try:
            return (tool_hit("calculator", expression, str(value(expression))),)
        except ArithmeticMistake as mistake:
            return f"It {mistake}."

    async def sql(statement: str) -> Acted:
        assert settings.database
        result = await run_on(settings.database, statement)
        if result.error:
            return f"It cannot be run: {result.error}."
        return (tool_hit(settings.database.stem, statement, rows_of(result)),)

    every: Mapping[str, Act] = {"search": search, "calculate": calculate, "sql": sql}
    return {name: every[name] for name in settings.actions}


async def _done(trail: Trail, action: re.Match[str] | None, acts: Mapping[str, Act]) -> str:
    """Do it, unless it was done before; what the model is told of it. New passages join those that were found."""
    name, said = (action[1].lower(), action[2].strip()) if action else ("", "")
    if name not in acts:
        return f"Observation: {UNKNOWN.format(form=f'{next(iter(acts))}[...]')}"
    if (name, said.casefold()) in trail.done:
        trail.repeated += 1
        return f"Observation: {AGAIN}"
    trail.done.add((name, said.casefold()))
    came = await acts[name](said)
    if isinstance(came, str):
        return f"Observation: {came}"
    known = [hit.passage for hit in trail.found]
    new = [hit for hit in came if hit.passage not in known]
    first = len(trail.found) + 1
    trail.found += new
    told = numbered(titled(new), first)
    return "Observation:\n" + ("\n\n".join(told) or "Only passages that you have seen.")


def _form(settings: React) -> str:
    return " or ".join(f"{one}[...]" for one in settings.actions)
