"""`jaxlora plot` and `jaxlora info`: what is in the file of a sweep."""

import argparse
import json
import os
import sys

from ._exit_codes import BAD_INPUT, NOT_WRITTEN, OK

FORMATS = (".png", ".pdf", ".svg")


def add_commands(commands) -> None:
    """Add `plot` and `info` to the commands."""
    plot = commands.add_parser(
        "plot",
        help="draw a sweep",
        description="Curves along one axis for the values of another, or a heat map over two.",
    )
    plot.set_defaults(run=run_plot)
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
    info.set_defaults(run=run_info)
    info.add_argument("file", help="of a sweep, netCDF")
    info.add_argument("--format", choices=("table", "json"), default="table")


def run_plot(parsed: argparse.Namespace) -> int:
    """Draw and write; returns the exit code."""
    from ..sweeps.pictures import save_sweep

    out = parsed.out or f"{parsed.file.removesuffix('.nc')}.png"
    try:
        if not out.endswith(FORMATS):
            raise ValueError(f"out = {out!r}: must end in one of {', '.join(FORMATS)}")
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
    except ValueError as error:
        print(f"jaxlora plot: error: {error}", file=sys.stderr)
        return BAD_INPUT
    except OSError as error:
        print(f"jaxlora plot: not written: {out}: {error.strerror}", file=sys.stderr)
        return NOT_WRITTEN
    print(out)
    return OK


def run_info(parsed: argparse.Namespace) -> int:
    """Print what is in the file; returns the exit code."""
    from ..sweeps.description import describe, to_words

    try:
        with _open(parsed.file) as dataset:
            said = describe(dataset)
    except ValueError as error:
        print(f"jaxlora info: error: {error}", file=sys.stderr)
        return BAD_INPUT
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
