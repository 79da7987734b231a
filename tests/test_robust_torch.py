"""Torch files that are broken or meant to harm (rows F1 to F5 of the table of faults).

Each is refused with one line that names file, cause and remedy; nothing is run, written or unpacked, and
little time and memory is taken. Times are those of the processor: a busy machine is no fault of the code.
"""

import json
import pickle
import struct
import zipfile

import pytest
import torch
from hostile import HF, PAYLOADS, ROOT, binary, refused, rezipped, streamed, with_pickle, with_weights
from nemo_writer import saved
from safetensors.torch import load_file as safetensors_of

pytestmark = pytest.mark.usefixtures("nothing_runs")


@pytest.mark.parametrize("writer", [saved, streamed], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_f1_a_pickle_that_would_run_something_is_refused_and_runs_nothing(tmp_path, payload, writer):
    refused(binary(tmp_path, writer({"weight": payload})), "pytorch_model.bin holds more than tensors")


def test_f1_a_bare_pickle_is_refused(tmp_path):
    refused(with_weights(tmp_path, pickle.dumps(PAYLOADS["exec"])), "no torch file")
    refused(binary(tmp_path, pickle.dumps(PAYLOADS["exec"])), "holds more than tensors")


@pytest.mark.parametrize("level", range(6))
def test_f1_a_pickle_of_any_protocol_is_refused(tmp_path, level):
    data = pickle.dumps({"weight": PAYLOADS["system"]}, protocol=level)
    refused(
        with_weights(tmp_path, with_pickle(saved({"w": torch.zeros(1)}), data)), "holds more than tensors"
    )


DEEP = b"\x80\x02}" + b")" + b"\x85" * 200_000 + b"K\x01s."  # a key that is a tuple in a tuple in …

WIDE = b"\x80\x02})" + b"q\x00h\x00\x86" * 60 + b"K\x01s."  # a key that is 2^60 tuples, each held once


@pytest.mark.parametrize(
    "instructions",
    [
        DEEP,
        WIDE,
        b"\x80\x02" + b"}" * 4_000_000 + b".",
        b"\x80\x02" + b"}q\x000" * 1_000_000 + b".",
        b"\x80\x02}(" + b"(" * 500_000 + b"u.",
        b"\x80\x02]K\x01K\x02s.",
        b"\x80\x02}K\x01a.",
        b"\x80\x02.",
        b"\x80\x02Q.",
        b"\x80\x02K\x01R.",
        b"\x80\x02h\x07.",
        b"\x80\x02B\xff\xff\xff\x7fx.",
        b"\x80\x02\x8e" + b"\xff" * 8 + b".",
        b"\x80\x02X\x02\0\0\0\xff\xff.",
        b"\x80\x02K\x01q\x00",
        b"",
    ],
    ids=range(16),
)
def test_f1_odd_instructions_neither_hang_nor_crash_nor_leave_a_traceback(tmp_path, instructions):
    data = with_pickle(saved({"w": torch.zeros(1)}), instructions)
    refused(with_weights(tmp_path, data), "holds more than tensors", cpu_s=4)


def test_f2_the_message_is_our_own_and_never_says_how_to_drop_the_safety(tmp_path):
    said = refused(binary(tmp_path, streamed({"weight": PAYLOADS["exec"]})), "Only plain weights are read")
    assert "download it again, or save its tensors alone" in said


def test_f2_torch_itself_never_reads_a_file():
    calls = [
        path
        for path in (ROOT / "mt5").rglob("*.py")
        if any(
            call in path.read_text(encoding="utf-8") for call in ("torch.load(", "pickle.load", "Unpickler")
        )
    ]
    assert calls == []


def test_f3_a_storage_shorter_than_declared_is_refused(tmp_path):
    state = {"weight": torch.zeros(1000)}
    cut = rezipped(saved(state), lambda name, content: content[:-4] if "/data/" in name else content)
    refused(with_weights(tmp_path, cut), "storage is shorter")
    refused(binary(tmp_path, streamed(state)[:-4]), "storage .* cut short")


@pytest.mark.parametrize("writer", [saved, streamed], ids=["zip", "before torch 1.6"])
def test_f4_a_tensor_of_2_to_the_40_numbers_that_are_all_the_same_one_is_refused(tmp_path, writer):
    tensor = torch.zeros(1).as_strided((2**20, 2**20), (0, 0))
    refused(binary(tmp_path, writer({"weight": tensor})), "uses numbers twice", cpu_s=0.1)


def test_f4_a_shape_of_very_many_dimensions_is_refused(tmp_path):
    data = saved({"weight": torch.zeros(1).as_strided((1,) * 60, (1,) * 60)})
    refused(with_weights(tmp_path, data), "impossible shape")


def test_f4_one_storage_under_many_names_is_not_multiplied(tmp_path):
    weights, layers = safetensors_of(HF / "model.safetensors"), 40
    one = torch.zeros(max(tensor.numel() for tensor in weights.values()))
    state = {}
    for name, tensor in weights.items():
        for number in range(1, layers) if ".block.1." in name else [1]:
            view = one[: tensor.numel()].view(tensor.shape)
            state[name.replace(".block.1.", f".block.{number}.")] = view
    path = binary(tmp_path, saved(state))
    settings = json.loads((HF / "config.json").read_text()) | {
        "num_layers": layers,
        "num_decoder_layers": layers,
    }
    (path / "config.json").write_text(json.dumps(settings))
    refused(path, "named many times over")


def test_f5_a_bomb_in_a_zip_is_refused_from_its_directory(tmp_path):
    data = bytearray(
        rezipped(saved({"weight": torch.zeros(2**18)}), lambda _, content: content, zipfile.ZIP_DEFLATED)
    )
    entry = data.index(b"PK\1\2")
    data[entry + 24 : entry + 28] = struct.pack("<I", 1 << 30)
    refused(with_weights(tmp_path, bytes(data)), "is compressed", cpu_s=0.05)
    # a directory that says the record is stored, and a gigabyte long
    data = bytearray(saved({"weight": torch.zeros(4)}))
    entry = data.rfind(b"PK\1\2", 0, data.rfind(b"PK\1\2"))
    data[entry + 20 : entry + 28] = struct.pack("<II", 1 << 30, 1 << 30)
    refused(with_weights(tmp_path, bytes(data)), "damaged or cut short", cpu_s=0.05)
