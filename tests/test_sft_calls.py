"""Rows whose answer is a function call: MTOP's parses say the same as calls, and exactly the call is learnt."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import trl
from hypothesis import given
from hypothesis import strategies as st

from eval.scoring.calls import calls_of, names_of, same_arguments, same_calls
from eval.scoring.scorers import build as scorers
from eval.task import Example, ScorerSettings
from retrieval.files import FileError, read_jsonl
from scripts import mtop
from scripts.make_sft import main as make_sft
from scripts.mtop import call_of, calls_in, example, form_of, read_rows, tools_of
from scripts.targets import misfit
from tests.tiny import make_model
from train.chat import main as check

GOLDEN = Path(__file__).parent / "golden" / "rows"
DATA = Path(__file__).parents[1].parent / "shared" / "data" / "tasks" / "mtop"
TEMPLATES = Path(trl.__file__).parent / "chat_templates"

ROWS = [
    ("ring my boss", "[IN:CREATE_CALL [SL:CONTACT [IN:GET_CONTACT [SL:TYPE_RELATION boss ] ] ] ]"),
    ("call Ann and Bo", "[IN:CREATE_CALL [SL:CONTACT Ann ] [SL:CONTACT Bo ] ]"),
    ("set alarm", "[IN:CREATE_ALARM ]"),
    ("wake Bo at six", "[IN:CREATE_ALARM [SL:DATE_TIME at six ] [SL:ALARM_NAME Bo ] ]"),
    ("is it \"cold\" in Zürich", "[IN:GET_WEATHER [SL:WEATHER_ATTRIBUTE \"cold\" ] [SL:LOCATION Zürich ] ]"),
]  # fmt: skip
TESTS = [("phone Cy", "[IN:CREATE_CALL [SL:CONTACT Cy ] ]"), ("how warm is it", "[IN:GET_WEATHER ]")]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MTOP in small, converted and rendered."""
    folder = tmp_path_factory.mktemp("mtop")
    for name, rows in (("train", ROWS), ("dev", TESTS)):
        lines = (json.dumps({"question": question, "logical_form": form}) + "\n" for question, form in rows)
        (folder / f"{name}.json").write_text("".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mtop, "OUT", folder / "data")
        patch.setitem(mtop.SETTINGS["stack"], "model", str(make_model(folder / "model", width=64)))
        patch.setattr("sys.argv", ["mtop", str(folder)])
        assert mtop.main() == 0
        patch.setattr("sys.argv", ["make_sft", str(folder / "data" / "sft.yaml")])
        assert make_sft() == 0
    return folder


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(path)]


def test_a_row_is_an_openai_chat_with_tools_and_the_call_in_a_string(data: Path) -> None:
    rows = rows_of(data / "data" / "sft.jsonl")

    golden = GOLDEN / "call.json"
    if not golden.exists():
        golden.write_text(json.dumps(rows[0], indent=1) + "\n", encoding="utf-8")
        pytest.fail(f"{golden} did not exist and was written")
    assert rows[0] == json.loads(golden.read_text(encoding="utf-8"))
    for row, (question, form) in zip(rows, ROWS, strict=True):
        (call,) = row["messages"][-1]["tool_calls"]
        assert row["messages"][:-1] == [{"role": "user", "content": f"Question: {question}"}]
        assert json.loads(call["function"]["arguments"]) == call_of(form)["arguments"]
        assert {one["name"] for one in calls_in(call_of(form))} <= names_of(row["tools"])


