"""Other files that are broken or meant to harm (rows F13 to F22 of the table of faults).

Each is refused with one line that names file, cause and remedy; nothing is run, written or unpacked, and
little time and memory is taken. Times are those of the processor: a busy machine is no fault of the code.
"""

import itertools
import json
import os
import random
import resource
import signal
import struct
import threading
import time

import pytest
import torch
from hostile import CPU, HF, PAYLOADS, STAND_INS, TINY, WEIGHTS, model, refused, with_weights
from nemo_writer import members_of, saved, tar_of

from mt5 import batch
from mt5.checkpoint import convert, open_checkpoint
from mt5.errors import CheckpointError, PromptError

pytestmark = pytest.mark.usefixtures("nothing_runs")


@pytest.mark.parametrize(
    "change",
    [
        {"vocab_size": 2**31},
        {"num_layers": 10**6},
        {"num_layers": -1},
        {"d_model": 2**40},
        {"d_ff": 10**9},
        {"num_heads": 10**9},
        {"relative_attention_num_buckets": 10**9},
        {"d_model": 1e9},
        {"d_model": True},
        {"d_model": None},
        {"d_model": "8" * 5_000},
    ],
    ids=lambda change: "-".join(f"{key}-{value!s:.12}" for key, value in change.items()),
)
def test_f13_impossible_sizes_are_refused_before_anything_is_allocated(tmp_path, change):
    settings = json.loads((HF / "config.json").read_text())
    path = model(tmp_path, **{"config.json": json.dumps(settings | change).encode()})
    refused(path, "expected", cpu_s=0.5)


def test_f13_the_largest_sizes_allowed_are_counted_and_not_allocated(tmp_path):
    settings = json.loads((HF / "config.json").read_text())
    large = {
        "d_model": 65_536,
        "d_ff": 1_048_576,
        "num_layers": 512,
        "num_decoder_layers": 512,
        "num_heads": 1024,
    }
    path = model(tmp_path, **{"config.json": json.dumps(settings | large).encode()})
    refused(path, "1024 layers, but only 52 weights", mb=50)
    few = large | {"num_layers": 2, "num_decoder_layers": 2}
    (path / "config.json").write_text(json.dumps(settings | few))
    refused(path, "of the wrong shape", mb=50)


def safetensors(entries, size=0, *, header=None):
    text = json.dumps(entries).encode() if header is None else header
    return struct.pack("<Q", len(text)) + text + bytes(size)


def entry(first, last, shape=None, dtype="F32"):
    return {
        "dtype": dtype,
        "shape": [(last - first) // 4] if shape is None else shape,
        "data_offsets": [first, last],
    }


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (safetensors({"a": entry(0, 8), "b": entry(4, 12)}, 12), "overlaps"),
        (safetensors({"a": entry(0, 8), "b": entry(0, 8)}, 8), "overlaps"),
        (safetensors({"a": entry(0, 4), "b": entry(8, 12)}, 12), "hole"),
        (safetensors({"a": entry(4, 8)}, 8), "hole"),
        (safetensors({"a": entry(0, 8, [2**62, 4])}, 8), "impossible"),
        (safetensors({"a": entry(0, 2**63)}, 8), "impossible"),
        (safetensors({"a": entry(0, 8, [1] * 50_000)}, 8), "impossible"),
        (safetensors({"a": entry(8, 0, [-2])}, 8), "impossible"),
        (safetensors({"a": entry(0, 8, [1.0])}, 8), "impossible"),
        (safetensors({"a": {"dtype": ["F32"], "shape": [], "data_offsets": [0, 4]}}, 4), "damaged"),
        (struct.pack("<Q", 2**63) + b"{}", "header of 9,223,372,036,854,775,808"),
        (struct.pack("<Q", 2**64 - 1) + b"{}", "header of"),
        (safetensors(None, 4, header=b'{"a":1,"a":2}'), "twice"),
        (safetensors(None, header=b"{" + b" " * (90 << 20) + b"}"), "header of 94,"),
        (safetensors(None, header=b'{"a":' + b"9" * 100_000 + b"}"), "damaged"),
        (safetensors(None, header=b'{"a":NaN}'), "damaged"),
        (safetensors(None, header=b"[" * 100_000), "damaged"),
        (safetensors(None, header=b'{"\\ud800\\n\\u001b[31m": 1}'), "damaged"),
    ],
    ids=range(18),
)  # fmt: skip
def test_f14_a_damaged_safetensors_header_is_refused_before_any_number_is_read(tmp_path, data, message):
    refused(model(tmp_path, **{"model.safetensors": data}), message, cpu_s=0.2)


def test_f15_a_header_of_a_million_tensors_is_refused_by_its_size(tmp_path):
    header = b'{"0":' + b',"0":'.join([json.dumps(entry(0, 0)).encode()] * 1_000_000) + b"}"
    refused(
        model(tmp_path, **{"model.safetensors": safetensors(None, header=header)}), "header of", cpu_s=0.1
    )


