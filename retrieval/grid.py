"""Several indexes of the same documents, cut or seen in different ways, and a file of retrievers that compares them.

    python -m retrieval build docs out/index/docs --size 300 1000 --overlap 0 100
    python -m retrieval measure out/index/docs-grid.yaml beir/docs

Pure but for the one file it writes; knows nothing of how an index is built or measured.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Final

import yaml

from retrieval.files import write_atomically
from retrieval.manifest import BuildSettings
from retrieval.settings import Kind
from retrieval.views import View, by_a_model

COMPARED: Final[tuple[Kind, ...]] = ("lexical", "dense", "hybrid")


def variants(
    index: Path, base: BuildSettings, sizes: Sequence[int], overlaps: Sequence[int], views: Sequence[View], writer: str
) -> Mapping[Path, BuildSettings]:
    """Where each way of building goes: `docs` alone, or `docs-size300-overlap0-text`, named by what varies.

    `writer` is the model of the views that a model writes; where none is one, it is refused like any idle setting.

    >>> [path.name for path in variants(Path("docs"), BuildSettings(), [300, 1000], [0], ["titled"], "")]
    ['docs-size300', 'docs-size1000']
    """
    found = {}
    for size, overlap, view in product(sizes, overlaps, views):
        names = [
            *([f"size{size}"] if len(sizes) > 1 else []),
            *([f"overlap{overlap}"] if len(overlaps) > 1 else []),
            *([view] if len(views) > 1 else []),
        ]
        written = by_a_model(view) or not any(map(by_a_model, views))
        settings = replace(base, size=size, overlap=overlap, view=view, writer=writer if written else "")
        found[index.with_name("-".join([index.name, *names]))] = settings
    return found


def write_retrievers(index: Path, built: Iterable[Path]) -> Path:
    """A YAML file of `retrievers:`, each kind of search on each index."""
    named = {
        f"{kind}{path.name.removeprefix(index.name)}": {"kind": kind, "index": path.name}
        for path in built
        for kind in COMPARED
    }
    file = index.with_name(f"{index.name}-grid.yaml")
    write_atomically(file, yaml.safe_dump({"retrievers": named}, sort_keys=False))
    return file
