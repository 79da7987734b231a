"""The command line on files that are broken or meant to harm (row N11 of the table of faults)."""

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hostile import HF, PAYLOADS, ROOT, STAND_INS, binary, model, streamed, with_config, with_weights
from nemo_writer import saved

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("nothing_runs")]
PARIS = "La capitale de la France est <mask>."


def links(folder: Path) -> Path:
    with tarfile.open(folder / "x.nemo", "w") as tar:
        info = tarfile.TarInfo("./model_config.yaml")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    return folder / "x.nemo"


def cut(folder: Path) -> Path:
    path = model(folder)
    os.truncate(path / "model.safetensors", 100_000)
    return path


def sizes(folder: Path) -> Path:
    settings = json.loads((HF / "config.json").read_text()) | {"num_layers": 10**6}
    return model(folder, **{"config.json": json.dumps(settings).encode()})


def stand_in(name: str, content: str) -> Callable[[Path], Path]:
    return lambda folder: model(folder, **{name: STAND_INS[content]})


CHECKPOINTS: dict[str, Callable[[Path], Path]] = {
    "F1": lambda folder: binary(folder, saved({"weight": PAYLOADS["system"]})),
    "F2": lambda folder: binary(folder, streamed({"weight": PAYLOADS["exec"]})),
    "F3": lambda folder: binary(folder, streamed({"weight": torch.zeros(1000)})[:-4]),
    "F4": lambda folder: with_weights(
        folder, saved({"w": torch.zeros(1).as_strided((2**20, 2**20), (0, 0))})
    ),
    "F6": links,
    "F11": lambda folder: with_config(folder, b"a: !!python/object/apply:os.system ['touch marker']\n"),
    "F12": lambda folder: with_config(folder, b"hidden_size: ${oc.env:HOME}\n"),
    "F13": sizes,
    "F14": cut,
    "F16": stand_in("spiece.model", "empty"),
    "F17": stand_in("model.safetensors", "pointer"),
}
FILES = {
    "F22 no text": b"prompt\na\nb\xff\n",
    "F22 long line": b"prompt\na\n" + b"x" * (1 << 20),
    "F22 rows": b"prompt\n" + b"a <mask>\n" * 10_001,
}
# torch is imported once; every command runs in a child of its own
PROGRAM = """
import json, os, sys
import torch, mt5.checkpoint, mt5.engine, mt5.__main__
for number, arguments in enumerate(json.load(sys.stdin)):
    child = os.fork()
    if not child:
        out = os.open(f"{number}.out", os.O_CREAT | os.O_WRONLY)
        os.dup2(out, 1), os.dup2(out, 2)
        sys.argv = ["mt5", *arguments]
        status = 1
        try:
            mt5.__main__.main()
        except SystemExit as end:
            status = end.code
        except BaseException:
            import traceback
            traceback.print_exc()
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_n11_a_file_of_any_row_is_one_line_and_status_two(tmp_path: Path) -> None:
    commands, names = [], [*CHECKPOINTS, *FILES]
    for number, make in enumerate(CHECKPOINTS.values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        commands.append(["fill", PARIS, "--checkpoint", str(make(folder))])
    for number, data in enumerate(FILES.values()):
        (tmp_path / f"{number}.csv").write_bytes(data)
        commands.append(["batch", str(tmp_path / f"{number}.csv"), str(tmp_path / "out.csv")])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
    )
    said = {name: (tmp_path / f"{number}.out").read_text() for number, name in enumerate(names)}
    assert dict(zip(names, done.stdout.split(), strict=True)) == dict.fromkeys(names, "2"), said
    assert all(text.startswith("Error: ") and text.count("\n") == 1 for text in said.values()), said
    assert not (tmp_path / "out.csv").exists()
