"""Reference numbers that NeMo's and transformers' own code computed, met in float32.

Tolerances are those that the files of reference numbers state: 1e-4 for logits and log-probabilities, which
leaves room for another order of summation; ids exactly. Rows of equal value may stand in either order.
"""

import json
from functools import cache
from pathlib import Path

import pytest
import torch

import mt5
from mt5.checkpoint import open_checkpoint
from mt5.checkpoint.digest import Digest

DATA = Path(__file__).parent / "data"
TOLERANCE = 1e-4
CPU = torch.device("cpu")


@cache
def reference(name):
    return json.loads((DATA / f"{name}_expected.json").read_text(encoding="utf-8"))


@cache
def engine(name):
    return mt5.open(
        DATA / {"nemo_tiny": "nemo_tiny_tp2.nemo", "hf_tiny_mt5": "hf_tiny_mt5"}[name], dtype="float32"
    )


def model(name):
    return engine(name).network.model


def prompts():
    for name in ("nemo_tiny", "hf_tiny_mt5"):
        for number, prompt in enumerate(reference(name)["prompts"]):
            yield pytest.param(name, prompt, id=f"{name}-{number}")


def close(found, expected, tolerance=TOLERANCE):
    return found == pytest.approx(expected, abs=tolerance)


def same_top(ids, values, expected):
    """The same best ids and logits; neighbours closer than twice the tolerance may change places."""
    assert close(values.tolist(), expected["values"])
    for found, wanted, value in zip(ids.tolist(), expected["ids"], expected["values"], strict=True):
        twins = [i for i, v in zip(expected["ids"], expected["values"], strict=True) if abs(v - value) < 2e-4]
        assert found == wanted or found in twins


