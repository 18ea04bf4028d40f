"""Data-parallel training: the loss and its gradient do not depend on the number of processes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hessian_penalty.penalty import HessianPenalty, hessian_penalty
from hessian_penalty.penalty.evaluation import Evaluator

F64 = torch.float64
WORLD = 2


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


Z, PROBES = randn(8, 4), randn(2, 8, 4, seed=1).sign()


def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3), nn.Tanh()).double()


class FabricLike(nn.Module):
    """Wraps as Lightning Fabric does: its forward pass runs in lower precision."""

    def __init__(self, module):
        super().__init__()
        self._forward_module = module

    def forward(self, z):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self._forward_module(z).to(z.dtype)


def share(tensor, rank, dim=0):
    return tensor.chunk(WORLD, dim=dim)[rank]


def work(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    found = {}
    for name, options in {
        "max": {},
        "dense": {"gradient": "dense"},
        "mean": {"reduction": "mean"},
        "layers": {"layers": ["1", "3"]},
        "compiled": {},
        "fabric": {},
    }.items():
        G = make()
        parallel = DistributedDataParallel(G)
        if name == "compiled":
            parallel = torch.compile(parallel, backend="eager")
        if name == "fabric":
            parallel = FabricLike(parallel)
        z = share(Z, rank)
        main_loss = parallel(z).square().mean()
        penalty = hessian_penalty(parallel, z, probes=share(PROBES, rank, dim=1), **options)
        (main_loss + penalty).backward()
        found[name] = penalty.detach(), [parameter.grad.clone() for parameter in G.parameters()]
    G = make()
    parallel = DistributedDataParallel(G)
    adaptive = HessianPenalty(parallel, adaptive=0.1)
    z = share(Z, rank)
    rng = torch.Generator().manual_seed(rank)
    for _ in range(3):
        images = adaptive.generate(z)
        main_loss = images.square().mean()
        loss = main_loss + adaptive(z, main_loss=main_loss, rng=rng)
        G.zero_grad()
        loss.backward()
    found["weight"] = adaptive.last_weight
    found["synchronises"] = [Evaluator(parallel).synchronises]
    G[1].register_module("unused", nn.SyncBatchNorm(3))  # the wrapper itself takes it on a GPU only, nor runs it here
    found["synchronises"].append(Evaluator(parallel).synchronises)
    passes = []
    G.register_forward_pre_hook(lambda module, inputs: passes.append((len(inputs[0]), torch.is_grad_enabled())))
    hessian_penalty(parallel, z)
    found["rows with a graph"] = [rows for rows, graph in passes if graph]
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    processes = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(folder)], stderr=subprocess.PIPE, text=True)
        for rank in range(WORLD)
    ]
    try:
        errors = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * WORLD, errors
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("max", {}),
        ("dense", {"gradient": "dense"}),
        ("mean", {"reduction": "mean"}),
        ("layers", {"layers": ["1", "3"]}),
        ("compiled", {}),
        ("fabric", {}),
    ],
)
def test_two_processes_agree_with_one(found, name, options):
    G = make()
    penalty = hessian_penalty(G, Z, probes=PROBES, **options)
    (G(Z).square().mean() + penalty).backward()
    values = [of_process[name][0] for of_process in found]
    if name == "mean":  # each process has the mean of its own samples
        torch.testing.assert_close(sum(values) / WORLD, penalty.detach())
    else:
        torch.testing.assert_close(values, [penalty.detach()] * WORLD)
    for of_process in found:
        torch.testing.assert_close(of_process[name][1], [parameter.grad for parameter in G.parameters()])


@pytest.mark.slow
def test_batch_statistics_over_all_processes_need_as_many_passes_in_each(found):
    assert [of_process["synchronises"] for of_process in found] == [[False, True]] * WORLD
    assert [of_process["rows with a graph"] for of_process in found] == [[len(Z) // WORLD] * 4] * WORLD  # dense: 2k


@pytest.mark.slow
def test_adaptive_weight_is_the_same_in_every_process(found):
    assert found[0]["weight"] == found[1]["weight"] > 0


if __name__ == "__main__":  # one of the processes
    work(int(sys.argv[1]), Path(sys.argv[2]))
