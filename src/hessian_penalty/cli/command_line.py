"""The command as it was given, for what is written to say how it was made."""

import shlex
import sys


def command_line() -> str:
    """Return the whole command, quoted so that a shell takes it again."""
    return shlex.join(["hessian-penalty", *sys.argv[1:]])
