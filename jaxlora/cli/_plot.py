"""`jaxlora plot` and `jaxlora info`: what is in the file of a sweep."""

import argparse
import json
import os
from typing import Any

from ._arguments import check_picture
from ._exit_codes import OK
from ._failures import NotWrittenError


def add_commands(commands) -> None:
    """Add `plot` and `info` to the commands."""
    plot = commands.add_parser(
        "plot",
        help="draw a sweep",
        description="Curves along one axis for the values of another, or a heat map over two.",
    )
    plot.set_defaults(work=draw, show=show_path)
    plot.add_argument("file", help="of a sweep, netCDF")
    plot.add_argument("--variable", metavar="NAME", help="what to draw; default: test_error_ft, E'")
    plot.add_argument("--x", metavar="AXIS", help="along which; default: the longest")
    plot.add_argument("--by", metavar="AXIS", help="a curve for each of its values")
    plot.add_argument(
        "--at", nargs="+", default=[], metavar="AXIS=VALUE", help="hold axes at their nearest value"
    )
    plot.add_argument("--heat", action="store_true", help="a heat map over --x and --by")
    plot.add_argument("--out", metavar="FILE", help="png, pdf or svg; default: beside the sweep")
    info = commands.add_parser("info", help="say what is in a sweep")
    info.set_defaults(work=read, show=show_info)
    info.add_argument("file", help="of a sweep, netCDF")
    info.add_argument("--format", choices=("table", "json"), default="table")


def draw(parsed: argparse.Namespace) -> str:
    """Draw and write; returns the file."""
    from ..sweeps.pictures import save_sweep

    out = parsed.out or f"{parsed.file.removesuffix('.nc')}.png"
    check_picture("out", out)
    try:
        with _open(parsed.file) as dataset:
            save_sweep(
                out,
                dataset,
                parsed.variable,
                x=parsed.x,
                by=parsed.by,
                at=dict(_pair(words) for words in parsed.at),
                heat=parsed.heat,
            )
    except OSError as error:
        raise NotWrittenError(f"{out}: {error.strerror}") from error
    return out


def show_path(parsed: argparse.Namespace, out: str) -> int:
    """Print where the picture is; returns the exit code."""
    print(out)
    return OK


def read(parsed: argparse.Namespace) -> dict[str, Any]:
    """What is in the file."""
    from ..sweeps.description import describe

    with _open(parsed.file) as dataset:
        return describe(dataset)


def show_info(parsed: argparse.Namespace, said: dict[str, Any]) -> int:
    """Print what is in the file; returns the exit code."""
    from ..sweeps.description import to_words

    print(json.dumps(said, indent=1) if parsed.format == "json" else to_words(parsed.file, said))
    return OK


def _open(path: str):
    """The dataset of a file; raises ValueError where there is none."""
    import xarray

    if not os.path.isfile(path):
        raise ValueError(f"{path}: no such file")
    try:
        dataset = xarray.open_dataset(path, engine="h5netcdf")
    except OSError as error:
        raise ValueError(f"{path}: not netCDF, or cut off") from error
    if "configuration" not in dataset.attrs:
        dataset.close()
        raise ValueError(f"{path}: not the file of a sweep")
    return dataset


def _pair(words: str) -> tuple[str, str]:
    name, equals, value = words.partition("=")
    if not equals:
        raise ValueError(f"at {words!r}: must be AXIS=VALUE")
    return name, value
