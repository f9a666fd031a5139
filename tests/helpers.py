"""Tools that several test modules share."""

import jax
import numpy as np

from jaxlora.cli import main


def central_difference(function, arguments, direction, step=1e-3):
    """Derivative of `function(*arguments)` along `direction`, from the five-point rule.

    Its truncation error is step⁴/30 times the fifth derivative.
    """

    def at(t):
        moved = jax.tree.map(lambda x, d: x + t * d, arguments, direction)
        return np.asarray(function(*moved))

    near, far = at(step) - at(-step), at(2 * step) - at(-2 * step)
    return (8 * near - far) / (12 * step)


def second_difference(function, x, step=2e-3):
    """Second derivative of `function` of a scalar, from the five-point rule."""
    middle, near, far = (
        np.asarray(function(x + t)) + np.asarray(function(x - t)) for t in (0.0, step, 2 * step)
    )
    return (16 * near - far - 15 * middle) / (12 * step**2)


def assert_refused(arguments, words, capsys):
    """The command line refuses its arguments in one line with these words, and exit code 2."""
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = stop.code
    output = capsys.readouterr()
    assert code == 2
    assert output.out == ""
    assert words in output.err
    assert output.err.count("\n") == 1
