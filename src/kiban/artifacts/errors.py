"""The one exception that people are meant to read."""


class KibanError(ValueError):
    """Something a person can mend. The message is one line: what was wrong, where, and what to do.

    The command line prints it without a traceback and exits with 2. Broken invariants of our own are `assert`s instead.
    """
