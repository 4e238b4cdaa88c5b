from pathlib import Path

import pytest

from retrieval.files import FileError
from serve.combination import Combination
from serve.stack import Stack

GOOD = """\
model: models/pocket
adapters:
  house: ../adapters/house
retrievers:
  dense: {kind: dense, index: index/docs, k: 2}
  examples: {kind: lexical, index: index/train}
strategies:
  direct: {kind: direct}
  told:
    kind: instructed
    instructions: Answer in one word.
  shown: {kind: fewshot, demonstrations: shots.jsonl, examples_from: examples}
sampling: {max_tokens: 64}
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "stack.yaml"
    file.write_text(text)
    return file


def test_relative_paths_start_at_the_file(tmp_path: Path) -> None:
    (tmp_path / "models" / "pocket").mkdir(parents=True)

    stack = Stack.load(write(tmp_path, GOOD))

    assert stack.model == str(tmp_path / "models" / "pocket")
    assert stack.adapters["house"] == tmp_path.parent / "adapters" / "house"
    assert stack.retrievers["dense"].index == tmp_path / "index" / "docs"
    assert stack.strategies["shown"].demonstrations == tmp_path / "shots.jsonl"


@pytest.mark.parametrize("model", ["Qwen/Qwen3-4B-Instruct-2507", "gpt2"])
def test_a_name_that_is_no_folder_is_a_hub_id(tmp_path: Path, model: str) -> None:
    stack = Stack.load(write(tmp_path, f"model: {model}\nstrategies: {{direct: {{kind: direct}}}}\n"))

    assert stack.model == model


def test_every_product_of_the_names_is_on_offer_base_and_none_first(tmp_path: Path) -> None:
    offered = [str(one) for one in Stack.load(write(tmp_path, GOOD)).combinations]

    assert offered[0] == "base:none:direct"
    assert offered[-1] == "house:examples:shown"
    assert len(set(offered)) == 2 * 3 * 3


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """A folder with two adapters, something that is none, a name that is none, and a link to somewhere else."""
    for name in ("shelf/new", "shelf/house", "shelf/Not A Name", "shelf/base", "elsewhere/private"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "adapter_config.json").touch()
    (tmp_path / "shelf" / "empty").mkdir()
    (tmp_path / "shelf" / "link").symlink_to(tmp_path / "elsewhere" / "private")
    return tmp_path / "shelf"


def test_adapters_of_a_folder_are_on_offer_and_those_with_a_line_of_their_own_go_before_them(
    tmp_path: Path, shelf: Path
) -> None:
    stack = Stack.load(write(tmp_path, GOOD + "adapter_folder: shelf\n"))

    assert stack.adapters == {"new": shelf / "new", "house": tmp_path.parent / "adapters" / "house"}
    assert [stack.on_the_shelf(name) for name in ("new", "house")] == [True, False]
    assert "new:dense:told" in stack.offered


def test_the_folder_is_looked_at_again(tmp_path: Path, shelf: Path) -> None:
    stack = Stack.load(write(tmp_path, GOOD + "adapter_folder: shelf\n"))
    (shelf / "new").rename(shelf / "newer")

    assert set(stack.relisted().adapters) == {"newer", "house"}


def test_an_evaluation_has_the_adapters_that_it_names_and_watches_no_folder(tmp_path: Path, shelf: Path) -> None:
    stack = Stack.load(write(tmp_path, GOOD + "adapter_folder: shelf\n"))

    only = stack.only([Combination("new", "none", "direct")])

    assert (only.adapters, only.adapter_folder) == ({"new": shelf / "new"}, None)


WRONG = {
    "adapter_folder: nowhere\n": "adapter_folder: there is no folder",
    "adapter_folder: .\nurl: http://127.0.0.1:1/v1\n": "has its own adapters",
    "engine: {max_lora_rank: 17}\n": "engine.max_lora_rank: Input should be 1, 8, 16",
    "engine: {max_loras: 0}\n": "engine.max_loras",
    "gateway: {per_key: 2}\n": "per_key counts the questions of a key, and there are no `keys`",
    "engine: {tensor_parallel_size: 0}\n": "engine.tensor_parallel_size",
}


@pytest.mark.parametrize(("lines", "sentence"), WRONG.items(), ids=WRONG)
def test_settings_that_cannot_be_meant_are_refused(tmp_path: Path, lines: str, sentence: str) -> None:
    with pytest.raises(FileError) as caught:
        Stack.load(write(tmp_path, GOOD + lines))

    assert sentence in str(caught.value)


def test_room_for_fewer_adapters_than_are_named_is_refused(tmp_path: Path) -> None:
    two = GOOD.replace("  house: ../adapters/house\n", "  house: ../adapters/house\n  field: ../adapters/field\n")

    with pytest.raises(FileError, match=r"stack\.yaml:\d+: engine\.max_loras: 1, and the stack names 2 adapters"):
        Stack.load(write(tmp_path, two + "engine: {max_loras: 1}\n"))


def test_only_keeps_what_the_combinations_use_and_what_their_strategies_use(tmp_path: Path) -> None:
    stack = Stack.load(write(tmp_path, GOOD))

    kept = stack.only([Combination.parse("base:dense:direct"), Combination.parse("base:gold:shown")])

    assert (list(kept.adapters), list(kept.retrievers)) == ([], ["dense", "examples"])
    assert list(kept.strategies) == ["direct", "shown"]


def test_a_value_knows_its_line(tmp_path: Path) -> None:
    stack = Stack.load(write(tmp_path, GOOD))

    assert stack.where("adapters", "house") == f"{tmp_path}/stack.yaml:3"
    assert stack.where("strategies", "told", "kind") == f"{tmp_path}/stack.yaml:10"


REFUSED = {
    "unknown key": ("sampling:", "samplings:", "did you mean 'sampling'?"),
    "unknown inner key": ("k: 2", "top_k: 2", ":5: retrievers.dense.top_k: unknown key"),
    "no strategies": ("strategies:", "x:", "strategies: this key is required"),
    "bad name": ("house:", "My House:", "'My House' is not a name"),
    "an adapter called base": ("house:", "base:", ":3: adapters.base: `base` always means no adapter"),
    "a retriever called none": ("dense:", "none:", ":5: retrievers.none: `none` always means no retrieval"),
    "a retriever called gold": ("dense:", "gold:", ":5: retrievers.gold: `gold` always means the marked evidence"),
    "unknown kind": ("{kind: direct}", "{kind: directed}", "strategies.direct: there is no kind 'directed'"),
    "direct with instructions": ("{kind: direct}", "{kind: direct, instructions: Be brief.}", "it is `instructed`"),
    "instructed without": ("    instructions: Answer in one word.\n", "", "needs instructions"),
    "instructed with examples": ("in one word.", "in one word.\n    examples_from: examples", "it is `fewshot`"),
    "fewshot without": (
        "demonstrations: shots.jsonl, examples_from: examples",
        "instructions: x",
        "needs demonstrations",
    ),
    "examples from nowhere": (
        "examples_from: examples",
        "examples_from: exmples",
        "no retriever 'exmples'; there is: dense",
    ),
    "negative temperature": ("max_tokens: 64", "temperature: -1", ":13: sampling: temperature is -1.0"),
    "no tokens": ("max_tokens: 64", "max_tokens: 0", "max_tokens is 0"),
    "top_p": ("max_tokens: 64", "top_p: 1.5", "top_p is 1.5"),
    "file": ("sampling:", "file: x\nsampling:", ":13: file: unknown key"),
}


@pytest.mark.parametrize(("old", "new", "sentence"), REFUSED.values(), ids=REFUSED)
def test_a_wrong_stack_is_refused_with_file_line_and_remedy(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    file = write(tmp_path, GOOD.replace(old, new))

    with pytest.raises(FileError) as caught:
        Stack.load(file)

    assert sentence in str(caught.value)
    assert all(line.startswith(str(file)) for line in str(caught.value).splitlines())


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        GOOD.replace("house:", "base:")
        .replace("dense:", "gold:")
        .replace("examples_from: examples", "examples_from: nobody"),
    )

    with pytest.raises(FileError) as caught:
        Stack.load(file)

    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("[]", "an empty list"),
        ("[http://a:8000/v1, http://b:8000/v1, http://a:8000/v1/]", "http://a:8000/v1 is there twice"),
        ("[http://a:8000/v1, 'b:8000']", "'b:8000' is no address of a server"),
        ("localhost:8000", "'localhost:8000' is no address of a server"),
        ("5", "5 is no address of a server"),
    ],
)
def test_an_address_that_cannot_be_asked_is_refused_with_its_line(tmp_path: Path, url: str, says: str) -> None:
    with pytest.raises(FileError, match=r"stack\.yaml:2: url: ") as raised:
        Stack.load(write(tmp_path, f"model: m\nurl: {url}\nstrategies: {{direct: {{kind: direct}}}}\n"))

    assert says in str(raised.value)
    assert str(raised.value).count("\n") == 0


def test_one_address_and_a_list_are_both_read(tmp_path: Path) -> None:
    urls = []
    for url in ("http://a:8000/v1", "[http://a:8000/v1/, https://b/v1]"):
        text = f"model: m\nurl: {url}\nstrategies: {{direct: {{kind: direct}}}}\n"
        urls.append(Stack.load(write(tmp_path, text)).urls)

    assert urls == [("http://a:8000/v1",), ("http://a:8000/v1", "https://b/v1")]
