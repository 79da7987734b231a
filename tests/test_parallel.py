"""Layers cut over ranks: two or four processes compute what one computes."""

import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from mt5.checkpoint import open_checkpoint
from mt5.network import Network
from mt5.parallel import Shard, VocabularyLogProbs

DATA = Path(__file__).parent / "data"
CPU = torch.device("cpu")
SOURCE, TARGET = [[5, 300, 41, 7, 99, 1], [12, 8, 1]], [[999, 17, 400, 3], [999, 5]]


@torch.inference_mode()
def answers(path, shard):
    """Numbers that a rank computes: teacher forcing, the best candidates, and draws."""
    model = open_checkpoint(path).load(dtype=torch.float32, device=CPU, shard=shard)
    network = Network(model, CPU)
    scored = network.score(SOURCE, TARGET, candidates=5)
    source, mask = torch.tensor(SOURCE[:1]), None
    hidden = model.decode(
        torch.tensor([[model.config.start_id, 999]]), model.start(model.encode(source, mask))
    )
    log_probs = model.log_probs(hidden[:, -1])
    log_probs.forbid(torch.tensor([3, 999]))
    draws = []
    for options in ({"top_k": 0, "top_p": 1.0}, {"top_k": 7, "top_p": 1.0}, {"top_k": 0, "top_p": 0.6}):
        generators = [torch.Generator().manual_seed(5)]
        ids, values = log_probs.sample(temperature=1.5, generators=generators, **options)
        draws.append((ids.item(), values.item()))
    return [(one.log_probs, one.ranks, one.candidates) for one in scored], draws


def rank(number, size, path, meeting, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=number, world_size=size)
    try:
        results[number] = answers(path, Shard(number, size))
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, size", [("nemo_tiny_tp2.nemo", 2), ("nemo_tiny_tp2.nemo", 4), ("hf_tiny_mt5", 2)]
)
def test_ranks_together_compute_what_one_computes(tmp_path, name, size):
    path = DATA / name
    with multiprocessing.Manager() as manager:
        results = manager.dict()
        multiprocessing.spawn(rank, (size, path, tmp_path / "meeting", results), nprocs=size)
        every = [results[number] for number in range(size)]
    scored, draws = answers(path, Shard())
    for found, drawn in every:
        for (values, ranks, candidates), (wanted, wanted_ranks, wanted_candidates) in zip(
            found, scored, strict=True
        ):
            # an all-reduce sums in another order
            assert values == pytest.approx(wanted, abs=1e-4)
            assert ranks == wanted_ranks
            for row, wanted_row in zip(candidates, wanted_candidates, strict=True):
                assert [id_ for id_, _ in row] == [id_ for id_, _ in wanted_row]
        assert [id_ for id_, _ in drawn] == [id_ for id_, _ in draws]
        assert [value for _, value in drawn] == pytest.approx([value for _, value in draws], abs=1e-4)


def test_a_number_of_ranks_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="4 does not divide over 3"):
        Shard(0, 3).part(4)


def table(probabilities):
    return VocabularyLogProbs(
        torch.tensor([probabilities]).log(), vocab_size=len(probabilities), shard=Shard()
    )


def test_rank_one_is_the_likeliest():
    log_probs = table([0.1, 0.4, 0.2, 0.3])
    assert [int(log_probs.rank(torch.tensor([id_]))) for id_ in range(4)] == [4, 1, 3, 2]


def test_hiding_an_id_leaves_the_others_as_they_were():
    log_probs = table([0.1, 0.4, 0.2, 0.3])
    log_probs.forbid(torch.tensor([1]))
    ids, values = log_probs.top(1)
    assert ids.item() == 3 and values.item() == pytest.approx(math.log(0.3))


def test_very_many_logits_are_normalised_some_rows_at_a_time(monkeypatch):
    logits = torch.randn(2, 5, 30, generator=torch.Generator().manual_seed(0)) * 20
    monkeypatch.setattr("mt5.parallel.AT_ONCE", 100)
    found = VocabularyLogProbs(logits, vocab_size=30, shard=Shard()).normaliser
    assert torch.allclose(found, logits.logsumexp(-1, keepdim=True), atol=1e-5)
