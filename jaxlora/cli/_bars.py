"""A bar of progress on stderr, where that is a terminal."""

from collections.abc import Callable

from tqdm import tqdm

from ..sweeps import Progress


def bar_of_points(quiet: bool, words: str | None = None) -> tqdm:
    """A bar that counts points, after `words`."""
    # None: where stderr is a terminal.
    hidden = True if quiet else None
    return tqdm(desc=words, unit=" points", disable=hidden, dynamic_ncols=True)


def watch_by(bar: tqdm) -> Callable[[Progress], None]:
    """What tells the bar of the progress of a sweep."""

    def watch(progress: Progress) -> None:
        # What was loaded took no time, and is left out of the rate.
        bar.total, bar.initial, bar.n = progress.total, progress.loaded, progress.done
        bar.refresh()

    return watch
