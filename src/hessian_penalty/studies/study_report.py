"""What a study leaves behind: table.md, results.json, report.html."""

import os
import platform
from typing import Any

import torch

from hessian_penalty.reports.entry import ModelGroup
from hessian_penalty.reports.markup import Html, tag
from hessian_penalty.reports.page import write_report
from hessian_penalty.runs import atomic_path, write_json
from hessian_penalty.studies.arm_making import divergence_of, seconds_of
from hessian_penalty.studies.arms import with_starts
from hessian_penalty.studies.comparison import run_entry
from hessian_penalty.studies.faults import FAULT_ROWS, fault_records
from hessian_penalty.studies.study import Study
from hessian_penalty.studies.study_table import StudyTable

FAULTS = "What goes wrong"


def facts(study: Study) -> dict[str, Any]:
    """What the table's figures were made with: lengths, protocol, data, machine, time, and what diverged."""
    models = [
        (arm, seed, study.run_of(arm.name, seed)) for seed in study.seeds for arm in with_starts(study.config.arms)
    ]
    return {
        "preset": study.preset,
        "seeds": study.config.seeds,
        "total_kimg": study.config.total_kimg,
        "finetune_kimg": study.config.finetune_kimg,
        "data_sha256": study.dataset.sha256,
        "protocol": study.config.protocol.record(),
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__},
        "making_seconds": {f"seed-{seed}/{arm.name}": round(seconds_of(run), 1) for arm, seed, run in models},
        "diverged": {f"seed-{seed}/{arm.name}": why for arm, seed, run in models if (why := divergence_of(run))},
    }


def write_results(study: Study, command: str | None = None) -> tuple[StudyTable, StudyTable]:
    """Write all three from what was measured.

    Returns:
        The table of measures, and that of what went wrong.
    """
    records = {model: {seed: m.record() for seed, m in seeds.items()} for model, seeds in study.measures().items()}
    table, faults = StudyTable(records), StudyTable(fault_records(records), FAULT_ROWS)
    known = facts(study)
    results = {"summary": table.record(), "faults": faults.record(), "measures": records}
    write_json(study.out / "results.json", {**known, **results})
    caption = describe(known)
    with atomic_path(study.out / "table.md") as temporary:
        temporary.write_text(f"{table.markdown()}\n{caption}\n\n{FAULTS}:\n\n{faults.markdown()}")
    evaluator = study.evaluator
    first = study.seeds[0]
    entries = [
        run_entry(study.run_of(arm.name, first), evaluator, arm.name, arm.description)
        for arm in study.compared
        if study.is_there(arm, first)
    ]
    if entries:
        summary = tag(
            "section", tag("h2", f"All of {_seeds(study.config.seeds)}"), table.html(caption), tag("h3", FAULTS),
            faults.html("Mean ± standard deviation over the same seeds."), class_="group",
        )  # fmt: skip
        write_report(
            study.out / "report.html", f"{study.preset}: every method, measured", [ModelGroup("Seed 0", entries)],
            summary=Html(summary), command=command,
        )  # fmt: skip
    return table, faults


def describe(known: dict[str, Any]) -> str:
    """The small print of the table."""
    machine = known["machine"]
    hours = sum(known["making_seconds"].values()) / 3600
    text = (
        f"Mean ± standard deviation over {_seeds(known['seeds'])}; every model saw {known['total_kimg']:g} kimg, the "
        f"last {known['finetune_kimg']:g} of them after the common start where it is trained on. ↓ lower is better, "
        f"↑ higher; bold: best mean. Making the models took {hours:.1f} hours of a process on {machine['cores']} cores "
        f"({machine['processor']}, PyTorch {machine['torch']})."
    )
    lines = [f" Diverged: {name} ({why})" for name, why in known["diverged"].items()]
    return text + "".join(lines)


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds"
