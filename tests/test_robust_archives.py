"""Archives and their configurations that are broken or meant to harm (rows F6 to F12).

Each is refused with one line that names file, cause and remedy; nothing is run, written or unpacked, and
little time and memory is taken. Times are those of the processor: a busy machine is no fault of the code.
"""

import gzip
import io
import os
import tarfile
from collections import OrderedDict

import pytest
import torch
from hostile import (
    TINY,
    WEIGHTS,
    refused,
    with_config,
)
from nemo_writer import members_of, saved, tar_of

from mt5.checkpoint.nemo_config import MAX_CONFIG, read_config

pytestmark = pytest.mark.usefixtures("nothing_runs")


def member(name, kind=tarfile.REGTYPE, target="", pax=None, size=0):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size, info.pax_headers = kind, target, size, pax or {}
    return info


ODD_MEMBERS = {
    "parent": member("../evil"),
    "parent inside": member("a/../../evil"),
    "parent at the end": member("a/.."),
    "absolute": member("/etc/evil"),
    "parent in a pax name": member("x", pax={"path": "a/" * 60 + "../../evil"}),
    "absolute in a pax name": member("x", pax={"path": "/" + "a/" * 60 + "evil"}),
    "symlink": member("./link", tarfile.SYMTYPE, "/etc/passwd"),
    "hardlink": member("./hard", tarfile.LNKTYPE, "../../etc/passwd"),
    "character device": member("./zero", tarfile.CHRTYPE),
    "block device": member("./disk", tarfile.BLKTYPE),
    "fifo": member("./pipe", tarfile.FIFOTYPE),
    "sparse": member("./sparse", tarfile.GNUTYPE_SPARSE),
    "sparse in pax": member("./sparse", pax={"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}),
}


@pytest.mark.parametrize("odd", ODD_MEMBERS.values(), ids=ODD_MEMBERS)
def test_f6_an_odd_member_of_a_tar_is_refused_and_nothing_is_written(tmp_path, odd):
    path = tmp_path / "x.nemo"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members_of(TINY).items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        tar.addfile(odd)
    refused(path, "outside the archive|link, a device or sparse")
    assert os.listdir(tmp_path) == ["x.nemo"] and not (tmp_path.parent / "evil").exists()


def test_f7_a_chain_of_links_that_escapes_an_extraction_filter_is_refused(tmp_path):
    # CVE-2025-4517: a path longer than the system allows is not resolved, and its links are then followed
    step, path = "d" * 247, ""
    with tarfile.open(tmp_path / "x.nemo", "w", format=tarfile.PAX_FORMAT) as tar:
        for letter in "abcdefghijklmnop":
            tar.addfile(member(f"{path}{step}", tarfile.DIRTYPE))
            tar.addfile(member(f"{path}{letter}", tarfile.SYMTYPE, step))
            path += f"{step}/"
        tar.addfile(member("/".join("abcdefghijklmnop") + "/l" + "l" * 253, tarfile.SYMTYPE, "../" * 16))
        tar.addfile(member("escape", tarfile.SYMTYPE, "a/l" + "l" * 253 + "/../../evil"))
        tar.addfile(member("escape/model_config.yaml"))
    refused(tmp_path / "x.nemo", "link, a device or sparse", cpu_s=0.1)
    assert os.listdir(tmp_path) == ["x.nemo"]


def block(name, kind=tarfile.REGTYPE, size=0):
    return member(name, kind, size=size).tobuf(tarfile.USTAR_FORMAT)


def many_blocks(count):
    """So many members, numbered."""
    empty = block("./000000")
    total = int(empty[148:154], 8) - 6 * ord("0")
    names = (b"./%06d" % number for number in range(count))
    return b"".join(
        name + empty[8:148] + b"%06o\0 " % (total + sum(name[2:])) + empty[156:] for name in names
    )


def pax_blocks(size, count):
    record = b"1000 comment=" + b"x" * 986 + b"\n"
    data = (record * (size // len(record) + 1))[: size // 1000 * 1000]
    data += bytes(-len(data) % 512)
    return (block("./pax", tarfile.XHDTYPE, size // 1000 * 1000) + data + block("./x")) * count


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: many_blocks(100_000), "5,000 members"),
        (lambda: pax_blocks(20 << 20, 1), "extended headers"),
        (lambda: pax_blocks(10 << 20, 1), "extended headers"),
        (lambda: pax_blocks(60_000, 300), "extended headers|occurs twice"),
        (lambda: b"".join(pax_blocks(60_000, 1)[:-512] for _ in range(300)), "extended headers"),
        (lambda: gzip.compress(block("./w", size=1 << 30) + bytes(64 << 20), 1), "unpacks to more"),
        (lambda: gzip.compress(gzip.compress(bytes(64 << 20))), "no tar"),
    ],
    ids=[
        "100,000 members",
        "20 MB header",
        "10 MB header",
        "headers",
        "stacked headers",
        "gz bomb",
        "gz in gz",
    ],
)
def test_f8_bombs_in_a_tar_take_little_time_and_memory(tmp_path, content, message):
    (tmp_path / "x.nemo").write_bytes(content())
    refused(tmp_path / "x.nemo", message, cpu_s=0.1)  # measured: 0.001 to 0.05 s
    refused(tmp_path / "x.nemo", message, mb=50)


@pytest.mark.parametrize("digits", ["9" * 30, "9" * 6_000, "-1", "²", "٣"])
def test_f8_a_size_that_is_no_number_is_refused(tmp_path, digits):
    with tarfile.open(tmp_path / "x.nemo", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(member("./x", pax={"size": digits}))
    refused(tmp_path / "x.nemo", "cut short|damaged|no model_config|no tar|unsupported")


def test_f9_an_archive_cut_at_any_member_or_block_names_what_is_missing(tmp_path):
    data = TINY.read_bytes()
    with tarfile.open(TINY) as tar:
        members = [info for info in tar if info.isreg()]
        boundaries = [info.offset for info in tar]
    for cut in [*boundaries, *(info.offset_data for info in members), *range(1, len(data) - 10_240, 90_001)]:
        (tmp_path / "x.nemo").write_bytes(data[:cut])
        refused(
            tmp_path / "x.nemo",
            "rank 0|rank 1|no model_config.yaml|cut short|is empty|not in the archive|no tar",
        )
    last = max(info.offset for info in members if "mp_rank_01" in info.name)
    (tmp_path / "x.nemo").write_bytes(data[:last])
    refused(tmp_path / "x.nemo", "says 2 ranks; rank 1 missing. Download it again")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("mp_rank_01/model_weights.ckpt"), "rank 1 missing"),
        (lambda m: m.update({"mp_rank_02/model_weights.ckpt": m[WEIGHTS]}), "rank 2 too many"),
        (
            lambda m: m.update({"tp_rank_01_pp_rank_000/model_weights.ckpt": m[WEIGHTS]}),
            "rank 1 occurs twice",
        ),
        (lambda m: m.update({"model_weights.ckpt": m[WEIGHTS]}), "which of them counts"),
    ],
    ids=["missing", "extra", "duplicate", "both layouts"],
)
def test_f10_a_rank_that_is_missing_or_too_many_is_named(tmp_path, change, message):
    members = members_of(TINY)
    change(members)
    refused(tar_of(tmp_path / "x.nemo", members), message)


def test_f10_ranks_that_disagree_are_named_with_tensor_and_shapes(tmp_path):
    members = members_of(TINY)
    name = "enc_dec_model.enc_dec_model.encoder.model.layers.0.mlp.dense_h_to_4h.weight"
    state = torch.load(
        io.BytesIO(members["mp_rank_01/model_weights.ckpt"]), map_location="cpu", weights_only=True
    )
    shape = list(state[name].shape)
    state[name] = state[name][:-1].clone()
    other = saved(OrderedDict((key, value.clone()) for key, value in state.items()))
    said = refused(
        tar_of(tmp_path / "x.nemo", members | {"mp_rank_01/model_weights.ckpt": other}), "rank 1 differs"
    )
    assert f"{name}, {[shape[0] - 1, shape[1]]} here and {shape} there" in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a: &x [1, 2]\nb: [" + b"*x, " * 17 + b"]\n", "many aliases"),
        (
            b"a: &a [x, x]\n"
            + b"".join(b"%c: &%c [*%c, *%c]\n" % (n + 1, n + 1, n, n) for n in range(97, 121)),
            "alias",
        ),
        (b"a: !!python/object/apply:os.system ['touch marker']\n", "not plain YAML"),
        (b"a: !!python/name:os.system ''\n", "not plain YAML"),
        (b"a: !own {}\n", "not plain YAML"),
        (b"a: " + b"[" * 5_000, "nesting|not plain YAML"),
        (b"a: " + b"x" * MAX_CONFIG, "bytes, more than"),
        (b"a: " + b"x" * (10 << 20), "bytes, more than"),
        (b"? " * 50_000, "nesting|not plain YAML"),
        (b"- 1\n", "mapping"),
        (b"\xff\xfe", "not plain YAML"),
        (b"a: [", "not plain YAML"),
        (b"1: 2\n? [a]\n: b\n", "not plain YAML|tokenizer"),
    ],
    ids=range(13),
)
def test_f11_hostile_yaml_is_refused_at_once(tmp_path, text, message):
    refused(with_config(tmp_path, text), f"x.nemo.*({message})", cpu_s=0.1)  # measured: at most 0.06 s


def test_f12_an_interpolation_is_shown_and_never_resolved(tmp_path, monkeypatch):
    monkeypatch.setenv("MT5_SECRET", "the-secret-canary")
    for text in ("hidden_size: ${oc.env:MT5_SECRET}", "transformer_block_type: ${oc.env:MT5_SECRET}"):
        own = members_of(TINY)["model_config.yaml"].decode()
        said = refused(with_config(tmp_path, f"{own}\n{text}\n".encode()), r"\$\{oc.env:MT5_SECRET\}")
        assert "canary" not in said
    assert read_config(b"a: ${oc.env:MT5_SECRET}", "x") == {"a": "${oc.env:MT5_SECRET}"}
