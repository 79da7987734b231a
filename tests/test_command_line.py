"""The command line, run as a person runs it."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mt5.__main__ import app

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "data" / "nemo_tiny_tp2.nemo"
PARIS = "La capitale de la France est <mask>."


def run(*arguments):
    """What a command prints, in this process: torch is loaded once for all tests."""
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_fill_names_paris():
    assert "La capitale de la France est Paris." in run("fill", PARIS)


def test_fill_as_json_has_the_cards_shape():
    record = json.loads(run("fill", PARIS, "--json", "--alternatives", "2"))
    assert record["completion"]["text"] == record["spans"][0]["text"] == "Paris"
    assert record["completion"]["tokens"][0][1] == "▁Paris"
    assert len(record["spans"][0]["tokens"][0]["alternatives"]) == 2
    assert record["settings"]["strategy"] == "greedy"


def test_fill_takes_the_names_of_nemos_script_and_prints_its_response():
    expected = json.loads((ROOT / "tests/data/nemo_tiny_expected.json").read_text(encoding="utf-8"))[
        "prompts"
    ][0]
    output = run(
        "fill", "--model_file", str(GOLDEN), "--prompt", expected["prompt"], "--tokens_to_generate", "16",
        "--tensor_model_parallel_size", "1", "--format", "nemo",
    )  # fmt: skip
    response, wanted = json.loads(output), expected["response"]
    assert response["masked_input"] == wanted["masked_input"]
    assert response["completion"]["text"] == wanted["completion"]["text"]
    for found, reference in zip(
        response["completion"]["tokens"], wanted["completion"]["tokens"], strict=True
    ):
        assert found[:2] == reference[:2]
        assert found[2] == pytest.approx(reference[2], abs=1e-4)


def test_beam_prints_as_many_results_as_asked_for():
    output = run("fill", PARIS, "--strategy", "beam", "--results", "3")
    assert output.count("La capitale de la France est") == 3


def test_score_prints_probability_and_rank():
    output = run("score", PARIS, "Berlin")
    assert "rank" in output and "perplexity" in output
    record = json.loads(run("score", PARIS, "Berlin", "--json"))
    assert record["spans"][0]["tokens"][0]["rank"] > 1 and record["perplexity"] > 1
    assert record["settings"] == {"answers": ["Berlin"]} and len(record["model"]["sha256"]) == 64


def test_sweep_has_a_line_for_every_word():
    assert len(run("sweep", "Paris est belle.").splitlines()) == 3
    record = json.loads(run("sweep", "Paris est belle.", "--json"))
    assert [word["word"] for word in record["words"]] == ["Paris", "est", "belle"] and record["version"]


def test_corrupt_prints_input_and_target():
    output = run("corrupt", "The small boat crossed the river before the storm.", "--seed", "3")
    assert output.startswith("input:") and "<extra_id_0>" in output.splitlines()[1]
    record = json.loads(run("corrupt", "The small boat crossed the river.", "--seed", "3", "--json"))
    assert record["settings"] == {"density": 0.15, "mean_span": 3.0, "seed": 3}
    assert record["target"][-1] == 1 and record["model"]["name"]


def test_languages_fills_one_example_in_each():
    records = json.loads(run("languages", "--json"))
    assert len(records) == 24 and all(record["spans"][0]["text"] for record in records)


def test_info_says_what_was_found():
    facts = json.loads(run("info", "--checkpoint", str(GOLDEN), "--json"))
    assert facts["format"] == "nemo" and facts["stored_tensor_parallel"] == 2
    assert facts["stored_dtype"] == "bfloat16" and facts["config"]["encoder"]["norm"] == "layer"
    assert "parameters: 11,539,712" in run("info") and facts["version"]


def test_batch_fills_a_file(tmp_path):
    source, out = tmp_path / "in.csv", tmp_path / "out.jsonl"
    source.write_text(f"prompt\n{PARIS}\nno mask\n", encoding="utf-8")
    assert "2 rows" in run("batch", str(source), str(out))
    first, second = (json.loads(line) for line in out.read_text(encoding="utf-8").splitlines())
    assert first["spans"] == ["Paris"] and "<mask>" in second["error"]


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "mt5", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, advice",
    [
        (("fill", "no mask here"), "<mask>"),
        (("fill", PARIS, "--checkpoint", "nowhere/at/all"), "no such file"),
        (("fill", PARIS, "--temperature", "0", "--strategy", "sample"), "temperature"),
        (("fill",), "one prompt"),
        (("batch", "missing.csv", "out.csv"), "cannot be read"),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_status_two(arguments, advice):
    result = command(*arguments)
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1 and advice in result.stderr
    assert result.stdout == ""


def test_help_needs_neither_torch_nor_gradio_and_answers_at_once():
    program = (
        "import runpy, sys; sys.argv = ['mt5', '--help']\ntry: runpy.run_module('mt5', run_name='__main__')\n"
    )
    program += "except SystemExit: pass\nassert not {'torch', 'gradio', 'numpy'} & set(sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=False).returncode
        == 0
    )
    # processor time, since a busy machine is no fault of the command's
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert command("--help").returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def test_convert_takes_the_format_from_the_name(tmp_path):
    for name, format_ in (("tiny.nemo", "nemo"), ("folder", "mt5-infilling")):
        run("convert", str(GOLDEN), str(tmp_path / name))
        facts = json.loads(run("info", "--checkpoint", str(tmp_path / name), "--json"))
        assert facts["format"] == format_
