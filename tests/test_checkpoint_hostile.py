"""Faults of checkpoints beside those of the table: each is refused by name. See test_robust_files.py."""

import json
import os
import tarfile

import pytest
import torch
from hostile import CPU, TINY, model, refused
from nemo_writer import saved

from mt5.checkpoint import convert, open_checkpoint, torchfile
from mt5.errors import CheckpointError

pytestmark = pytest.mark.usefixtures("nothing_runs")


def test_a_member_that_occurs_twice_is_refused(tmp_path):
    with tarfile.open(tmp_path / "x.nemo", "w") as tar:
        for _ in range(2):
            tar.addfile(tarfile.TarInfo("./model_config.yaml"))
    refused(tmp_path / "x.nemo", "occurs twice")


def test_a_damaged_header_is_refused(tmp_path):
    data = bytearray(TINY.read_bytes())
    data[260_000] ^= 1
    (tmp_path / "x.nemo").write_bytes(data)
    refused(tmp_path / "x.nemo", "damaged")


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
def test_a_damaged_config_json_is_refused(tmp_path, content, message):
    refused(model(tmp_path, **{"config.json": content}), message)


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
def test_an_unknown_fact_in_a_converted_folder_is_refused(tmp_path, name, value):
    convert(TINY, tmp_path / "made")
    settings = json.loads((tmp_path / "made" / "config.json").read_text())
    settings["config"]["encoder"][name] = value
    (tmp_path / "made" / "config.json").write_text(json.dumps(settings))
    refused(tmp_path / "made", "no known kind|num_heads")


def test_weights_that_shrink_or_change_while_they_are_read_are_refused(tmp_path):
    path = model(tmp_path)
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


def test_a_checkpoint_replaced_by_another_file_still_loads_what_was_opened(tmp_path):
    path = model(tmp_path)
    checkpoint = open_checkpoint(path)
    (path / "new").write_bytes(b"other")
    (path / "new").replace(path / "model.safetensors")
    checkpoint.load(dtype=torch.float32, device=CPU)


def test_nothing_but_tensors_is_read_from_a_torch_file(tmp_path):
    for state, message in (
        ({"a": torch.zeros(2), "epoch": 3}, "no dictionary of tensors"),
        ([torch.zeros(2)], "instruction|no dictionary|TypeError|attribute"),
        ({"a": torch.zeros(2, dtype=torch.int64)}, "LongStorage"),
        ({"a": torch.zeros(2, device="meta")}, "a call of"),
    ):
        (tmp_path / "x.bin").write_bytes(saved(state))
        with pytest.raises(CheckpointError, match=message):
            torchfile.read(tmp_path / "x.bin")
