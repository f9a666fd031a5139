"""What the process says when it ends."""

OK, BAD_INPUT, NOT_SOLVED = 0, 2, 3
