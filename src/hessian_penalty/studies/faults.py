"""Where models go wrong: worse pictures, collapse, factors that are lost or mixed."""

from collections.abc import Mapping
from typing import Any

from hessian_penalty.reports.measures_table import MeasureRow, percent, value_of
from hessian_penalty.studies.study_table import Records

REFERENCE = "vanilla"
DEAD = 0.05  # of the largest activeness

FAULT_ROWS = (
    MeasureRow(
        "frechet_change",
        "Fréchet distance, change",
        "against the vanilla model of the same seed",
        "lower",
        percent,
    ),
    MeasureRow(
        "activeness_change",
        "Total activeness, change",
        "against the vanilla model of the same seed; near −100% where the model collapsed",
        None,
        percent,
    ),
    MeasureRow(
        "curvature_change",
        "Curvature, change",
        "all squared entries of the Hessians of the images, against the vanilla model of the same seed: far below, "
        "they bend less; far above, they jump along a latent",
        None,
        percent,
    ),
    MeasureRow(
        "dead_latents",
        "Dead latents",
        "less than 5% as active as the most active one: wanted, as long as no factor is lost",
        None,
        lambda value: f"{value:.1f}",
    ),
    MeasureRow(
        "lost_factors",
        "Lost factors",
        "that give no latent its name",
        "lower",
        lambda value: f"{value:.1f}",
    ),
    MeasureRow(
        "mixed_latents",
        "Mixed latents",
        "that carry several factors about equally",
        "lower",
        lambda value: f"{value:.1f}",
    ),
    MeasureRow(
        "position_confusion",
        "x–y confusion",
        "of the latents that carry a position: the coordinate that they tell less of, over the other; 0 to 1",
        "lower",
        lambda value: f"{value:.2f}",
    ),
)  # fmt: skip


def fault_records(found: Records) -> dict[str, dict[int, dict[str, float | None]]]:
    """What `FAULT_ROWS` shows, by model and seed; None where it is not known."""
    return {
        model: {seed: faults(record, found.get(REFERENCE, {}).get(seed)) for seed, record in records.items()}
        for model, records in found.items()
    }


def faults(record: Mapping[str, Any], reference: Mapping[str, Any] | None) -> dict[str, float | None]:
    """What goes wrong in one model.

    Args:
        record: its measures.
        reference: those of the vanilla model of the same seed.
    """
    activeness, audit = record["activeness"], record.get("audit")
    known: dict[str, float | None] = {
        "frechet_change": _change(record, reference, "frechet"),
        "activeness_change": _change(record, reference, "total_activeness"),
        "curvature_change": _change(record, reference, "curvature"),
        "dead_latents": float(sum(value <= DEAD * max(activeness) for value in activeness)),
    }
    if audit is None:
        return known
    carried = [set(name.split(" + ")) - {""} for name in audit["latent_names"]]
    return known | {
        "lost_factors": float(len(set(audit["factors"]) - set().union(*carried))),
        "mixed_latents": float(sum(len(names) > 1 for names in carried)),
        "position_confusion": _position_confusion(audit, carried),
    }


def _change(record: Mapping[str, Any], reference: Mapping[str, Any] | None, key: str) -> float | None:
    if reference is None or record is reference:
        return None
    value, base = value_of(record, key), value_of(reference, key)
    return None if value is None or not base else value / base - 1


def _position_confusion(audit: Mapping[str, Any], carried: list[set[str]]) -> float | None:
    """Mean over the latents that carry x or y of an object, of the lesser of their two informations over the larger."""
    column = {name: index for index, name in enumerate(audit["factors"])}
    ratios = []
    for x in column:
        y = x.replace("x", "y", 1)
        if x[0] != "x" or not (x == "x" or x[1:].isdecimal()) or y not in column:
            continue
        for row, names in zip(audit["mutual_information"], carried, strict=True):
            if names & {x, y}:
                both = row[column[x]], row[column[y]]
                ratios.append(min(both) / max(both))
    return sum(ratios) / len(ratios) if ratios else None
