"""Conversion: the same numbers in another form, or nothing at all."""

import os
from pathlib import Path

import pytest
import torch
import yaml
from nemo_writer import members_of
from safetensors.torch import load_file, save_file

import mt5
from mt5.checkpoint import convert, open_checkpoint
from mt5.errors import CheckpointError

DATA = Path(__file__).parent / "data"
TINY = DATA / "nemo_tiny_tp2.nemo"
HF = DATA / "hf_tiny_mt5"
CPU = torch.device("cpu")
VOCABULARY = 1104  # rows above it are padding, cut or filled with zeros


def weights(path, dtype=torch.float32):
    return open_checkpoint(path).load(dtype=dtype, device=CPU).state_dict()


def assert_same(found, expected):
    for name, weight in expected.items():
        kept = VOCABULARY if len(weight) == 1280 else len(weight)
        assert torch.equal(found[name][:kept], weight[:kept]), name


@pytest.mark.parametrize("ranks, rows", [(1, 1152), (2, 1280), (4, 1536)])
def test_an_archive_is_cut_into_any_number_of_shards_and_back(tmp_path, ranks, rows):
    convert(TINY, tmp_path / "cut.nemo", to="nemo", tensor_parallel=ranks)
    cut = open_checkpoint(tmp_path / "cut.nemo")
    assert (cut.tensor_parallel, cut.dtype, cut.config.padded_vocab_size) == (ranks, torch.bfloat16, rows)
    assert_same(weights(tmp_path / "cut.nemo"), weights(TINY))
    convert(tmp_path / "cut.nemo", tmp_path / "back.nemo", to="nemo", tensor_parallel=2)
    assert_same(weights(tmp_path / "back.nemo"), weights(TINY))


def test_a_written_archive_has_nemos_layout_key_order_and_shared_embeddings(tmp_path):
    convert(TINY, tmp_path / "same.nemo", to="nemo", tensor_parallel=2)
    found, expected = members_of(tmp_path / "same.nemo"), members_of(TINY)
    assert list(found) == list(expected)
    assert found["model_config.yaml"] == expected["model_config.yaml"]
    for number in range(2):
        name = f"mp_rank_{number:02d}/model_weights.ckpt"
        states = []
        for members in (found, expected):
            (tmp_path / "rank.ckpt").write_bytes(members[name])
            states.append(torch.load(tmp_path / "rank.ckpt", map_location="cpu", weights_only=True))
        assert list(states[0]) == list(states[1])
        words = [
            states[0][f"enc_dec_model.{side}_embedding.word_embeddings.weight"]
            for side in ("encoder", "decoder")
        ]
        assert words[0].data_ptr() == words[1].data_ptr()
        for key, tensor in states[1].items():
            kept = VOCABULARY - number * len(tensor) if len(tensor) == 640 else len(tensor)
            assert states[0][key].dtype == tensor.dtype
            assert torch.equal(states[0][key][:kept], tensor[:kept])


def test_a_single_shard_lies_at_the_top_and_the_configuration_says_so(tmp_path):
    convert(TINY, tmp_path / "one.nemo", to="nemo", dtype="float32")
    members = members_of(tmp_path / "one.nemo")
    assert "model_weights.ckpt" in members
    settings = yaml.safe_load(members["model_config.yaml"])
    assert (settings["tensor_model_parallel_size"], settings["precision"]) == (1, 32)
    assert settings["megatron_amp_O2"] is False
    assert open_checkpoint(tmp_path / "one.nemo").dtype == torch.float32


def test_a_nemo_network_survives_as_a_folder_with_all_its_facts(tmp_path):
    convert(TINY, tmp_path / "folder")
    source, folder = open_checkpoint(TINY), open_checkpoint(tmp_path / "folder")
    assert folder.config == source.config
    assert folder.tokenizer.special == source.tokenizer.special
    assert folder.tokenizer.sentinels == source.tokenizer.sentinels
    assert folder.dtype == torch.bfloat16
    assert folder.parameters == source.parameters
    found, expected = weights(tmp_path / "folder"), weights(TINY)
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


