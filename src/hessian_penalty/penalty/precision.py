"""Full float32 arithmetic: a second difference cannot survive low precision."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch


@contextmanager
def full_precision(device_type: str) -> Iterator[None]:
    r"""Switch autocast and reduced-precision float32 kernels (TF32, bfloat16) off, and back afterwards.

    A second difference divides a rounding error of $u \max|G|$ by $\epsilon^2$: at $\epsilon = 0.1$ bfloat16
    ($u = 2^{-8}$) leaves an error of 40% of $\max|G|$ in each, float32 one of $6 \cdot 10^{-6}$. Only forward passes
    need this: a backward pass that runs later, outside, is under the caller's settings.

    Args:
        device_type: the type of the device that G runs on, "cpu" or "cuda" for instance.

    >>> with torch.autocast("cpu", dtype=torch.bfloat16), full_precision("cpu"):
    ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
    torch.float32
    """
    coarse = torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"
    switches = [coarse, *(_attribute(owner, name, exact) for owner, name, exact in _fine_switches())]
    before = [_read(get) for get, _, _ in switches]
    try:
        for _, switch, exact in switches:
            switch(exact)
        with torch.autocast(device_type, enabled=False):
            yield
    finally:
        for (_, switch, _), value in zip(switches, before, strict=True):
            if value is not None:
                switch(value)


def is_full_precision(device_type: str) -> bool:
    """Tell whether a pass that runs now is as precise as inside `full_precision`.

    >>> with torch.autocast("cpu", dtype=torch.bfloat16):
    ...     is_full_precision("cpu")
    False
    """
    if torch.is_autocast_enabled(device_type) or _read(torch.get_float32_matmul_precision) != "highest":
        return False
    if device_type != "cpu":
        return all(_read(partial(getattr, *switch[:2])) in (switch[2], "none") for switch in _fine_switches())
    mkldnn: Any = torch.backends.mkldnn
    operators = (mkldnn.matmul, mkldnn.conv, mkldnn.rnn) if hasattr(mkldnn, "conv") else ()
    return all(operator.fp32_precision in ("ieee", "none") for operator in operators)


def _fine_switches() -> list[tuple[Any, str, Any]]:
    """Owner, name and exact value of each switch that is an attribute; they overrule the coarse one."""
    cudnn: Any = torch.backends.cudnn
    mkldnn: Any = torch.backends.mkldnn
    if not hasattr(cudnn, "conv"):  # torch before 2.9 has no switch for each operator
        return [(cudnn, "allow_tf32", False)]
    operators = (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv, mkldnn.rnn)
    return [(cudnn, "allow_tf32", False), *((operator, "fp32_precision", "ieee") for operator in operators)]


def _attribute(owner: Any, name: str, exact: Any) -> tuple[Callable[[], Any], Callable[[Any], None], Any]:
    return partial(getattr, owner, name), partial(setattr, owner, name), exact


def _read(get: Callable[[], Any]) -> Any:
    """Read a switch; None where torch refuses to, because the finer switches disagree."""
    try:
        return get()
    except RuntimeError:
        return None
