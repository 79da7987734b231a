"""The page: `python app.py`, or Hugging Face Spaces."""

import argparse
import os
import sys

# before gradio is imported: it looks for its maker's server otherwise
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", "1000000")
os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "200")

import mt5
from mt5.web.page import EMBEDDED, build_page, serving


def arguments() -> argparse.Namespace:
    """Options of the command line; the environment gives their defaults."""
    given = os.environ.get
    dtypes = ["auto", "float32", "bfloat16", "float16"]
    port = given("PORT") or given("GRADIO_SERVER_PORT") or "7860"
    parser = argparse.ArgumentParser(description="Fill the masks of a sentence with mT5, in a browser.")
    add = parser.add_argument
    add(
        "--checkpoint",
        default=given("MT5_CHECKPOINT") or str(EMBEDDED),
        help=".nemo archive, folder or hub id",
    )
    add("--dtype", default=given("MT5_DTYPE") or "auto", choices=dtypes, help="of the weights in memory")
    add("--tensor-parallel", type=int, default=given("MT5_TENSOR_PARALLEL") or "1", help="sharing processes")
    add("--port", type=int, default=port, help="to listen on")
    options = parser.parse_args()
    if not 0 < options.port < 65536:
        parser.error(f"port {options.port}: expected 1 to 65535")
    return options


def main() -> None:
    options = arguments()
    host = "0.0.0.0" if os.environ.get("SPACE_ID") else "127.0.0.1"
    try:
        engine = mt5.open(options.checkpoint, tensor_parallel=options.tensor_parallel, dtype=options.dtype)
    except mt5.CheckpointError as fault:
        print(f"Error: {fault}", file=sys.stderr)
        sys.exit(2)
    with engine:
        page = build_page(engine)
        try:
            _, url, _ = page.launch(server_name=host, server_port=options.port, **serving())
        except OSError:
            print(
                f"Error: port {options.port} cannot be used, perhaps it is taken; try another",
                file=sys.stderr,
            )
            sys.exit(2)
        print(f"The page is at {url}", flush=True)
        page.block_thread()


if __name__ == "__main__":
    main()
