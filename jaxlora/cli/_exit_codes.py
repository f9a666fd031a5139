"""What the process says when it ends."""

OK, BAD_INPUT, NOT_SOLVED, INTERRUPTED = 0, 2, 3, 130
