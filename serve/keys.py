"""API keys: made once, kept as hashes, compared in constant time.

A file of keys has lines `name sha256`; whoever reads it cannot call with it. Knows nothing of HTTP.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from retrieval.files import FileError, read_text
from serve.combination import NAME


@dataclass(frozen=True, slots=True)
class Keys:
    """Who may ask: name -> hash of the key."""

    hashes: Mapping[str, str]

    @classmethod
    def load(cls, path: Path) -> "Keys":
        """FileError names every line that is no key, and a file without any."""
        hashes: dict[str, str] = {}
        problems = []
        for number, line in enumerate(read_text(path).splitlines(), start=1):
            words = line.split()
            if not words or line.startswith("#"):
                continue
            if len(words) != 2 or not NAME.fullmatch(words[0]) or not re.fullmatch(r"[0-9a-f]{64}", words[1]):
                problems.append(f"{path}:{number}: not `name sha256`; make a line with `python -m serve key NAME`")
            elif words[0] in hashes:
                problems.append(f"{path}:{number}: {words[0]} has a key already; give every key a name of its own")
            else:
                hashes[words[0]] = words[1]
        if problems or not hashes:
            raise FileError("\n".join(problems) or f"{path}:1: no keys; make one with `python -m serve key NAME`")
        return cls(hashes)

    def owner(self, key: str) -> str | None:
        """The name of this key. Every hash is compared, so that the time says nothing."""
        given = _hash(key)
        matching = [name for name, one in self.hashes.items() if hmac.compare_digest(one, given)]
        return matching[0] if matching else None


def new_key(name: str) -> tuple[str, str]:
    """A key for its owner, and the line for the file."""
    key = f"fk-{secrets.token_urlsafe(32)}"
    return key, f"{name} {_hash(key)}"


def _hash(key: str) -> str:
    """256 random bits need no slow hash."""
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()
