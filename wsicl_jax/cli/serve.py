"""The verb serve."""

import argparse
import importlib.util
from pathlib import Path

from wsicl_jax.cli.values import Verb, above_0, add_reading, at_least
from wsicl_jax.errors import MissingExtraError


def _serve(options: argparse.Namespace) -> int:
    from wsicl_jax.config import ServeConfig, validated
    from wsicl_jax.model.ops.compilation import keep_compiled_programs

    check_installed()
    from wsicl_jax.serve.run import serve

    names = ("port", "max_upload_mb", "max_uploads", "cache_gb")
    settings = {name: getattr(options, name) for name in names}
    config = validated(ServeConfig, {n: v for n, v in settings.items() if v is not None})
    keep_compiled_programs()
    reading = {
        "assume_orientation": options.assume_orientation,
        "max_memory_gb": options.max_memory,
    }
    serve(
        Path(options.folder),
        options.network,
        config,
        host=options.host,
        browser=options.browser,
        reading=reading,
    )
    return 0


def check_installed() -> None:
    """Raises `MissingExtraError` if a package of the service is missing."""
    for package in ("starlette", "uvicorn"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(
                f"{package}, which the service needs, is not installed: pip install "
                "'wsicl_jax[serve]'"
            )


def add_serve(verb: Verb) -> None:
    serve = verb(
        "serve",
        _serve,
        "open a page in the browser: mark structures on a few images, segment the others",
        "wsicl serve images/",
    )
    serve.add_argument(
        "folder",
        nargs="?",
        default=".",
        metavar="FOLDER",
        help="folder of images (default: the current one)",
    )
    serve.add_argument(
        "--network",
        default="small",
        metavar="NETWORK",
        help="a run, a checkpoint, a file of weights, or small (default: small)",
    )
    serve.add_argument(
        "--port",
        type=at_least(0),
        metavar="N",
        help="port to listen on; 0: any that is free (default: 8000)",
    )
    serve.add_argument(
        "--host",
        metavar="ADDRESS",
        help="listen on this address, for other machines, and require a token, which is printed "
        "(default: this machine only, without a token)",
    )
    serve.add_argument(
        "--no-browser", dest="browser", action="store_false", help="do not open the browser"
    )
    serve.add_argument(
        "--max-upload-mb",
        type=above_0,
        metavar="MB",
        help="largest file that the page may add to the folder (default: 1000)",
    )
    serve.add_argument(
        "--max-uploads",
        type=at_least(0),
        metavar="N",
        help="most files that the page may add; 0: none (default: 1000)",
    )
    serve.add_argument(
        "--cache-gb",
        type=above_0,
        metavar="GB",
        help="memory for images that are kept between requests (default: 2)",
    )
    add_reading(serve, "memory limit; larger images are refused")
