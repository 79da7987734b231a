"""Damaged and hostile files: refused by name, without running, unpacking or allocating what they ask for."""

import io
import json
import os
import shutil
import struct
import tarfile
import time
import zipfile
from pathlib import Path

import pytest
import torch
from nemo_writer import members_of, saved, tar_of

from mt5.checkpoint import convert, open_checkpoint, torchfile
from mt5.errors import CheckpointError

DATA = Path(__file__).parent / "data"
TINY = DATA / "nemo_tiny_tp2.nemo"
HF = DATA / "hf_tiny_mt5"
CPU = torch.device("cpu")
WEIGHTS = "mp_rank_00/model_weights.ckpt"


class Payload:
    """What a pickle would run."""

    def __reduce__(self):
        return (exec, ("open('marker', 'w')",))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Every test runs in a folder of its own and must leave no `marker` there."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not (tmp_path / "marker").exists()


def refused(path, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(path).load(dtype=torch.float32, device=CPU)
    assert "weights_only" not in str(caught.value)
    return caught.value


def with_member(folder, name, content):
    return tar_of(folder / "x.nemo", members_of(TINY) | {name: content})


def with_file(folder, name, content):
    """The tiny Hugging Face folder with one other file."""
    copy = folder / "model"
    shutil.copytree(HF, copy)
    (copy / name).chmod(0o644) if (copy / name).exists() else None
    (copy / name).write_bytes(content)
    return copy


def rezipped(data, change):
    """A torch file whose records went through `change`: name, content -> content, compression."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist():
            content, method = change(name, source.read(name))
            target.writestr(zipfile.ZipInfo(name), content, compress_type=method)
    return out.getvalue()


def test_a_compressed_record_is_refused_from_the_directory(folder):
    bomb = rezipped(
        saved({"weight": torch.zeros(2**22)}), lambda name, content: (content, zipfile.ZIP_DEFLATED)
    )
    path = with_member(folder, WEIGHTS, bomb)
    started = time.perf_counter()
    refused(path, "is compressed")
    assert time.perf_counter() - started < 1


def member(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_a_member_that_occurs_twice_is_refused(folder):
    with tarfile.open(folder / "x.nemo", "w") as tar:
        for _ in range(2):
            tar.addfile(tarfile.TarInfo("./model_config.yaml"))
    refused(folder / "x.nemo", "occurs twice")


def test_a_damaged_header_is_refused(folder):
    data = bytearray(TINY.read_bytes())
    data[260_000] ^= 1
    (folder / "x.nemo").write_bytes(data)
    refused(folder / "x.nemo", "damaged")


def safetensors(entries, size, *, header=None):
    text = json.dumps(entries).encode() if header is None else header
    return struct.pack("<Q", len(text)) + text + bytes(size)


def entry(first, last, shape=None, dtype="F32"):
    return {
        "dtype": dtype,
        "shape": [(last - first) // 4] if shape is None else shape,
        "data_offsets": [first, last],
    }


@pytest.mark.parametrize(
    "content, message",
    [
        (b"[]", "list"),
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"model_type": "bert"}', "'bert'"),
        (b'{"model_type": "mt5", "d_model": 0}', "d_model"),
        (b" " * (300 << 10), "bytes, more than"),
        (b'{"model_type": "mt5-infilling"}', "network's facts"),
    ],
)
def test_a_damaged_config_json_is_refused(folder, content, message):
    refused(with_file(folder, "config.json", content), message)


@pytest.mark.parametrize(
    "name, value",
    [
        ("activation", "tanh"),
        ("norm", None),
        ("norm_eps", "small"),
        ("score_scale", "1"),
        ("num_heads", 10**9),
    ],
)
def test_an_unknown_fact_in_a_converted_folder_is_refused(folder, name, value):
    convert(TINY, folder / "made")
    settings = json.loads((folder / "made" / "config.json").read_text())
    settings["config"]["encoder"][name] = value
    (folder / "made" / "config.json").write_text(json.dumps(settings))
    refused(folder / "made", "no known kind|num_heads")


def test_weights_that_shrink_or_change_while_they_are_read_are_refused(folder):
    path = with_file(folder, "model.safetensors", (HF / "model.safetensors").read_bytes())
    checkpoint = open_checkpoint(path)
    with (path / "model.safetensors").open("r+b") as file:
        file.seek(500_000)
        file.write(b"\1" * 8)
        os.utime(path / "model.safetensors", ns=(1, 1))
    with pytest.raises(CheckpointError, match="was changed while it was read"):
        checkpoint.load(dtype=torch.float32, device=CPU)
    os.truncate(path / "model.safetensors", 100_000)
    with pytest.raises(CheckpointError, match="became shorter"):
        checkpoint.load(dtype=torch.float32, device=CPU)


def test_a_checkpoint_replaced_by_another_file_still_loads_what_was_opened(folder):
    path = with_file(folder, "model.safetensors", (HF / "model.safetensors").read_bytes())
    checkpoint = open_checkpoint(path)
    (path / "new").write_bytes(b"other")
    (path / "new").replace(path / "model.safetensors")
    checkpoint.load(dtype=torch.float32, device=CPU)


def test_nothing_but_tensors_is_read_from_a_torch_file(folder):
    for state, message in (
        ({"a": torch.zeros(2), "epoch": 3}, "no dictionary of tensors"),
        ([torch.zeros(2)], "instruction|no dictionary|TypeError|attribute"),
        ({"a": torch.zeros(2, dtype=torch.int64)}, "LongStorage"),
        ({"a": torch.zeros(2, device="meta")}, "a call of"),
    ):
        (folder / "x.bin").write_bytes(saved(state))
        with pytest.raises(CheckpointError, match=message):
            torchfile.read(folder / "x.bin")
