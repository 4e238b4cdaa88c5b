"""What a sweep means, in plain words with its figures, and where nothing can be told.

Knows nothing of how the figures were computed or where they are shown.
"""

from collections.abc import Iterator
from pathlib import Path

from eval.wording import counted, listed, p_value, percent, points, span, within
from retrieval.stats import ALPHA, Difference, Estimate
from scripts.sweep.asking import Scores
from scripts.sweep.correlation import LEAST_POINTS
from scripts.sweep.outcome import Agreement, Half, Outcome
from serve.combination import BASE


def sentences(outcome: Outcome) -> tuple[str, ...]:
    """Everything, the choice first."""
    return (
        *_choice(outcome),
        *_loss_and_score(outcome),
        *_rows(outcome),
        *(sentence for scores in outcome.watched for sentence in _lost(outcome, scores)),
        *_limits(outcome),
    )


def next_step(outcome: Outcome, folder: Path) -> str:
    """One line."""
    best, recipe = outcome.best, folder / "recipes" / f"{outcome.best.name}.yaml"
    return (
        f"ask {best.name} once on questions that nothing was chosen on (put `{best.name}: {best.folder}` under "
        f"`adapters` of a stack, then `python -m eval run GRID`); its recipe is {_short(recipe)}"
    )


def _choice(outcome: Outcome) -> Iterator[str]:
    target, best, many = outcome.target, outcome.best, len(outcome.finals)
    ours, base = target.of(best.name), target.of(BASE)
    of = f"Of {many} variants, {best.name} scores highest" if many > 1 else f"{best.name} scores"
    yield (
        f"{of} on {target.grid}: {percent(ours.value)} ({_interval(ours)}) of {counted(target.n, 'question')}, "
        f"where {BASE} scores {percent(base.value)}."
    )
    if (start := best.variant.start) != BASE:
        before = target.of(start).value
        yield f"It continues {start}, which scores {percent(before)}: {_change(target.change(best.name, start))}."
    if (cheaper := outcome.cheaper) is not None:
        change = target.change(cheaper.name, best.name)
        yield (
            f"These questions cannot tell {cheaper.name} from it ({_change(change)}), and it took "
            f"{cheaper.tokens / best.tokens:.0%} of the training tokens."
        )
    questions = _short(target.questions)
    if "test" in target.questions.stem:
        yield (
            f"{questions} is a test set by its name: what is chosen on it has no honest score left on it. Choose on "
            "questions set aside for that."
        )
    elif many > 1:
        yield (
            f"Chosen among {many} on {questions}, which flatters the winner: expect a little less on other questions."
        )


def _loss_and_score(outcome: Outcome) -> Iterator[str]:
    found = list(outcome.agreements())
    if not found:
        yield "No rows are held out (eval_fraction is 0), so there is no evaluation loss to set beside the scores."
    for one in found:
        yield from _agreement(one)


def _agreement(one: Agreement) -> Iterator[str]:
    where, many = f"With {one.label}: " if one.label else "", len(one.checkpoints)
    if one.correlation is None:
        why = f"fewer than {LEAST_POINTS}" if many < LEAST_POINTS else "all with the same score or the same loss"
        yield (
            f"{where}Whether the loss ranks as the score does cannot be told from {counted(many, 'checkpoint')}, {why}."
        )
        return
    found, trainings = one.correlation, len({checkpoint.variant.name for checkpoint in one.checkpoints})
    chance = f"by chance alone {p_value(found.p)}"
    if found.p >= ALPHA:
        verdict = "which may be chance, so whether a lower loss is a better score cannot be told"
    elif found.value < 0:
        verdict = "so a lower loss tends to be a better score"
    else:
        verdict = "so here a lower loss tends to be a worse score"
    yield (
        f"{where}Evaluation loss and score have a rank correlation of {_signed(found.value)} over "
        f"{counted(found.points, 'checkpoint')} of {counted(trainings, 'training')} (Spearman; with other questions "
        f"{_signed(found.low)} to {_signed(found.high)}, 95% of bootstrap draws; {chance}, by permutation), {verdict}. "
        "Checkpoints of one training are alike: they are worth fewer points than they count."
    )
    if one.by_loss is one.by_score:
        yield f"{where}The lowest loss is that of {one.by_loss.name}, which also scores highest."
    else:
        cost = "more than chance" if one.change.p < ALPHA else "no more than chance can do"
        yield (
            f"{where}The lowest loss is that of {one.by_loss.name}; {one.by_score.name} scores highest, "
            f"{_change(one.change)} against it: {cost}."
        )


