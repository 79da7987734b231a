"""The page: `python app.py`, or Hugging Face Spaces."""

import argparse
import os
import signal
import sys
from contextlib import closing
from functools import partial
from pathlib import Path

import mt5
from mt5.web.models import Models, allowed
from mt5.web.patches import import_gradio

EMBEDDED = Path(__file__).resolve().parent / "assets" / "model"
DTYPES = ["auto", "float32", "bfloat16", "float16", "int8"]
QUIET = {"ANALYTICS_ENABLED": "False", "ANALYTICS_CACHE_FREQUENCY": "1000000", "ANALYTICS_MAX_EVENTS": "200"}


def arguments() -> argparse.Namespace:
    """Options of the command line; the environment gives their defaults."""
    given = os.environ.get
    checkpoint = given("MT5_CHECKPOINT") or str(EMBEDDED)
    port = given("PORT") or given("GRADIO_SERVER_PORT") or "7860"
    parser = argparse.ArgumentParser(description="Fill the masks of a sentence with mT5, in a browser.")
    add = parser.add_argument
    add("--checkpoint", default=checkpoint, help=".nemo archive, folder or hub id")
    add("--dtype", default=given("MT5_DTYPE") or "auto", choices=DTYPES, help="of the weights in memory")
    add("--tensor-parallel", type=int, default=given("MT5_TENSOR_PARALLEL") or "1", help="sharing processes")
    add("--port", type=int, default=port, help="to listen on")
    options = parser.parse_args()
    return options if 0 < options.port < 65536 else parser.error(f"port {options.port}: expected 1 to 65535")


def main() -> None:
    options, choices = arguments(), allowed(os.environ.get("MT5_MODELS", ""))
    # before gradio is imported: it looks for its maker's server otherwise
    os.environ |= {f"GRADIO_{name}": value for name, value in QUIET.items()}
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # torch's threads wait asleep
    if all(Path(path).exists() for path in (options.checkpoint, *choices.values())):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is left to be downloaded
    host = "0.0.0.0" if os.environ.get("SPACE_ID") else "127.0.0.1"
    opener = partial(mt5.open, tensor_parallel=options.tensor_parallel, dtype=options.dtype)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with closing(Models(opener(options.checkpoint), choices, opener)) as models:
            import_gradio()
            from mt5.web.page import build_page, serving

            page = build_page(models)
            with closing(page):
                try:
                    _, url, _ = page.launch(server_name=host, server_port=options.port, **serving(models))
                except OSError:  # gradio has tried to listen
                    sys.exit(failed(f"port {options.port} cannot be used, perhaps it is taken; try another"))
                print(f"The page is at {url}", flush=True)
                page.block_thread()
    except (mt5.CheckpointError, mt5.RankError) as fault:
        sys.exit(failed(fault))


def failed(why: object) -> int:
    """Say why in a line; returns the status to end with."""
    print(f"Error: {why}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
