"""The only program that downloads: a model from the hub, once, into the local cache that everything else reads offline.

Takes weights as safetensors only. Knows nothing of what the model is for.
    python scripts/fetch.py Qwen/Qwen3-4B-Instruct-2507
"""

import os
import sys

from retrieval.console import Parser


def main() -> int:
    parser = Parser(
        description="Download a model (safetensors only) into the local cache; everything else runs offline.",
        epilog="example: python scripts/fetch.py Qwen/Qwen3-4B-Instruct-2507",
    )
    parser.add_argument("model", help="a model id of the hub, owner/name")
    parser.add_argument("--revision", help="a commit, to get the same files next year")
    options = parser.parse_args()
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        os.environ.pop(name, None)
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            options.model,
            revision=options.revision,
            allow_patterns=["*.safetensors", "*.json", "*.jinja", "*.txt", "tokenizer*"],
            ignore_patterns=["consolidated*"],  # the same weights once more, in another layout
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        print(
            f"{options.model} could not be fetched: {str(error).splitlines()[0]}. Check the name and the network.",
            file=sys.stderr,
        )
        return 1
    print(f"{options.model} is in {folder}; next: write `model: {options.model}` in a stack.yaml")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
