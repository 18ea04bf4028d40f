"""Runs side by side in one page."""

from collections.abc import Callable, Sequence
from pathlib import Path

from hessian_penalty.errors import UserError
from hessian_penalty.generators.loading import generator_config, load_generator
from hessian_penalty.metrics.measures import PARTS, Measures
from hessian_penalty.reports.entry import ModelEntry, ModelGroup, model_entry
from hessian_penalty.reports.page import write_report
from hessian_penalty.runs import RunFolder
from hessian_penalty.studies.evaluation import Evaluator

Progress = Callable[[float, float, str], None]  # (measures done, measures in all, the next one)


def describe(run: RunFolder) -> str:
    """One sentence on how the run was made, from its config.json."""
    penalty, provenance = run.config().get("penalty", {}), run.provenance()
    parts = []
    orojar = penalty.get("form") == "orojar"
    regulariser = "Orthogonal Jacobian Regularization" if orojar else "the Hessian Penalty"
    if penalty.get("adaptive"):
        parts.append(f"trained with {regulariser} at {penalty['adaptive']:.0%} of the main gradient")
    elif penalty.get("weight"):
        parts.append(f"trained with {regulariser}, weight {penalty['weight']:g}")
    elif (run.config().get("infogan") or {}).get("weight"):
        parts.append(f"trained as an InfoGAN that infers {run.config()['infogan']['latents']} latents")
    else:
        parts.append("trained without the penalty")
    if provenance.get("finetuned_from"):
        parts.append(f"starting from {provenance['finetuned_from']}")
    if provenance.get("rotated"):
        parts.append("then rotated onto the directions found in it")
    sentence = ", ".join(parts)
    return sentence[0].upper() + sentence[1:] + "."


def run_entry(run: RunFolder, evaluator: Evaluator, name: str, description: str | None = None) -> ModelEntry:
    """Measure a run and draw its pictures."""
    measures = evaluator(run)
    return model_entry(
        load_generator(run),
        name,
        description or describe(run),
        {**measures.record(), "kimg": run.trained_kimg()},
        seed=evaluator.protocol.seed,
        metrics=run.metrics() or None,
        settings=run.config(),
        missing={} if measures.frechet is not None else {"frechet": evaluator.why_no_data},
    )


def unique_names(paths: Sequence[Path]) -> list[str]:
    """Folder names, with as many parents as it takes to tell the runs apart.

    >>> unique_names([Path("a/vanilla"), Path("b/vanilla"), Path("b/rotated")])
    ['a/vanilla', 'b/vanilla', 'b/rotated']
    """
    depth = 1
    while True:
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names) or depth >= max(len(path.parts) for path in paths):
            return names
        depth += 1


def named_runs(runs: Sequence[RunFolder]) -> dict[str, RunFolder]:
    """Runs by short names that tell them apart.

    Raises:
        UserError: no run, or one given twice.
    """
    if not runs:
        raise UserError("Name at least one run.")
    paths = [run.path.resolve() for run in runs]
    if len(set(paths)) < len(paths):
        raise UserError("A run is named twice; name each once.")
    return dict(zip(unique_names(paths), runs, strict=True))


def measure_runs(
    runs: Sequence[RunFolder], evaluator: Evaluator, *, progress: Progress | None = None
) -> dict[str, Measures]:
    """Measure runs that stand side by side; by a name for each.

    Args:
        progress: called with (measures done, measures in all, what is next).

    Raises:
        UserError: no run, one given twice, or resolutions differ.
    """
    named = named_runs(runs)
    resolutions = {generator_config(run).resolution for run in runs}
    if len(resolutions) > 1:
        raise UserError(f"The runs have images of {sorted(resolutions)} pixels; take equal ones together.")
    found = {}
    total = len(runs) * len(PARTS)
    for index, (name, run) in enumerate(named.items()):

        def tell(part: str, share: float, name: str = name, done: int = index * len(PARTS)) -> None:
            if progress:
                progress(done + list(PARTS).index(part) + share, total, f"{name}: {part}")

        found[name] = evaluator(run, tell)
    if progress:
        progress(total, total, "")
    return found


def write_comparison(
    runs: Sequence[RunFolder],
    evaluator: Evaluator,
    out: Path,
    *,
    title: str = "What each latent learned",
    command: str | None = None,
    progress: Progress | None = None,
) -> list[ModelEntry]:
    """Measure the runs and write the page.

    Raises:
        UserError: no run, one given twice, or resolutions differ.
    """
    names = measure_runs(runs, evaluator, progress=progress)
    entries = [run_entry(run, evaluator, name) for run, name in zip(runs, names, strict=True)]
    write_report(out, title, [ModelGroup("Runs", entries)], command=command)
    return entries
