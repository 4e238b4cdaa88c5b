"""How many tokens a text has for a model, by the model's own tokenizer. Needs neither torch nor the model's weights."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from retrieval.passage import RetrievalError


@lru_cache(maxsize=4)
def counter(folder: Path) -> Callable[[str], int]:
    """The number of a text's tokens, without those that begin and end a prompt; RetrievalError without a tokenizer."""
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json"
    if not file.is_file():
        raise RetrievalError(f"{folder}: no tokenizer.json is here, by which tokens could be counted")
    tokenizer = Tokenizer.from_file(str(file))
    # Some tokenizers are saved with the length of what they were last used for.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)
