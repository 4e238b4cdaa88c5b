import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.chat import ServeError
from serve.combination import NAME, Combination

names = st.from_regex(NAME, fullmatch=True)


@given(names, names, names)
def test_a_combination_reads_back_from_what_it_writes(adapter: str, retriever: str, strategy: str) -> None:
    combination = Combination(adapter, retriever, strategy)

    assert Combination.parse(str(combination)) == combination


@given(st.text())
def test_no_text_reads_as_anything_but_itself(text: str) -> None:
    try:
        combination = Combination.parse(text)
    except ServeError:
        return
    assert str(combination) == text


@pytest.mark.parametrize(
    "text",
    [
        "base",
        "base:none",
        "base:none:direct:",
        "Base:none:direct",
        ":none:direct",
        "base:../x:direct",
        "a" * 65 + ":b:c",
    ],
)
def test_these_name_no_combination(text: str) -> None:
    with pytest.raises(ServeError, match="names no combination"):
        Combination.parse(text)


def test_combinations_sort_by_adapter_then_retriever_then_strategy() -> None:
    listed = [Combination.parse(text) for text in ("b:a:a", "a:b:a", "a:a:b", "a:a:a")]

    assert [str(one) for one in sorted(listed)] == ["a:a:a", "a:a:b", "a:b:a", "b:a:a"]
