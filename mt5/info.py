"""Facts about a loaded engine."""

from dataclasses import dataclass

from mt5.config import ModelConfig


@dataclass(frozen=True)
class Info:
    """Facts about a loaded engine.

    format: "huggingface", "nemo" or "mt5-infilling". dtype: of the weights in memory; stored_dtype: in the
    checkpoint. stored_tensor_parallel: shards in the checkpoint. vocabulary: ids that can be predicted,
    padded_vocabulary: rows of the embedding. sha256: of the files with the weights.
    """

    name: str
    path: str
    format: str
    parameters: int
    dtype: str
    stored_dtype: str
    device: str
    tensor_parallel: int
    stored_tensor_parallel: int
    vocabulary: int
    padded_vocabulary: int
    sha256: str
    config: ModelConfig
