"""A writer of small NeMo archives, apart from the code under test: whole tensors in, shards in a tar out."""

import io
import tarfile
from collections import OrderedDict

import sentencepiece
import torch
import yaml

VOCABULARY = "encoder_embedding.word_embeddings.weight"


def spiece(**options):
    """A small SentencePiece model that knows nothing of masks and sentinels."""
    text = [
        "the capital of france is paris",
        "la capitale de la france est paris",
        "rome is old and far",
    ] * 20
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text), model_writer=out, vocab_size=26, minloglevel=2, **options
    )
    return out.getvalue()


def whole_tensors(encoder, decoder, rows, positions=None, generator=None):
    """NeMo's tensors of both stacks by name, before they are cut: name -> (tensor, dimension of the cut)."""
    generator = generator or torch.Generator().manual_seed(1)
    hidden = encoder["hidden_size"]

    def random(*shape):
        return torch.randn(*shape, generator=generator)

    made = {VOCABULARY: (random(rows, hidden), 0)}
    if positions:
        made["encoder_embedding.position_embeddings.weight"] = (random(positions, hidden), None)
    made |= {name.replace("encoder", "decoder"): tensor for name, tensor in made.items()}
    for side, stack in (("encoder", encoder), ("decoder", decoder)):
        inner, ffn = stack["num_attention_heads"] * stack["kv_channels"], stack["ffn_hidden_size"]
        bias, layer_norm = stack.get("bias", True), stack.get("normalization", "layernorm") == "layernorm"

        def norm(name, layer_norm=layer_norm):
            yield f"{name}.weight", random(hidden), None
            if layer_norm:
                yield f"{name}.bias", random(hidden), None

        def column(name, outputs, bias=bias):
            yield f"{name}.weight", random(outputs, hidden), 0
            if bias:
                yield f"{name}.bias", random(outputs), 0

        def row(name, inputs, bias=bias):
            yield f"{name}.weight", random(hidden, inputs), 1
            if bias:
                yield f"{name}.bias", random(hidden), None

        for number in range(stack["num_layers"]):
            parts = [
                norm("input_layernorm"),
                column("self_attention.query_key_value", 3 * inner),
                row("self_attention.dense", inner),
                norm("post_attention_layernorm"),
                column("mlp.dense_h_to_4h", ffn),
                row("mlp.dense_4h_to_h", ffn),
            ]
            if stack.get("activation", "gelu").endswith("glu"):
                parts.append(column("mlp.dense_h_to_4h_2", ffn))
            if side == "decoder":
                parts += [
                    column("inter_attention.query", inner),
                    column("inter_attention.key_value", 2 * inner),
                    row("inter_attention.dense", inner),
                    norm("post_inter_attention_layernorm"),
                ]
            for part in parts:
                for name, tensor, dim in part:
                    made[f"enc_dec_model.{side}.model.layers.{number}.{name}"] = (tensor, dim)
        for name, tensor, dim in norm("final_layernorm"):
            made[f"enc_dec_model.{side}.model.{name}"] = (tensor, dim)
        if stack.get("position_embedding_type") == "relative":
            table = random(stack.get("relative_attention_num_buckets", 32), stack["num_attention_heads"])
            name = f"{side}_relative_position_embedding.relative_position_embedding.weight"
            made[name] = (table, None)
    made["tokens_head.bias"] = (random(rows), 0)
    return made


def shards(tensors, ranks):
    """One state dict per rank."""
    states = [OrderedDict() for _ in range(ranks)]
    for name, (tensor, dim) in tensors.items():
        parts = [tensor] * ranks if dim is None else tensor.chunk(ranks, dim)
        for state, part in zip(states, parts, strict=True):
            state[f"enc_dec_model.{name}"] = part.clone()
    return states


def saved(state):
    out = io.BytesIO()
    torch.save(state, out)
    return out.getvalue()


def tar_of(path, members, mode="w", order=None):
    """Write members, name -> bytes or a TarInfo, under `./` as NeMo does."""
    with tarfile.open(path, mode) as tar:
        for name in order or members:
            content = members[name]
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def members_of(path):
    """An archive's regular members: name -> bytes."""
    with tarfile.open(path) as tar:
        return {
            member.name.removeprefix("./"): tar.extractfile(member).read() for member in tar if member.isreg()
        }


def archive_members(settings, tensors, proto, ranks, layout="mp"):
    """What an archive holds, ready for `tar_of`."""
    names = {
        "mp": [f"mp_rank_{rank:02d}/" for rank in range(ranks)],
        "tp_pp": [f"tp_rank_{rank:02d}_pp_rank_000/" for rank in range(ranks)],
        "top": [""],
    }[layout]
    config = {"tensor_model_parallel_size": ranks, **settings}
    config["tokenizer"] = {"library": "sentencepiece", "type": None, "model": "nemo:0123_spm.model"}
    weights = {
        f"{name}model_weights.ckpt": saved(state)
        for name, state in zip(names, shards(tensors, ranks), strict=True)
    }
    return {"0123_spm.model": proto, "model_config.yaml": yaml.safe_dump(config).encode(), **weights}
