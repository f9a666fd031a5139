"""What the process says when it ends."""

OK, BAD_INPUT, NOT_SOLVED, NOT_WRITTEN = 0, 2, 3, 4
