"""Two processes never work in the same folder."""

import subprocess
import sys

import pytest

from hessian_penalty.errors import UserError
from hessian_penalty.folder_lock import exclusive

HOLD = """
import sys, time
from hessian_penalty.folder_lock import exclusive
with exclusive(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_another_process_is_refused_until_the_first_is_gone_even_killed(tmp_path):
    folder = tmp_path / "study"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None and first.stdout.readline() == "held\n"
        with (
            pytest.raises(UserError, match=r"Another process is at work in .*study.*wait for it, or stop it"),
            exclusive(folder),
        ):
            pass
        first.kill()
    with exclusive(folder):
        pass


def test_it_is_free_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), exclusive(tmp_path):
        raise ZeroDivisionError
    with exclusive(tmp_path), exclusive(tmp_path / "run"):
        pass
