"""The exception that tells a user what to change; the command line prints its text and nothing else."""


class UserError(ValueError):
    """A mistake in what the user gave: a file, a field or an argument.

    The message names it, says what was expected and what came, and how to mend it. The command line shows the
    message without a traceback and exits with status 2.
    """