def test_a_hugging_face_folder_keeps_its_names_and_changes_its_precision(tmp_path):
    convert(HF, tmp_path / "half", dtype="bfloat16")
    half = open_checkpoint(tmp_path / "half")
    assert (half.format, half.dtype) == ("huggingface", torch.bfloat16)
    found, expected = weights(tmp_path / "half"), weights(HF)
    assert all(torch.equal(found[name], weight.bfloat16().float()) for name, weight in expected.items())


@pytest.mark.parametrize(
    "source, options, message",
    [
        (TINY, {"to": "nemo", "tensor_parallel": 3}, "3 shards do not divide encoder num_attention_heads 4"),
        (TINY, {"to": "nemo", "tensor_parallel": 0}, "0 shards"),
        (HF, {"to": "nemo"}, "from a .nemo only"),
        (HF, {"tensor_parallel": 2}, "never cut into shards"),
        (HF, {"dtype": "int4"}, "'int4' is unknown"),
        (HF, {"to": "onnx"}, "'onnx'"),
    ],
)
def test_what_cannot_be_written_is_named_and_leaves_nothing(tmp_path, source, options, message):
    with pytest.raises(CheckpointError, match=message):
        convert(source, tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_something_is_never_overwritten(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="exists already"):
        convert(HF, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("to", ["huggingface", "nemo"])
def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch, to):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left"):
        convert(TINY, tmp_path / "out", to=to)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_int8_weights_are_stored_as_they_are_kept_and_open_alike(tmp_path, request):
    """Large matrices with 8 bits and scales, a few with 16; what is small keeps its numbers."""
    folder = request.config.rootpath / "assets" / "model"
    convert(folder, tmp_path / "int8", dtype="int8")
    size = (tmp_path / "int8" / "model.safetensors").stat().st_size
    assert size < 0.8 * (folder / "model.safetensors").stat().st_size
    found = open_checkpoint(tmp_path / "int8")
    found.check()
    assert found.dtype == torch.int8
    assert found.parameters == open_checkpoint(folder).parameters
    prompt = "Die Hauptstadt von Deutschland ist <mask>."
    fills = []
    for path in (folder, tmp_path / "int8"):
        with mt5.open(path, dtype="int8") as engine:
            fills.append(engine.fill(prompt))
    assert fills[0].spans == fills[1].spans
    with mt5.open(tmp_path / "int8", dtype="float32") as engine:
        # the rounding of the weights alone
        assert engine.fill(prompt).log_prob == pytest.approx(fills[0].log_prob, abs=0.1)
    with mt5.open(tmp_path / "int8") as engine:
        assert engine.info.dtype == engine.info.stored_dtype == "int8"


def test_int8_weights_are_converted_again_without_another_rounding(tmp_path, request):
    convert(request.config.rootpath / "assets" / "model", tmp_path / "int8", dtype="int8")
    convert(tmp_path / "int8", tmp_path / "again")
    convert(tmp_path / "int8", tmp_path / "wide", dtype="float32")
    one, other = (tmp_path / name / "model.safetensors" for name in ("int8", "again"))
    assert one.read_bytes() == other.read_bytes()
    assert_same(weights(tmp_path / "wide"), weights(tmp_path / "int8"))


def test_an_archive_holds_no_int8(tmp_path):
    with pytest.raises(CheckpointError, match=r"no int8.*huggingface"):
        convert(TINY, tmp_path / "x.nemo", to="nemo", dtype="int8")


def test_int8_numbers_without_their_scales_are_refused(tmp_path, request):
    convert(request.config.rootpath / "assets" / "model", tmp_path / "int8", dtype="int8")
    path = tmp_path / "int8" / "model.safetensors"
    stored = load_file(path)
    del stored["embedding.weight_scale"]
    save_file(stored, path)
    with pytest.raises(CheckpointError, match=r"embedding\.weight is int8.*scale"):
        open_checkpoint(tmp_path / "int8")
