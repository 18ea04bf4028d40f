import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial

import pytest

from hessian_penalty.errors import UserError
from hessian_penalty.runs import require_new
from hessian_penalty.studies.task_pool import Task, run_tasks


@pytest.mark.slow
def test_tasks_wait_for_what_they_need_and_failures_stop_only_those_that_wait(tmp_path):
    a, b, c, d = (tmp_path / name for name in "abcd")
    ticks = []
    tasks = [
        Task("a", partial(a.write_text, "done")),
        Task("bad", partial(require_new, tmp_path)),
        Task("b", partial(shutil.copyfile, a, b), ("a",)),
        Task("after bad", partial(c.write_text, ""), ("a", "bad")),
        Task("after that", partial(c.write_text, ""), ("after bad",)),
        Task("d", partial(d.write_text, "done")),
    ]
    failed = run_tasks(tasks, workers=2, watch=ticks.append)
    assert list(failed) == ["bad"] and f"{tmp_path} exists already" in str(failed["bad"])
    assert b.read_text() == d.read_text() == "done" and not c.exists()
    assert len(ticks) >= 2 and ticks == sorted(ticks) and ticks[-1] == 3


@pytest.mark.slow
def test_a_worker_that_dies_is_an_error_that_says_what_to_do():
    with pytest.raises(UserError, match="worker process died.*fewer --workers"):
        run_tasks([Task("a", partial(os._exit, 9))], workers=1)


def test_nothing_to_do():
    assert run_tasks([]) == {}


SCRIPT = """
    import sys, time
    from functools import partial
    from pathlib import Path
    from hessian_penalty.studies.task_pool import Task, run_tasks

    def work(folder):
        (Path(folder) / "begun").touch()
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            (Path(folder) / "saved").touch()
            raise

    if __name__ == "__main__":
        run_tasks([Task("a", partial(work, sys.argv[1]))])
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "the parent is killed"])
def test_running_tasks_save_when_the_parent_stops(tmp_path, how):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path)], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "begun").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.2)
    parent.send_signal(how)
    _, errors = parent.communicate(timeout=120)
    while not (tmp_path / "saved").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (tmp_path / "saved").exists(), errors
    assert parent.returncode != 0
    if how == signal.SIGINT:
        assert errors.strip().endswith("KeyboardInterrupt"), errors
