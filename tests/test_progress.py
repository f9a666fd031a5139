import time

from jaxlora import terminal
from jaxlora.simulation.progress import ProgressLine
from jaxlora.simulation.training import Report


def test_line_says_which_training_it_is_and_what_is_left(monkeypatch, capsys):
    monkeypatch.setattr(terminal, "INTERVAL", 0.0)
    line = ProgressLine(2, always=True)
    line.begun = time.monotonic() - 10
    line.on_seed(5)
    line.watch("finetuning 2 of 3", Report(0, 1e-2, 1e-6, 0.0))
    line.watch("finetuning 2 of 3", Report(20, 1e-4, 1e-6, 1.0))
    words = capsys.readouterr().err.splitlines()[-1]
    assert words.startswith("seed 5 (1 of 2), finetuning 2 of 3: 20 iterations, gradient 1.0e-04")
    # Two decades took a second, so that two more are to come: 11 s for each of two seeds, less 10.
    assert words.endswith("about 12 s left")
    line.on_seed(6)
    line.watch("pretraining", Report(0, 1e-2, 1e-6, 0.0))
    # One and a half of two seeds, on average, in 10 s.
    assert capsys.readouterr().err.endswith("about 3 s left\n")