def _rows(outcome: Outcome) -> Iterator[str]:
    curves, target = outcome.curves(), outcome.target
    for label, half in outcome.halves().items():
        where, curve = f"With {label}: " if label else "", curves[label]
        most = curve[-1].rows
        scores = [(one.rows, target.of(one.name)) for one in curve]
        yield f"{where}Score by rows: {'; '.join(f'{n}: {percent(it.value)} ({_bounds(it)})' for n, it in scores)}."
        if half is None:
            yield f"{where}No variant learnt from half of the {most} rows: add {most // 2} to `rows`."
        else:
            yield f"{where}{_half(half)}"


def _half(half: Half) -> str:
    change, seen = half.change.estimate, half.change
    begin = f"{half.all.rows} rows against {half.half.rows}: {_change(seen)}, {p_value(seen.p)}. "
    if change.low > 0:
        return begin + "Twice the rows helped, so more rows of this kind are likely to help again."
    if change.high < 0:
        return begin + "Twice the rows hurt: look at what the second half teaches before adding more."
    return begin + (
        f"Whether twice the rows helped cannot be told from {counted(seen.n, 'question')}: the interval has both signs."
    )


def _lost(outcome: Outcome, scores: Scores) -> Iterator[str]:
    befores = {start: scores.of(start).value for start in outcome.starts}
    said = listed([f"{start} scores {percent(value)}" for start, value in befores.items()])
    begin = f"On {scores.grid}, watched for losses, {said} of {counted(scores.n, 'question')}"
    if not any(befores.values()):
        yield f"{begin}: there is nothing to lose that could be seen."
        return
    watches = outcome.watch(scores)
    worse = [one for one in watches if one.p_holm < ALPHA and one.change.estimate.value < 0]
    if worse:
        worst = min(worse, key=lambda one: one.change.estimate.value)
        yield (
            f"{begin}; {len(worse)} of {counted(len(watches), 'adapter')} score less than what they started from by "
            f"more than chance (Holm-corrected p < {ALPHA}), most of all {worst.checkpoint.name} "
            f"({_change(worst.change)})."
        )
    else:
        yield f"{begin}; no adapter of {len(watches)} scores less than what it started from by more than chance."
    best = next(one for one in watches if one.checkpoint is outcome.best)
    low = best.change.estimate.low
    if best in worse:
        yield f"The best variant, {outcome.best.name}, pays {_change(best.change)} there."
    else:
        unseen = f", so a loss of {-100 * low:.1f} points cannot be excluded" if low < 0 else ""
        yield f"The best variant, {outcome.best.name}: {_change(best.change)} there{unseen}."


def _limits(outcome: Outcome) -> Iterator[str]:
    tried = outcome.best.variant.tried
    if "seed" not in tried and len(outcome.finals) > 1:
        yield (
            "The intervals are over questions. Each variant was trained once, so the luck of its training is in none "
            "of them: `seed: [0, 1, 2]` shows it."
        )
    if "rows" in tried and "epochs" not in tried:
        yield "Fewer rows were also fewer steps, since the epochs are the same; a list of `epochs` tells the two apart."


def _short(path: Path) -> str:
    """From the working folder, where it lies below that."""
    inside = path.resolve().is_relative_to(Path.cwd())
    return str(path.resolve().relative_to(Path.cwd()) if inside else path)


def _interval(estimate: Estimate) -> str:
    return f"95% interval {_bounds(estimate)}"


def _bounds(estimate: Estimate) -> str:
    return within(estimate.low, estimate.high)


def _change(change: Difference) -> str:
    return f"{points(change.estimate.value)} points, 95% interval {span(change.estimate)}"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")
