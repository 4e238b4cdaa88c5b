"""What a size more costs, measured: vectors of an index, adapters of an engine, processes of a training.

Each returns a row of docs/scale.json, which `scripts.scale` makes into a page. Knows nothing of pages, or of what the
figures come to.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml

from eval.folder import load_results
from retrieval.files import write_atomically
from retrieval.stats import quantile
from retrieval.vectors import Vectors, kind_for
from scripts.bench_engine import engine
from scripts.bench_paths import ROOT, BenchError, load
from scripts.bench_texts import some_questions
from scripts.bench_train import SHAPES, chats_to_learn, make_base, make_rows
from scripts.bench_vectors import WIDTH, made_vectors
from scripts.serving import descendants, resident
from serve.stack import Stack

SEARCHES: Final = 100
PROMPTS: Final = 96
"""Asked of an engine, `USERS` at once, for answers of `TOKENS` tokens, adapter after adapter in turn."""
USERS: Final = 32
TOKENS: Final = 64
ROWS: Final = 75
"""Chats of a training, of which a fifth is not trained on; `STEP` tokens in a step, over all processes."""
STEP: Final = 2048
Row = dict[str, Any]
"""What one measurement found; `what` says of what."""


def rows_of(file: Path) -> list[Row]:
    """What was measured until now."""
    rows: list[Row] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    return rows


def keep(file: Path, row: Row) -> None:
    """Add it to those."""
    write_atomically(file, json.dumps([*rows_of(file), row], indent=1) + "\n")


def vectors(size: int) -> Row:
    """Build what `retrieval build` would of so many vectors, and ask it."""
    with tempfile.TemporaryDirectory() as folder:
        matrix = np.asarray(made_vectors(Path(folder) / "vectors.npy", size))
        began, computed = time.perf_counter(), time.process_time()
        made = Vectors.build(matrix)
        row = {"rows": size, "width": WIDTH, "kind": kind_for(size), "build_s": time.perf_counter() - began}
        row |= {"build_processor_s": time.process_time() - computed}
        made.save(Path(folder) / "index")
        times = []
        for question in matrix[:: size // SEARCHES][:SEARCHES]:
            began = time.perf_counter()
            made.search(question, 10)
            times.append(1000 * (time.perf_counter() - began))
        mib = (Path(folder) / "index").stat().st_size / (1 << 20)
        return told("vectors", row | {"search_ms": quantile(times, 0.5), "mib": mib})


def adapters(stack: Stack, count: int) -> Row:
    """An engine with the stack's first adapter under so many names; all are asked in turn, so that batches mix them."""
    if not stack.adapters:
        raise BenchError("the stack names no adapter, and it is adapters that are measured")
    names = [f"copy-{number}" for number in range(1, count + 1)]
    with tempfile.TemporaryDirectory() as folder:
        copies = {name: Path(folder) / name for name in names}  # an engine knows an adapter by its folder's name
        for copy in copies.values():
            copy.symlink_to(next(iter(stack.adapters.values())).resolve())
        began = time.monotonic()
        with engine(replace(stack, adapters=copies), f"{count} adapters") as way:
            starting = time.monotonic() - began
            body = {"temperature": 0, "max_tokens": TOKENS, "ignore_eos": True}
            job = {"load": "chats", "users": USERS, "body": body, "models": names}
            load(way, job | {"prompts": [f"Warm {n}" for n in range(2 * USERS)]})  # loads and compiles
            heard, _, _ = load(way, job | {"prompts": some_questions(None, PROMPTS)})
            mib = sum(map(resident, descendants(os.getpid())))
    if heard["failures"]:
        raise BenchError(f"{heard['failures']} calls failed: {heard['why']}")
    row = {"adapters": count, "start_s": starting, "tokens_per_second": heard["tokens_per_second"], "mib": mib}
    return told("adapters", row)


def processes(count: int) -> Row:
    """A training of 0.1 B random weights by so many processes on as many processors, over the same tokens a step."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_base(folder / "base", SHAPES["0.1B"])
        make_rows(folder, chats_to_learn(None, ROWS), ROWS, STEP)
        settings = {
            "model": str(folder / "base"),
            "data": str(folder / "train.jsonl"),
            "output": str(folder),
            "name": "adapter",
            "epochs": 1,
            "max_length": STEP // 2,
            "tokens_per_step": STEP,
            "eval_fraction": 0,
        }
        (folder / "recipe.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
        launch = ["taskset", "--cpu-list", f"0-{count - 1}", str(Path(sys.executable).parent / "accelerate"), "launch"]
        launch += ["--config_file", "train/machines/ddp.yaml", "--num_processes", str(count)]
        done = subprocess.run(
            [*launch, "train/lora.py", "--config", str(folder / "recipe.yaml")],
            cwd=ROOT,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise BenchError(f"training by {count} processes failed:\n{done.stderr[-3000:]}")
        card = json.loads((folder / "adapter" / "provenance.json").read_text(encoding="utf-8"))
    kept = ("tokens", "steps", "seconds", "tokens_per_second", "peak_gib")
    return told("processes", {"processes": count, **{name: card[name] for name in kept}})


def asked(run: Path) -> Iterator[Row]:
    """What an engine spent on an answer, by adapter: seconds waited over the calls that were in flight meanwhile."""
    records = [one for cell in load_results(run).records.values() for one in cell.values() if one.in_flight]
    for adapter in sorted({one.combination.adapter for one in records}):
        mine = [one for one in records if one.combination.adapter == adapter]
        spent = [(one.seconds - one.search_seconds) / one.in_flight for one in mine]
        tokens = [one.usage.prompt_tokens + one.usage.completion_tokens for one in mine]
        yield told(
            "engine",
            {
                "run": run.name,
                "adapter": adapter,
                "answers": len(mine),
                "engine_ms": 1000 * float(np.mean(spent)),
                "tokens": float(np.mean(tokens)),
                "at_once": float(np.mean([one.in_flight for one in mine])),
            },
        )


def told(what: str, row: Row) -> Row:
    """With what the machine was like."""
    return {"what": what, **row, "load": round(os.getloadavg()[0], 1), "processors": os.cpu_count()}
