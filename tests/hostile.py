"""Files that are broken or meant to harm, and what must come of them."""

import gc
import io
import math
import os
import shutil
import subprocess
import time
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from nemo_writer import members_of, tar_of

from mt5.checkpoint import open_checkpoint
from mt5.errors import CheckpointError

ROOT = Path(__file__).resolve().parent.parent

DATA = Path(__file__).parent / "data"

TINY = DATA / "nemo_tiny_tp2.nemo"

HF = DATA / "hf_tiny_mt5"

CPU = torch.device("cpu")

WEIGHTS = "mp_rank_00/model_weights.ckpt"

MARKER = "marker"

STAND_INS = {
    "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "page": b"\n<!DOCTYPE html><html>404</html>",
    "empty": b"",
}


def refused(path, message, *, cpu_s=None, mb=None):
    """Opening and loading fails with one line. cpu_s, mb: processor seconds and memory it may take."""
    if mb:
        tracemalloc.start()
    if cpu_s:
        gc.freeze()  # what other tests left is not looked through in the time of this one
    taken_s = math.inf
    for _ in range(3):
        began = time.process_time()
        with pytest.raises(CheckpointError, match=message) as caught:
            open_checkpoint(path).load(dtype=torch.float32, device=CPU)
        taken_s = min(taken_s, time.process_time() - began)
        if not cpu_s or taken_s < cpu_s:  # a moment in which the machine is slow is no fault of the code
            break
    gc.unfreeze()
    if mb:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < mb << 20
    if cpu_s and not mb:  # looking at memory takes time
        assert taken_s < cpu_s
    assert "weights_only" not in str(caught.value) and "\n" not in str(caught.value)
    # fault and cause alike, for a log shows both
    assert "add_safe_globals" not in repr(caught.value.__cause__)
    return str(caught.value)


def with_weights(tmp_path, data):
    return tar_of(tmp_path / "x.nemo", members_of(TINY) | {WEIGHTS: data})


def with_config(tmp_path, text):
    return tar_of(tmp_path / "x.nemo", members_of(TINY) | {"model_config.yaml": text})


def model(tmp_path, *left_out, **files):
    """The tiny Hugging Face tmp_path, with other files in place of its own."""
    copy = tmp_path / "model"
    shutil.copytree(HF, copy)
    for path in copy.iterdir():
        path.chmod(0o644)
    for name in left_out:
        (copy / name).unlink()
    for name, content in files.items():
        (copy / name).write_bytes(content)
    return copy


def binary(tmp_path, content):
    """The tiny folder with its weights in a pytorch_model.bin of this content."""
    return model(tmp_path, "model.safetensors", **{"pytorch_model.bin": content})


def streamed(state):
    """A torch file as it was before torch 1.6."""
    out = io.BytesIO()
    torch.save(state, out, _use_new_zipfile_serialization=False)
    return out.getvalue()


def rezipped(data, change, method=zipfile.ZIP_STORED):
    """A torch file whose records went through change(name, content)."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist():
            content = change(name, source.read(name))
            target.writestr(zipfile.ZipInfo(name), content, compress_type=method)
    return out.getvalue()


def with_pickle(data, instructions):
    """A torch file of which the list of tensors is these instructions."""
    return rezipped(data, lambda name, content: instructions if name.endswith("data.pkl") else content)


class Calls:
    """What a pickle would run. how: the function that it names, and what it is given."""

    def __init__(self, function, *arguments):
        self.how = (function, arguments)

    def __reduce__(self):
        return self.how


PAYLOADS = {
    "exec": Calls(exec, f"open({MARKER!r}, 'w')"),
    "system": Calls(os.system, f"touch {MARKER}"),
    "nested": OrderedDict(weight=[{"a": (Calls(os.system, f"touch {MARKER}"),)}]),
    "popen": Calls(subprocess.Popen, ["touch", MARKER]),
    "torch.load": Calls(torch.load, MARKER),
    "rebuild": Calls(torch._utils._rebuild_tensor_v2, Calls(os.system, f"touch {MARKER}"), 0, (1,), (1,)),
    "attribute": Calls(getattr, Calls(__import__, "os"), "system"),
    "import": Calls(__import__, "antigravity"),
}
