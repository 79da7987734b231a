"""Checkpoints: open any of them, load it into a network, write it in another form."""

from mt5.checkpoint.conversion import convert
from mt5.checkpoint.opening import Checkpoint, open_checkpoint

__all__ = ["Checkpoint", "convert", "open_checkpoint"]
