"""Judges against labels of claims: parts share nothing, and a judge behind a real socket gets the kappa it deserves."""

from pathlib import Path

import pytest
import yaml

from scripts.check_judges import drawn, main, read_claims
from scripts.claims import parts
from tests.eval_stub import serving, write_rows
from tests.judge_stub import JudgeStub, verdict

N = 24


@pytest.fixture
def scifact(tmp_path: Path) -> Path:
    """Claims in turn supported, contradicted, and neither; every fourth abstract is cited for two claims."""
    relations = ("SUPPORT", "CONTRADICT", "")
    write_rows(tmp_path / "queries.jsonl", [{"_id": str(n), "text": f"Claim {n}."} for n in range(N)])
    documents = [{"_id": f"d{n}", "title": "It", "text": relations[n % 3] or "NEITHER"} for n in range(N)]
    write_rows(tmp_path / "corpus.jsonl", documents)
    marked = [{"claim_id": str(n), "doc_id": f"d{n}", "label": relations[n % 3]} for n in range(N) if n % 3 < 2]
    write_rows(
        tmp_path / "claim_labels.jsonl", [*marked, *marked, {"claim_id": "999", "doc_id": "d0", "label": "SUPPORT"}]
    )
    (tmp_path / "qrels").mkdir()
    cited = [f"{n}\td{n}\t1" for n in range(N)] + [f"{n}\td{n - 1}\t1" for n in range(3, N, 4)]
    (tmp_path / "qrels" / "test_beir.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *cited]) + "\n")
    return tmp_path


def test_parts_share_neither_a_claim_nor_an_abstract(scifact: Path) -> None:
    claims = read_claims(scifact)
    found = parts(claims, 3)

    assert sorted(one for part in found for one in map(str, part)) == sorted(map(str, claims))
    assert max(map(len, found)) - min(map(len, found)) <= 2
    for end in ("id", "document"):
        seen = [{getattr(one, end) for one in part} for part in found]
        assert not seen[0] & seen[1] | seen[0] & seen[2] | seen[1] & seen[2]


def test_a_cited_abstract_without_a_mark_supports_nothing(scifact: Path) -> None:
    labels = {(one.id, one.document): (one.relation, one.label) for one in read_claims(scifact)}

    assert len(labels) == N + 6
    assert labels["0", "d0"] == ("SUPPORT", "yes")
    assert labels["1", "d1"] == ("CONTRADICT", "no")
    assert labels["2", "d2"] == labels["3", "d2"] == ("", "no")


def test_a_draw_is_the_same_each_time_and_takes_no_more_than_there_are(scifact: Path) -> None:
    claims = read_claims(scifact)

    assert drawn(claims, 9) == drawn(claims, 9)
    assert set(drawn(claims, 9)) < set(claims)
    assert set(drawn(claims, 999)) == set(claims) == set(drawn(claims, None))


def test_a_judge_that_reads_is_calibrated(scifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = {"supported": lambda parts: verdict("SUPPORT" in parts["context"])}
    with serving(JudgeStub(lambda model, messages: "", rules=rules)) as stub:
        settings = {"judge": {"model": "sure", "url": stub.url}, "metrics": {"faithful": {"kind": "faithfulness"}}}
        (scifact / "judges.yaml").write_text(yaml.safe_dump(settings))
        command = [str(scifact), "--judge", str(scifact / "judges.yaml"), "--out", str(scifact / "out")]

        codes = main(command), main(command)

    said = capsys.readouterr().out
    assert codes == (0, 0)
    assert len(stub.bodies) == N + 6  # the second time, nothing is asked
    assert "1.00 [" in said
    assert "calibrated" in said
    assert "corrected by the other half" in said
