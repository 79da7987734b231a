"""Hugging Face repository ids: downloaded once, then read from the cache."""

import re
from pathlib import Path

from mt5.errors import CheckpointError

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
FILES = ["config.json", "spiece.model", "*.safetensors", "*.safetensors.index.json"]
OLDER_FILES = ["pytorch_model*.bin", "pytorch_model.bin.index.json"]


def download(repository: str) -> Path:
    """The local folder of a repository's checkpoint. CheckpointError when it cannot be had."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        names = HfApi().list_repo_files(repository)
        safe = any(name.endswith(".safetensors") and "/" not in name for name in names)
        return Path(snapshot_download(repository, allow_patterns=FILES if safe else FILES + OLDER_FILES))
    except RepositoryNotFoundError as fault:
        raise CheckpointError(
            f"{repository}: no such folder here, and no such repository on the hub. "
            "Check the spelling; a private one needs HF_TOKEN."
        ) from fault
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as fault:
        cached = _cached(repository)
        if cached is not None:
            return cached
        raise CheckpointError(
            f"{repository}: cannot be downloaded ({type(fault).__name__}). Check the network, "
            "or download the repository elsewhere and pass its folder."
        ) from fault


def _cached(repository: str) -> Path | None:
    """The folder of an earlier download, None when there is none."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
