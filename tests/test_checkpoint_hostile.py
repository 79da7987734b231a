"""Damaged and hostile files: refused by name, without running, unpacking or allocating what they ask for."""

import gzip
import io
import json
import os
import pickle
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
from mt5.checkpoint.nemo_config import read_config
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


def test_a_pickle_that_would_run_something_is_refused_in_a_zip_and_in_the_old_format(folder):
    refused(
        with_member(folder, WEIGHTS, saved({"weight": Payload()})), "a call of __builtin__.exec|builtins.exec"
    )
    old = io.BytesIO()
    torch.save({"weight": Payload()}, old, _use_new_zipfile_serialization=False)
    path = with_file(folder, "pytorch_model.bin", old.getvalue())
    (path / "model.safetensors").unlink()
    refused(path, "holds more than tensors")


def test_a_bare_pickle_is_refused(folder):
    refused(with_member(folder, WEIGHTS, pickle.dumps(Payload())), "no torch file")


def test_a_storage_shorter_than_its_shape_is_refused(folder):
    data = rezipped(
        members_of(TINY)[WEIGHTS], lambda name, content: (content[:100] if "/data/" in name else content, 0)
    )
    refused(with_member(folder, WEIGHTS, data), "storage is shorter")


def test_a_tensor_that_repeats_one_number_is_refused_before_it_is_copied(folder):
    data = saved({"weight": torch.zeros(1).as_strided((2**20, 2**20), (0, 0))})
    refused(with_member(folder, WEIGHTS, data), "uses numbers twice")


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


@pytest.mark.parametrize(
    "odd",
    [
        member("./link", tarfile.SYMTYPE, "/etc/passwd"),
        member("./hard", tarfile.LNKTYPE, "../../etc/passwd"),
        member("./device", tarfile.CHRTYPE),
        member("./block", tarfile.BLKTYPE),
        member("./fifo", tarfile.FIFOTYPE),
        member("./sparse", tarfile.GNUTYPE_SPARSE),
    ],
    ids=lambda info: info.name,
)
def test_links_devices_and_sparse_members_are_refused(folder, odd):
    refused(with_member(folder, "odd", odd), "link, a device or sparse")


@pytest.mark.parametrize("name", ["/etc/cron", "a/../../b", ".."])
def test_members_outside_the_archive_are_refused_and_nothing_is_written(folder, name):
    path = folder / "x.nemo"
    with tarfile.open(path, "w") as tar:
        tar.addfile(tarfile.TarInfo(name))
    refused(path, "outside the archive")
    assert os.listdir(folder) == ["x.nemo"]


def test_a_member_that_occurs_twice_is_refused(folder):
    with tarfile.open(folder / "x.nemo", "w") as tar:
        for _ in range(2):
            tar.addfile(tarfile.TarInfo("./model_config.yaml"))
    refused(folder / "x.nemo", "occurs twice")


def test_an_archive_cut_anywhere_is_refused(folder):
    data = TINY.read_bytes()
    with tarfile.open(TINY) as tar:
        # the last boundary is left out: everything is there, only the end mark is missing
        cuts = [info.offset for info in tar] + [
            info.offset_data + info.size // 2 for info in tar if info.isreg()
        ]
    for cut in [1, 511, 700, *cuts]:
        (folder / "cut.nemo").write_bytes(data[:cut])
        refused(
            folder / "cut.nemo", "cut short|missing|no model_config.yaml|is empty|no tar|not in the archive"
        )


def test_a_damaged_header_is_refused(folder):
    data = bytearray(TINY.read_bytes())
    data[260_000] ^= 1
    (folder / "x.nemo").write_bytes(data)
    refused(folder / "x.nemo", "damaged")


