"""Write a random-weight archive of a published size and layout: python -m training.make_random OUT.nemo

Nothing is learnt in it; it is for trying what opens and decodes such a file at its real scale.
"""

import argparse
import json
import tarfile
import tempfile
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch

from mt5.checkpoint import torchfile
from mt5.checkpoint.nemo import weights_member
from mt5.checkpoint.nemo_config import CONFIG, read_config
from mt5.checkpoint.weights import FileTensor

ROOT = Path(__file__).resolve().parent.parent
SPIECE = ROOT / "assets" / "model" / "spiece.model"
BLOCK = 1 << 22
"""Numbers that are drawn at a time: memory stays small, whatever is written."""


@dataclass(frozen=True)
class Likeness:
    """What an archive is made like. keys: JSON list of [name, shape per rank, whole shape, cut dimension or
    null, …]. pieces: of its SentencePiece model."""

    config: Path
    keys: Path
    ranks: int
    pieces: int


DATA = ROOT / "tests" / "data"
LIKENESSES = {"nemo-3b": Likeness(DATA / "nemo_3b_config.yaml", DATA / "nemo_3b_keys.json", 2, 250_100)}


def enlarged(spiece: bytes, pieces: int) -> bytes:
    """A SentencePiece model with pieces appended that no text needs, `pieces` in all."""
    from sentencepiece import SentencePieceProcessor

    have = SentencePieceProcessor(model_proto=spiece).vocab_size()
    # a protocol buffer's repeated field grows by appending: field 1, a message of field 1, the text,
    # and field 2, the score, here -100
    added = bytearray()
    for number in range(have, pieces):
        text = f"\u2581unused-{number}".encode()
        message = bytes([0x0A, len(text)]) + text + b"\x15\x00\x00\xc8\xc2"
        added += bytes([0x0A, len(message)]) + message
    return spiece + bytes(added)


def fill(path: Path, std: float, rank: int, cut: dict[str, bool]) -> None:
    """Give every tensor of a torch file its numbers: norms one, biases zero, the others normal.

    A tensor that is not cut is the same on every rank.
    """
    with path.open("r+b") as file:
        for name, tensor in torchfile.read(path).items():
            if not isinstance(tensor, FileTensor):
                raise TypeError(f"{name} does not lie in one piece")
            seed = zlib.crc32(name.encode()) + (rank if cut[name] else 0)
            generator = torch.Generator().manual_seed(seed)
            file.seek(tensor.offset)
            left = torch.Size(tensor.shape).numel()
            while left:
                block = torch.empty(min(left, BLOCK))
                if name.endswith("layernorm.weight"):
                    block.fill_(1)
                elif name.endswith("bias"):
                    block.zero_()
                else:
                    block.normal_(std=std, generator=generator)
                file.write(block.to(tensor.dtype).view(torch.uint8).numpy())
                left -= len(block)


def write(like: Likeness, out: Path) -> None:
    """Write the archive; at most a shard lies beside it while that is done."""
    settings = read_config(like.config.read_bytes(), str(like.config))
    keys = json.loads(like.keys.read_text())
    cut = {name: dim is not None for name, _, _, dim, *_ in keys}
    with tempfile.TemporaryDirectory(dir=out.parent) as folder, tarfile.open(out, "w") as tar:
        tokenizer = Path(folder) / settings["tokenizer"]["model"].removeprefix("nemo:")
        tokenizer.write_bytes(enlarged(SPIECE.read_bytes(), like.pieces))
        tar.add(tokenizer, f"./{tokenizer.name}")
        tar.add(like.config, f"./{CONFIG}")
        for rank in range(like.ranks):
            member = weights_member(rank, like.ranks)
            shard = Path(folder) / member.replace("/", "_")
            # torch.empty takes no memory until it is written to, and skip_data leaves holes in the file
            state = OrderedDict((name, torch.empty(shape, dtype=torch.bfloat16)) for name, shape, *_ in keys)
            shared = "enc_dec_model.encoder_embedding."
            for name in state:
                if name.startswith("enc_dec_model.decoder_embedding."):
                    state[name] = state[shared + name.split(".", 2)[2]]
            with torch.serialization.skip_data():
                torch.save(state, shard)
            del state
            fill(shard, settings["init_method_std"], rank, cut)
            tar.add(shard, f"./{member}")
            shard.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--like", choices=sorted(LIKENESSES), default="nemo-3b")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    write(LIKENESSES[options.like], options.out)


if __name__ == "__main__":
    main()
