"""Runs side by side in one page."""

from collections.abc import Callable, Sequence
from pathlib import Path

from hessian_penalty.errors import UserError
from hessian_penalty.generators.loading import generator_config, load_generator
from hessian_penalty.reports.entry import ModelEntry, ModelGroup, model_entry
from hessian_penalty.reports.page import write_report
from hessian_penalty.runs import RunFolder, read_json
from hessian_penalty.studies.evaluation import Evaluator

Progress = Callable[[int, int], None]  # (runs done, runs in all)


def trained_kimg(run: RunFolder) -> float:
    """Thousands of images that the newest checkpoint has seen, those before a fine-tuning included."""
    state = read_json(run.latest_checkpoint() / "state.json")
    provenance = read_json(run.config_path).get("provenance", {})
    return float(state["kimg"]) + float(provenance.get("finetuned_from_kimg") or 0.0)


def describe(run: RunFolder) -> str:
    """One sentence on how the run was made, from its config.json."""
    record = read_json(run.config_path)
    penalty, provenance = record.get("penalty", {}), record.get("provenance", {})
    parts = []
    if penalty.get("adaptive"):
        parts.append(f"trained with the Hessian Penalty at {penalty['adaptive']:.0%} of the main gradient")
    elif penalty.get("weight"):
        parts.append(f"trained with the Hessian Penalty, weight {penalty['weight']:g}")
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
        {**measures.record(), "kimg": trained_kimg(run)},
        seed=evaluator.protocol.seed,
        metrics=run.metrics() or None,
        settings=read_json(run.config_path),
        missing={} if measures.frechet is not None else {"frechet": "no data set given"},
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
    if not runs:
        raise UserError("Name at least one run to report.")
    paths = [run.path.resolve() for run in runs]
    if len(set(paths)) < len(paths):
        raise UserError("A run is named twice; name each once.")
    resolutions = {generator_config(run).resolution for run in runs}
    if len(resolutions) > 1:
        raise UserError(f"The runs have images of {sorted(resolutions)} pixels; report equal ones together.")
    entries = []
    for index, (run, name) in enumerate(zip(runs, unique_names(paths), strict=True)):
        if progress:
            progress(index, len(runs))
        entries.append(run_entry(run, evaluator, name))
    if progress:
        progress(len(runs), len(runs))
    write_report(out, title, [ModelGroup("Runs", entries)], command=command)
    return entries