@pytest.mark.parametrize("name, prompt", list(prompts()))
@torch.inference_mode()
def test_encoder_rows_are_the_reference_ones(name, prompt):
    source = prompt.get("input_ids") or prompt["masked_ids"]
    memory = model(name).encode(torch.tensor([source]))[0]
    hidden = prompt["encoder_hidden"]
    assert list(memory.shape) == hidden["shape"]
    assert memory.square().sum().item() == pytest.approx(hidden["total_sumsq"], rel=1e-4)
    for row in hidden["rows"]:
        assert close(memory[row["position"], :4].tolist(), row["first4"])
        assert memory[row["position"]].sum().item() == pytest.approx(row["row_sum"], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("name, prompt", list(prompts()))
@torch.inference_mode()
def test_teacher_forcing_gives_the_reference_logits_and_log_probs(name, prompt):
    net, forced = model(name), prompt["teacher_forced"]
    source = torch.tensor([prompt.get("input_ids") or prompt["masked_ids"]])
    hidden = net.decode(torch.tensor([forced["decoder_input_ids"]]), net.start(net.encode(source)))
    log_probs = net.log_probs(hidden)
    labels = torch.tensor([forced["labels"]])
    assert close(log_probs.at(labels)[0].tolist(), forced["label_log_probs"])
    expected = forced.get("logsumexp") or forced["logsumexp_valid"]
    assert close(log_probs.normaliser[0, :, 0].tolist(), expected)
    ids, values = log_probs.top(8)
    logits = values + log_probs.normaliser
    for position, top in enumerate(forced["top8"]):
        same_top(ids[0, position], logits[0, position], top)


@pytest.mark.parametrize("name, prompt", list(prompts()))
def test_greedy_decoding_writes_the_reference_ids(name, prompt):
    source = prompt.get("input_ids") or prompt["masked_ids"]
    ids = prompt.get("greedy_decoder_ids") or prompt["greedy_decoder_ids_no_stop"]
    log_probs = prompt.get("greedy_log_probs") or prompt["greedy_log_probs_no_stop"]
    written = engine(name).generate(source, max_new_tokens=len(ids) - 1, stop=False)
    assert [engine(name).config.start_id, *written.ids] == ids
    assert close(list(written.log_probs), log_probs)
    assert close(engine(name).log_probs(source, list(written.ids)), log_probs)


@pytest.mark.parametrize(
    "prompt", reference("hf_tiny_mt5")["prompts"], ids=lambda prompt: prompt["text"][:20]
)
def test_decoding_with_stop_ends_where_transformers_ends(prompt):
    written = engine("hf_tiny_mt5").generate(prompt["input_ids"], max_new_tokens=16)
    assert [0, *written.ids] == prompt["generate_ids_until_eos"]


@pytest.mark.parametrize(
    "prompt", reference("nemo_tiny")["prompts"], ids=lambda prompt: prompt["prompt"][:20]
)
def test_nemo_response_is_that_of_nemo(prompt):
    response = engine("nemo_tiny").nemo_response(prompt["prompt"], prompt["tokens_to_generate"])
    expected = prompt["response"]
    assert list(response) == ["prompt", "completion", "masked_input"]
    assert response["prompt"] == expected["prompt"]
    assert response["masked_input"] == expected["masked_input"]
    assert response["completion"]["text"] == expected["completion"]["text"]
    found, wanted = response["completion"]["tokens"], expected["completion"]["tokens"]
    assert [row[:2] for row in found] == [row[:2] for row in wanted]
    assert close([row[2] for row in found], [row[2] for row in wanted])


@torch.inference_mode()
def test_a_padded_batch_of_nemos_gives_the_reference_logits():
    batch, net = reference("nemo_tiny")["padded_batch"], model("nemo_tiny")
    mask = torch.tensor(batch["encoder_mask"]).bool()
    memory = net.encode(torch.tensor(batch["encoder_ids"]), mask)
    log_probs = net.log_probs(net.decode(torch.tensor(batch["decoder_ids"]), net.start(memory, mask)))
    ids, values = log_probs.top(8)
    for row in batch["last_real_position"]:
        place = row["batch"], row["position"]
        assert close(log_probs.normaliser[(*place, 0)].item(), row["logsumexp_valid"])
        logits = values[place] + log_probs.normaliser[place]
        same_top(ids[place], logits, {"ids": row["top8_ids"], "values": row["top8_values"]})


@torch.inference_mode()
def test_a_pad_id_inside_nemos_target_is_masked_as_nemo_masks_it():
    case, net = reference("nemo_tiny")["decoder_pad_inside"], model("nemo_tiny")
    memory = net.encode(torch.tensor([case["encoder_ids"]]))
    target = torch.tensor([case["decoder_input_ids"]])
    log_probs = net.log_probs(net.decode(target, net.start(memory)))
    ids, values = log_probs.top(8)
    for row in case["top8"]:
        same_top(
            ids[0, row["position"]],
            values[0, row["position"]] + log_probs.normaliser[0, row["position"]],
            row,
        )
    assert close(log_probs.normaliser[0, :, 0].tolist(), case["logsumexp_valid"])


@torch.inference_mode()
def test_a_padded_batch_of_hugging_faces_gives_the_reference_logits():
    batch, net = reference("hf_tiny_mt5")["padded_batch"], model("hf_tiny_mt5")
    mask = torch.tensor(batch["attention_mask"]).bool()
    memory = net.encode(torch.tensor(batch["encoder_ids"]), mask)
    log_probs = net.log_probs(net.decode(torch.tensor(batch["decoder_ids"]), net.start(memory, mask)))
    ids, values = log_probs.top(8)
    for row in batch["last_position"]:
        place = row["batch"], -1
        assert close(log_probs.normaliser[(*place, 0)].item(), row["logsumexp"])
        same_top(
            ids[place],
            values[place] + log_probs.normaliser[place],
            {"ids": row["top8_ids"], "values": row["top8_values"]},
        )


def test_every_tensor_of_the_reference_archive_is_read():
    facts = reference("nemo_tiny")
    checkpoint = open_checkpoint(DATA / "nemo_tiny_tp2.nemo")
    assert Digest(checkpoint.files)() == facts["archive"]["sha256"]
    assert checkpoint.tensor_parallel == 2
    assert checkpoint.dtype == torch.bfloat16
    assert checkpoint.config.vocab_size == facts["tokenizer"]["vocab_size"]
    assert checkpoint.config.padded_vocab_size == facts["tokenizer"]["padded_vocab_size"]