@pytest.mark.parametrize("name", ["qwen3", "qwen3_instruct_2507"])
def test_exactly_the_call_is_learnt_under_a_template_that_knows_tools(
    name: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model(tmp_path / "model", width=64)
    settings = json.loads((model / "tokenizer_config.json").read_text())
    settings["chat_template"] = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    (model / "tokenizer_config.json").write_text(json.dumps(settings))

    code = check([str(data / "data" / "sft.jsonl"), "--model", str(model), "--show", str(len(ROWS))])

    shown = capsys.readouterr().out
    assert code == 0
    learnt = re.findall(r"⟦(.*?)⟧", shown, re.DOTALL)
    assert len(learnt) == len(ROWS)
    for text, (_, form) in zip(learnt, ROWS, strict=True):
        said = text.removeprefix("<think>\n\n</think>\n\n").removesuffix("<|im_end|>")
        assert said.startswith("<tool_call>")
        assert calls_of(said) == [call_of(form)]
    assert shown.count('"name": "create_call"') >= 2, "the functions on offer stand in the prompt"


def test_test_rows_carry_their_functions_and_the_scorers_read_them(data: Path) -> None:
    rows = rows_of(data / "data" / "test.jsonl")

    asked = Example(**rows[0] | {"answers": tuple(rows[0]["answers"])})

    right, wrong = asked.answers[0], '{"name": "call_nobody", "arguments": {}}'
    kinds = {kind: ScorerSettings(kind=kind) for kind in ("tool_call", "arguments", "valid_call")}  # type: ignore[arg-type]
    judge = scorers(kinds, "tool_call", ())
    assert [judge[kind](asked, right, ()) for kind in judge] == [1, 1, 1]
    assert [judge[kind](asked, wrong, ()) for kind in judge] == [0, 0, 0]
    assert judge["valid_call"](asked, '{"name": "get_weather", "arguments": {"location": ["Rome"]}}', ()) == 1


names = st.sampled_from(["GET_CONTACT", "CREATE_CALL", "PLAY_MUSIC"])
words = st.lists(st.sampled_from(["my", "Ann's", "6:30", "[x]", "Zürich", '"', "\\"]), min_size=1, max_size=3).map(
    " ".join
)


def trees(depth: int) -> st.SearchStrategy[str]:
    """Bracketed forms as MTOP writes them, slots of one name side by side."""
    value = words if depth == 0 else st.one_of(words, trees(depth - 1))
    slots = st.dictionaries(
        st.sampled_from(["CONTACT", "TODO", "DATE_TIME"]), st.lists(value, min_size=1, max_size=2), max_size=3
    )
    return st.builds(
        lambda name, slots: " ".join([f"[IN:{name}", *(f"[SL:{s} {v} ]" for s, vs in slots.items() for v in vs), "]"]),
        names,
        slots,
    )


@given(trees(2))
def test_a_form_comes_back_from_its_call(form: str) -> None:
    assert form_of(call_of(form)) == form
    assert form_of(json.loads(json.dumps(call_of(form)))) == form


@pytest.mark.parametrize(
    ("form", "why"),
    [
        ("[IN:GET_NEWS now ]", "now stands where [SL:... is expected"),
        ("[IN:GET_NEWS [SL:TOPIC the [IN:GET_TEAM ] ] ]", "a slot holds words beside an intent or a slot"),
        ("[IN:GET_NEWS [SL:TOPIC [IN:GET_TEAM ] [IN:GET_TEAM ] ] ]", "more than one intent stands in a slot"),
        ("[IN:GET_NEWS [SL:TOPIC ] ]", "a slot is empty"),
        ("[IN:GET_NEWS [SL:TOPIC sport ]", "a bracket is not closed"),
        ("[IN:GET_NEWS ] [IN:GET_NEWS ]", "something stands behind the intent"),
        ("[SL:TOPIC sport ]", "[SL:TOPIC stands where [IN:... is expected"),
        ("", "the end stands where [IN:... is expected"),
    ],
)
def test_what_is_no_call_is_named_and_left_out(form: str, why: str, tmp_path: Path) -> None:
    lines = [json.dumps({"question": "?", "logical_form": one}) for one in ("[IN:GET_NEWS ]", form)]
    (tmp_path / "train.json").write_text("\n".join(lines))

    rows, inexpressible = read_rows(tmp_path / "train.json", "train")

    assert [row.form for row in rows] == ["[IN:GET_NEWS ]"]
    assert inexpressible == [sentence for sentence in inexpressible if why in sentence and "train.json:2" in sentence]
    assert len(inexpressible) == 1


def test_a_file_that_is_not_mtop_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text('{"question": "a", "logical_form": "[IN:A ]"}\n{"text": "b"}\n')

    with pytest.raises(FileError, match="json:2: expected"):
        read_rows(tmp_path / "train.json", "train")


def test_the_functions_on_offer_hold_the_right_ones_at_any_place_and_follow_the_id() -> None:
    forms = [f"[IN:F{n} [SL:S x ] ]" for n in range(30)] + ["[IN:F1 [SL:S [IN:F2 ] ] ]"]
    tools = tools_of(map(call_of, forms))
    rows = [mtop.Row(id=f"r{n}", question="?", form=forms[-1], call=call_of(forms[-1])) for n in range(100)]

    offers = [[tool["function"]["name"] for tool in example(row, tools)["meta"]["tools"]] for row in rows]

    assert all(len(offer) == len(set(offer)) == mtop.OFFERED and {"f1", "f2"} <= set(offer) for offer in offers)
    assert {offer.index("f1") for offer in offers} == set(range(mtop.OFFERED))
    assert offers == [[tool["function"]["name"] for tool in example(row, tools)["meta"]["tools"]] for row in rows]
    assert tools["f1"]["function"]["parameters"]["properties"]["s"]["items"]["anyOf"][1]["properties"]["name"] == {
        "enum": ["f2"]
    }


@pytest.mark.parametrize(
    ("answer", "tools", "why"),
    [
        ("Oslo", [], "no function call"),
        ('{"name": "f", "arguments": {}}', [], "it calls f; describe every function"),
        ('[{"name": "f", "arguments": {}}, {"name": "g", "arguments": {}}]', ["f"], "it calls g; describe"),
    ],
)
def test_an_example_that_is_no_call_has_no_such_target(answer: str, tools: list[str], why: str) -> None:
    offered = [{"type": "function", "function": {"name": name}} for name in tools]

    assert why in str(misfit(Example(id="q", question="?", answers=(answer,), meta={"tools": offered}), "calls"))


F = '{"name": "f", "arguments": {"a": 1, "b": ["x", "y"]}}'


@pytest.mark.parametrize(
    ("said", "exactly", "arguments"),
    [
        (F, 1, 1),
        ('{"arguments": {"b": ["x", "y"], "a": 1}, "name": "f"}', 1, 1),
        (f"[{F}]", 1, 1),
        (f"<tool_call>\n{F}\n</tool_call>", 1, 1),
        ('{"name": "f", "arguments": {"a": 1, "b": ["y", "x"]}}', 0, 4 / 6),
        ('{"name": "f", "arguments": {"a": true, "b": ["x", "y"]}}', 0, 4 / 6),
        ('{"name": "f", "arguments": {"a": 1}}', 0, 4 / 5),
        ('{"name": "f", "arguments": {"a": 1, "b": ["x", "y"], "c": 0}}', 0, 6 / 7),
        ('{"name": "g", "arguments": {"a": 1, "b": ["x", "y"]}}', 0, 0),
        (f"[{F}, {F}]", 0, 6 / 9),
        (f"I call {F}", 0, 0),
        (f"<tool_call>{F}</tool_call> Done.", 0, 0),
        ('{"name": "f", "arguments": "{}"}', 0, 0),
        ('{"name": "f", "arguments": {"a": 1, "b": ["x", "y"]}, "note": ""}', 0, 0),
        ('{"name": "f", "arguments": {"a": 1, "a": 1, "b": ["x", "y"]}}', 0, 0),
        ('{"name": "f", "arguments": {"a": NaN}}', 0, 0),
        ("[]", 0, 0),
        ("", 0, 0),
        ("[" * 9999, 0, 0),
    ],
)
def test_a_call_is_right_as_a_whole_or_in_part(said: str, exactly: float, arguments: float) -> None:
    assert same_calls(said, F) == exactly
    assert same_arguments(said, F) == pytest.approx(arguments)


@pytest.mark.skipif(not DATA.exists(), reason="MTOP is not on this machine")
def test_all_of_mtop_says_the_same_as_calls() -> None:
    def tree(form: str) -> list[Any]:
        """The brackets as lists, by another way than the converter's; slots in the order of their names."""
        open_ones: list[list[Any]] = [[]]
        for word in form.split():
            if word.startswith(("[IN:", "[SL:")):
                open_ones.append([word])
            elif word == "]":
                done = open_ones.pop()
                if done[0].startswith("[IN:"):
                    done[1:] = sorted(done[1:], key=lambda slot: slot[0])
                open_ones[-1].append(done)
            else:
                open_ones[-1].append(word)
        return open_ones[0]

    for name, expected in (("train", 15667), ("dev", 2235)):
        rows, inexpressible = read_rows(DATA / f"{name}.json", name)
        assert (len(rows), inexpressible) == (expected, [])
        assert [row.id for row in rows if tree(form_of(row.call)) != tree(row.form)] == []


def test_an_example_without_gold_answers_teaches_only_what_a_teacher_says() -> None:
    example = Example(id="q", question="?", answers=())

    assert "nothing to teach" in str(misfit(example, "plain"))
    assert misfit(example, "teacher") is None