def test_f15_more_than_ten_thousand_tensors_are_refused(tmp_path):
    data = safetensors({f"t{n}": entry(0, 0) for n in range(10_001)})
    refused(model(tmp_path, **{"model.safetensors": data}), "10,001 tensors", cpu_s=1)


def proto_field(number, content):
    """A field of a protocol buffer that holds bytes."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


SPIECE = (HF / "spiece.model").read_bytes()


def piece(text):
    return proto_field(1, proto_field(1, text) + b"\x15\0\0\0\xc0")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        *((data, "empty|web page|Git LFS pointer") for data in STAND_INS.values()),
        (SPIECE[: len(SPIECE) // 2], "cannot be read|sentinel|belong|pieces"),
        (b"\0" * 1_000, "cannot be read"),
        (random.Random(0).randbytes(100_000), "cannot be read"),
        (SPIECE + piece(b"x" * 100_000), "piece is too long"),
        (SPIECE + piece(b"x" * 1_001), "piece of 1,001 characters"),
        (SPIECE + piece(b"\xff\xfe"), "not UTF-8"),
        (SPIECE.replace(b"<0xFF>", b"<0x\xffF>"), "byte piece <0x�F> is invalid"),
        (SPIECE + piece(b"a\0b"), "NUL"),
        (piece(b"<unk>"), "cannot be read|only 1 pieces"),
    ],
    ids=[
        *STAND_INS,
        "half",
        "zeros",
        "noise",
        "huge piece",
        "long piece",
        "no text",
        "no byte",
        "NUL piece",
        "one piece",
    ],
)
def test_f16_a_vocabulary_that_is_none_is_refused_with_its_cause(tmp_path, data, message):
    refused(model(tmp_path, **{"spiece.model": data}), message)


NAMES = (
    "config.json",
    "model.safetensors",
    "spiece.model",
    "pytorch_model.bin",
    "model.safetensors.index.json",
)


@pytest.mark.parametrize("content", STAND_INS.values(), ids=STAND_INS)
@pytest.mark.parametrize("name", NAMES)
def test_f17_a_stand_in_for_any_file_is_named_with_its_cause(tmp_path, name, content):
    alone = ["model.safetensors"] if name in NAMES[3:] else []
    refused(model(tmp_path, *alone, **{name: content}), f"{name} .*(empty|web page|Git LFS pointer)")


@pytest.mark.parametrize("content", STAND_INS.values(), ids=STAND_INS)
@pytest.mark.parametrize("name", ["", "model_config.yaml", WEIGHTS, "mp_rank_01/model_weights.ckpt"])
def test_f17_a_stand_in_for_an_archive_or_a_member_of_it_is_refused(tmp_path, name, content):
    if name:
        refused(tar_of(tmp_path / "x.nemo", members_of(TINY) | {name: content}), "x.nemo")
    else:
        (tmp_path / "x.nemo").write_bytes(content)
        refused(tmp_path / "x.nemo", "empty|web page|Git LFS pointer")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "pytorch_model.bin"])
def test_f17_half_a_download_is_refused(tmp_path, name, share):
    if name == "pytorch_model.bin":
        content, alone = saved({"weight": torch.zeros(100_000)}), ["model.safetensors"]
    else:
        content, alone = (HF / name).read_bytes(), []
    refused(model(tmp_path, *alone, **{name: content[: int(share * len(content))]}), f"{name}")


def test_f17_a_pipe_or_a_folder_in_place_of_a_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.nemo")
    refused(tmp_path / "x.nemo", "a pipe")
    path = model(tmp_path, "config.json")
    (path / "config.json").mkdir()
    refused(path, "config.json is a folder")


def test_f18_a_file_that_is_cut_short_while_it_is_read_is_refused_and_kills_nobody(tmp_path):
    path = model(tmp_path)
    checkpoint = open_checkpoint(path)
    os.truncate(path / "model.safetensors", 100_000)
    with pytest.raises(CheckpointError, match="became shorter"):
        checkpoint.load(dtype=torch.float32, device=CPU)


def test_f19_a_checkpoint_overwritten_while_it_loads_is_refused_or_read_whole(tmp_path):
    path = model(tmp_path)
    file = path / "model.safetensors"
    versions = [file.read_bytes()]
    start = 8 + int.from_bytes(versions[0][:8], "little")
    versions.append(versions[0][:start] + bytes(len(versions[0]) - start))
    state = open_checkpoint(path).load(dtype=torch.float32, device=CPU).state_dict()
    sums = {sum(float(tensor.abs().sum()) for tensor in state.values()), 0.0}
    over, refusals = threading.Event(), 0

    def overwrite():
        with file.open("r+b") as out:
            for version in itertools.cycle(versions):
                if over.is_set():
                    return
                out.seek(0)
                out.write(version)
                out.flush()
                time.sleep(random.random() * 0.05)

    writer = threading.Thread(target=overwrite)
    writer.start()
    try:
        for _ in range(15):
            try:
                loaded = open_checkpoint(path).load(dtype=torch.float32, device=CPU).state_dict()
            except CheckpointError as fault:
                refusals += 1
                assert "Load it again" in str(fault) or "again" in str(fault)
            else:
                assert sum(float(tensor.abs().sum()) for tensor in loaded.values()) in sums
    finally:
        over.set()
        writer.join()
    assert refusals


@pytest.mark.parametrize("to", ["huggingface", "nemo"])
def test_f20_a_full_disk_is_said_and_no_part_is_kept(tmp_path, to):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        with pytest.raises(CheckpointError, match=r"could not be written.*Nothing was kept"):
            convert(TINY, tmp_path / "out", to=to)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert os.listdir(tmp_path) == []


FORMULAS = [
    "=cmd()",
    "+1+1",
    "-1+1",
    "@sum",
    "\t=1",
    "\r=1",
    "\n=1",
    "＝cmd()",
    "＋1+1",
    "－1+1",
    "＠sum",
    "'=1",
]


@pytest.mark.parametrize("cell", FORMULAS)
def test_f21_no_cell_and_no_head_of_a_csv_acts_as_a_formula_and_all_come_back(cell):
    rows = [{"prompt": cell, cell: f"{cell} <mask>"}]
    written = batch.write(rows, "csv")
    assert batch.read(written, "x.csv") == rows
    text = written.decode("utf-8-sig")
    assert text.count(f"'{cell}") == 3
    assert not any(part.lstrip('"').startswith(cell) for part in text.replace("\r\n", ",").split(","))


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ("\ufeffprompt\né <mask>\n".encode(), "é <mask>"),
        ("prompt\né <mask>\n".encode("utf-16"), "é <mask>"),
        ("prompt\né <mask>\n".encode("utf-16-be"), "line 2: byte 15 is not UTF-8"),
        (b"\xfe\xff" + "prompt\né <mask>\n".encode("utf-16-be"), "é <mask>"),
        (b"prompt\r\na <mask>\r\n", "a <mask>"),
        (b"prompt\ra <mask>\r", "a <mask>"),
        (b"prompt\n" + b"a <mask>\n" * 10_001, "10,001 rows"),
        (b"prompt\na\n" + b"x" * (1 << 20), "line 3: 1,048,576 characters"),
        (b"prompt\na\nb\xff\n", "line 3.* not UTF-8"),
        (b"prompt\n\0<mask>\n", "\0<mask>"),
        (b"prompt,prompt\na,b\n", "line 1.*twice"),
        (b"prompt,n\na\n", "line 2"),
        (b'prompt\n"a\n', "line 2"),
        ("prompt\n<mask>\n".encode("utf-16")[:-1], "not UTF-16"),
        (b",".join(b"c%d" % n for n in range(9_000)) + b"\n", "no column `prompt`, found c0, c1"),
    ],
    ids=range(15),
)
def test_f22_a_file_of_prompts_is_read_or_refused_with_its_line(data, found):
    try:
        rows = batch.read(data, "in.csv")
    except PromptError as fault:
        pattern = found.partition(".*")
        assert pattern[0] in str(fault) and pattern[2] in str(fault) and len(str(fault)) < 1_000
    else:
        assert rows[0] == {"prompt": found}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"prompt": "a"}\n{"prompt": ', "line 2"),
        (b'{"prompt": "a"}\n[]\n', "line 2"),
        (b'{"prompt": "a", "n": 1e999}\n', "line 1"),
        (b'{"prompt": "a", "n": ' + b"9" * 5_000 + b"}\n", "line 1"),
        (b'{"prompt": "a"}\n' + b"[" * 50_000, "line 2"),
        (b'{"prompt": "a"}\n' * 10_001, "10,001 rows"),
        (b'{"prompt": "\\udc00"}\n', "line 1"),
    ],
    ids=range(7),
)
def test_f22_a_file_of_json_lines_is_refused_with_its_line(data, message):
    with pytest.raises(PromptError, match=f"in.jsonl.*{message}"):
        batch.read(data, "in.jsonl")


def test_a_name_from_a_file_cannot_act_on_a_terminal(tmp_path):
    data = saved({"\x1b[31m\nError: \u202e": torch.zeros(1).as_strided((2, 2), (0, 0))})
    said = refused(with_weights(tmp_path, data), "uses numbers twice")
    assert said.isprintable() and "\\u001b[31m\\u000aError: \\u202e" in said


def test_converting_a_hostile_file_leaves_nothing(tmp_path):
    path = with_weights(tmp_path, saved({"weight": PAYLOADS["exec"]}))
    with pytest.raises(CheckpointError):
        convert(path, tmp_path / "out")
    assert os.listdir(tmp_path) == ["x.nemo"]
