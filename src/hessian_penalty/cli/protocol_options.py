"""`--protocol NAME`, whose fields are flags too: the protocol to begin with, read before the flags are."""

import argparse
from collections.abc import Sequence

from hessian_penalty.errors import UserError
from hessian_penalty.metrics.protocol import PROTOCOLS, MeasureProtocol


def split_protocol(arguments: Sequence[str]) -> tuple[MeasureProtocol, list[str]]:
    """The named protocol, "quick" by default, and the other arguments.

    >>> split_protocol(["run", "--protocol", "quick", "--protocol.seed", "1"])[1]
    ['run', '--protocol.seed', '1']

    Raises:
        UserError: there is no such protocol.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--protocol", nargs="?", default="quick", const="")
    known, rest = parser.parse_known_args(list(arguments))
    if known.protocol not in PROTOCOLS:
        raise UserError(f"--protocol must be {' or '.join(PROTOCOLS)}, got {known.protocol!r}.")
    return PROTOCOLS[known.protocol], rest
