import pytest

from hessian_penalty.cli.protocol_options import split_protocol
from hessian_penalty.errors import UserError
from hessian_penalty.metrics.protocol import PROTOCOLS


def test_the_name_is_taken_out_and_the_rest_stays_in_order():
    words = ["a", "--protocol", "published", "b", "--protocol.seed", "1", "--data=x"]
    assert split_protocol(words) == (PROTOCOLS["published"], ["a", "b", "--protocol.seed", "1", "--data=x"])
    assert split_protocol(["a"]) == (PROTOCOLS["quick"], ["a"])


@pytest.mark.parametrize("words", [["--protocol", "slow"], ["--protocol"], ["--protocol", "--out", "x"]])
def test_unknown_names_are_refused(words):
    with pytest.raises(UserError, match="--protocol must be quick or published, got"):
        split_protocol(words)