def test_many_members_long_headers_and_gzip_bombs_end_early(folder):
    block = tarfile.TarInfo("./x").tobuf(tarfile.USTAR_FORMAT)
    (folder / "many.nemo").write_bytes(block * 100_000)
    long = tarfile.TarInfo("./pax")
    long.type, long.size = tarfile.XHDTYPE, 20 << 20
    (folder / "long.nemo").write_bytes(long.tobuf(tarfile.USTAR_FORMAT) + bytes(20 << 20))
    big = tarfile.TarInfo("./model_weights.ckpt")
    big.size = 1 << 30
    with gzip.open(folder / "bomb.nemo", "wb", compresslevel=1) as bomb:
        bomb.write(big.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(64):
            bomb.write(bytes(1 << 20))
    (folder / "broken.nemo").write_bytes(gzip.compress(TINY.read_bytes())[:100_000])
    for name, message in {
        "many": "occurs twice|members",
        "long": "extended header",
        "bomb": "unpacks to more",
        "broken": "gzip",
    }.items():
        started = time.perf_counter()
        refused(folder / f"{name}.nemo", message)
        assert time.perf_counter() - started < 2


@pytest.mark.parametrize(
    "text, message",
    [
        (b"a: &x [1, 2]\nb: [" + b"*x, " * 17 + b"]\n", "many aliases"),
        (b"a: !!python/object/apply:os.system ['touch marker']\n", "not plain YAML"),
        (b"a: " + b"[" * 5_000, "nesting|not plain YAML"),
        (b"a: " + b"x" * (256 << 10), "bytes, more than"),
        (b"- 1\n", "mapping"),
        (b"\xff\xfe", "not plain YAML"),
        (b"a: [", "not plain YAML"),
    ],
)
def test_hostile_yaml_is_refused(text, message):
    with pytest.raises(CheckpointError, match=message):
        read_config(text, "x")


def test_interpolations_are_shown_and_never_resolved():
    assert read_config(b"a: ${oc.env:HOME}", "x") == {"a": "${oc.env:HOME}"}


@pytest.mark.parametrize("name", ["x.nemo", "config.json", "model.safetensors", "spiece.model"])
@pytest.mark.parametrize(
    "content, message",
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>404</html>", "web page"),
        (b"", "is empty"),
    ],
    ids=["pointer", "page", "empty"],
)
def test_a_stand_in_for_a_file_is_named(folder, name, content, message):
    if name == "x.nemo":
        (folder / name).write_bytes(content)
        refused(folder / name, message)
    else:
        refused(with_file(folder, name, content), f"{name} .*{message}")


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
    "data, message",
    [
        (safetensors({"a": entry(0, 8), "b": entry(4, 12)}, 12), "overlaps"),
        (safetensors({"a": entry(0, 4), "b": entry(8, 12)}, 12), "hole"),
        (safetensors({"a": entry(0, 12)}, 8), "cut short"),
        (safetensors({"a": entry(0, 8)}, 12), "longer"),
        (safetensors({"a": entry(0, 8, [2**62, 4])}, 8), "impossible"),
        (safetensors({"a": entry(0, 8, [3])}, 8), "does not take"),
        (safetensors({"a": entry(0, 8, [-2])}, 8), "impossible"),
        (safetensors({"a": entry(0, 8, [1], "F64")}, 8), "F64"),
        (safetensors(None, 4, header=b'{"a":1,"a":2}'), "twice"),
        (safetensors(None, 4, header=b"[" * 100_000), "damaged"),
        (safetensors(None, 4, header=b"[]"), "damaged"),
        (struct.pack("<Q", 2**63) + b"{}", "header of 9,223,372,036,854,775,808"),
        (safetensors(None, 0, header=b"{" + b" " * (5 << 20) + b"}"), "header of 5,"),
        (safetensors({f"t{n}": entry(0, 0) for n in range(10_001)}, 0), "10,001 tensors"),
        (b"PK", "cut short"),
    ],
)
def test_damaged_safetensors_are_refused(folder, data, message):
    refused(with_file(folder, "model.safetensors", data), message)


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
