"""Fuzz one target, or each in turn: `python -m fuzz [SECONDS [TARGET]]`. Crashes are kept in fuzz/crashes."""

import subprocess
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["mt5"]):
    from fuzz import targets

HERE = Path(__file__).parent


def one(name: str, seconds: str) -> None:
    """Fuzz a target in this process, which atheris ends."""
    corpus, crashes = HERE / "corpus" / name, HERE / "crashes"
    corpus.mkdir(parents=True, exist_ok=True)
    (corpus / "seed").write_bytes(targets.seeds()[name])
    options = [f"-max_total_time={seconds}", f"-artifact_prefix={crashes}/{name}-", "-timeout=10"]
    options += ["-rss_limit_mb=3000", "-max_len=65536", "-print_final_stats=1", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], lambda data: targets.run(name, data))
    atheris.Fuzz()


def main() -> None:
    seconds = sys.argv[1] if len(sys.argv) > 1 else "60"
    if len(sys.argv) > 2:
        return one(sys.argv[2], seconds)
    failed = []
    for name in targets.TARGETS:
        print(f"Fuzzing {name} for {seconds} s …", flush=True)
        if subprocess.run(
            [sys.executable, "-m", "fuzz", seconds, name], cwd=HERE.parent, check=False
        ).returncode:
            failed.append(name)
    sys.exit(f"Crashes in fuzz/crashes: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
