"""The reduced form of `python -m scripts.check_run`: every kind of fault at least once, on a stand-in for vLLM."""

from pathlib import Path

import pytest
import yaml

from retrieval.build import build
from retrieval.documents import read_documents
from retrieval.manifest import BuildSettings
from scripts.check_resume import draw_alone
from scripts.check_run import FAULTS, KILLS, check
from tests.eval_stub import write_world
from tests.tiny import make_adapter, make_model
from tests.tiny_search import make_embedder


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = tmp_path_factory.mktemp("world")
    write_world(world, "", n=12)
    make_adapter(world / "house", make_model(world / "model"))
    documents = list(read_documents(world / "corpus.jsonl"))
    build(documents, world / "index", BuildSettings(embedder=str(make_embedder(world / "embedder"))))
    settings = {
        "model": "model",
        "adapters": {"house": "house"},
        "engine": {"max_model_len": 256},
        "retrievers": {"words": {"kind": "lexical", "index": "index", "k": 2}},
        "strategies": {"direct": {"kind": "direct"}, "instructed": {"kind": "instructed", "instructions": "Be brief."}},
    }
    (world / "stack.yaml").write_text(yaml.safe_dump(settings))
    return world / "stack.yaml"


def test_whatever_happens_to_a_run_nothing_is_lost_or_doubled_and_the_end_is_the_same(
    stack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_alone()
    for name, value in {"STUB_SECONDS": "0.01", "STUB_TELLS": "1"}.items():
        monkeypatch.setenv(name, value)
    kinds = [*KILLS.items(), *FAULTS.items()]

    tally = check(stack, tmp_path, [*kinds, *KILLS.items()], stub=True)

    assert tally.faults == {**dict.fromkeys(KILLS, 2), **dict.fromkeys(FAULTS, 1)}
    assert tally.finished >= 1
    assert tally.gaps >= 1  # otherwise nothing was ever disturbed
    assert tally.other_texts == 0
