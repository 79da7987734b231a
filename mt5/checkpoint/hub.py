"""Hugging Face repository ids: downloaded once, then read from the cache."""

import os
import re
from pathlib import Path

from mt5.errors import CheckpointError

REPOSITORY = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:/([\w.-]+\.nemo))?")
FILES = ["config.json", "spiece.model", "model*.safetensors", "model.safetensors.index.json"]
OLDER_FILES = ["pytorch_model*.bin", "pytorch_model.bin.index.json"]


def download(name: str) -> Path:
    """The local folder or `.nemo` of a repository, `owner/name` or `owner/name/file.nemo`.

    Only what is needed is fetched; HF_ENDPOINT names another hub. Raises CheckpointError.
    """
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    found = REPOSITORY.fullmatch(name)
    if found is None:
        raise CheckpointError(f"{name} is no repository id; expected owner/name.")
    repository, archive = found.groups()
    try:
        return _archive(repository, archive) if archive else _folder(repository)
    except RepositoryNotFoundError as fault:
        raise CheckpointError(
            f"{name}: no such folder here, and no such repository on the hub. "
            "Check the spelling; a private one needs HF_TOKEN."
        ) from fault
    except LocalEntryNotFoundError as fault:
        raise CheckpointError(
            f"{name}: no such folder here, and the hub cannot be reached. Check spelling and network, "
            "or download the repository elsewhere and pass its folder."
        ) from fault
    except (HfHubHTTPError, OSError) as fault:
        raise CheckpointError(
            f"{name}: the download failed ({type(fault).__name__}: {' '.join(str(fault).split())[:200]}). "
            "Try again, or download the repository elsewhere and pass its folder."
        ) from fault


def _folder(repository: str) -> Path:
    folder = _fetch(repository, FILES)
    if not (folder / "config.json").is_file():
        return _only_archive(repository, folder)
    if not any(folder.glob("*.safetensors")):
        _fetch(repository, OLDER_FILES)
    return folder


def _only_archive(repository: str, folder: Path) -> Path:
    from huggingface_hub import HfApi

    names = [
        name
        for name in HfApi(endpoint=os.environ.get("HF_ENDPOINT")).list_repo_files(repository)
        if name.endswith(".nemo") and "/" not in name
    ]
    if len(names) == 1:
        return _archive(repository, names[0])
    if names:
        choices = ", ".join(f"{repository}/{name}" for name in names)
        raise CheckpointError(f"{repository} holds several archives. Choose one: {choices}.")
    raise CheckpointError(f"{repository} holds no config.json and no .nemo; it is no checkpoint of an mT5.")


def _archive(repository: str, name: str) -> Path:
    path = _fetch(repository, [name]) / name
    if not path.is_file():
        raise CheckpointError(f"{repository} holds no {name}. Look at its files on the hub.")
    return path


def _fetch(repository: str, patterns: list[str]) -> Path:
    """The folder of a repository in the cache, with the files that match."""
    from huggingface_hub import snapshot_download

    # read here, since the library reads it only once, when it is imported
    endpoint = os.environ.get("HF_ENDPOINT")
    return Path(snapshot_download(repository, allow_patterns=patterns, endpoint=endpoint))
