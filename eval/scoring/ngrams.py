"""ROUGE, BLEU, chrF and GLEU through the libraries that define them: sentence by sentence, and over a whole corpus.

All are 0..1, where sacrebleu prints 0..100. Corpus BLEU is no mean of sentence BLEUs: it adds up matches before it
divides, so each figure has its own signature. Knows nothing of records. The libraries are loaded when a task asks.
"""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final

from eval.example import Example
from eval.scoring.kinds import Scorer, ScorerSettings
from eval.scoring.reading import reading

CORPUS: Final = "corpus"
"""Ends the name of a figure over all questions at once."""


def rouge(settings: ScorerSettings) -> Scorer:
    """ROUGE's F measure (Lin 2004) by rouge-score, without stemming; of several gold answers the best.

    Its words are made of `a-z0-9` alone: a language written in other letters scores nothing.
    """
    from rouge_score.rouge_scorer import RougeScorer

    measure, said = RougeScorer([settings.kind]), reading(settings)

    def score(example: Example, text: str, _: Sequence[str]) -> float:
        found = (measure.score(gold, said(text) or "")[settings.kind].fmeasure for gold in example.answers)
        return max(found, default=0.0)

    return score


def bleu(settings: ScorerSettings) -> Scorer:
    """BLEU of one reply by sacrebleu, with its effective order: a reply of two words has no 3-grams to miss."""
    from sacrebleu.metrics import BLEU

    measure = BLEU(effective_order=True)
    return _against_all(settings, lambda said, golds: measure.sentence_score(said, golds).score)


def chrf(settings: ScorerSettings) -> Scorer:
    """chrF2 of one reply by sacrebleu: character n-grams, so that it needs no words."""
    from sacrebleu.metrics import CHRF

    measure = CHRF()
    return _against_all(settings, lambda said, golds: measure.sentence_score(said, golds).score)


def gleu(settings: ScorerSettings) -> Scorer:
    """Google's GLEU of one reply by nltk (Wu et al. 2016), over sacrebleu's 13a tokens, as BLEU has them."""
    from nltk.translate.gleu_score import sentence_gleu

    words = _tokens()
    return _against_all(settings, lambda said, golds: 100 * sentence_gleu([*map(words, golds)], words(said)))


def corpus_bleu(said: Sequence[str], golds: Sequence[Sequence[str]]) -> float:
    """BLEU as papers report it; 0 where all replies together have no 4-gram, as answers of a few words."""
    from sacrebleu.metrics import BLEU

    return _share(BLEU().corpus_score(said, _streams(golds)).score)


def corpus_chrf(said: Sequence[str], golds: Sequence[Sequence[str]]) -> float:
    """chrF2 over all replies."""
    from sacrebleu.metrics import CHRF

    return _share(CHRF().corpus_score(said, _streams(golds)).score)


def corpus_gleu(said: Sequence[str], golds: Sequence[Sequence[str]]) -> float:
    """GLEU over all replies."""
    from nltk.translate.gleu_score import corpus_gleu as over_all

    words = _tokens()
    return float(over_all([[*map(words, some)] for some in golds], [*map(words, said)]))


def rouge_signature(kind: str, _: Sequence[Example]) -> Mapping[str, str]:
    return {"": f"{kind}|measure:f|stemmer:no|refs:best|rouge-score:{version('rouge-score')}"}


def bleu_signature(_: str, examples: Sequence[Example]) -> Mapping[str, str]:
    from sacrebleu.metrics import BLEU

    streams = _streams([one.answers for one in examples])
    return {
        "": str(BLEU(effective_order=True, references=streams).get_signature()),
        CORPUS: str(BLEU(references=streams).get_signature()),
    }


def chrf_signature(_: str, examples: Sequence[Example]) -> Mapping[str, str]:
    from sacrebleu.metrics import CHRF

    made = str(CHRF(references=_streams([one.answers for one in examples])).get_signature())
    return {"": made, CORPUS: made}


def gleu_signature(_: str, __: Sequence[Example]) -> Mapping[str, str]:
    made = f"gleu|n:1-4|tok:13a|nltk:{version('nltk')}|sacrebleu:{version('sacrebleu')}"
    return {"": made, CORPUS: made}


def _against_all(settings: ScorerSettings, measure: Any) -> Scorer:
    """These compare a reply with all gold answers together, each in its own way."""
    said = reading(settings)

    def score(example: Example, text: str, _: Sequence[str]) -> float:
        return _share(measure(said(text) or "", example.answers)) if example.answers else 0.0

    return score


def _share(score: float) -> float:
    """Of sacrebleu's 0..100, which rounding may leave by 1e-14."""
    return min(1.0, max(0.0, score / 100))


def _streams(golds: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """Sacrebleu's shape: the first gold answers of all, the second ones, and None where there is no more."""
    most = max(map(len, golds), default=0)
    return [[some[n] if n < len(some) else None for some in golds] for n in range(most)]


def _tokens() -> Any:
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    made = Tokenizer13a()
    return lambda text: made(text).split()
