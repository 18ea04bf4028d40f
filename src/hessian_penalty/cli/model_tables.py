"""A table in the terminal: a line a measure, a column a model, in as many pieces as the width wants."""

from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text


def print_models(measures: Sequence[str], models: Mapping[str, Sequence[Text]]) -> None:
    """Print values of models, a piece below the other where they do not fit side by side.

    Args:
        measures: names of the lines.
        models: name → value in each line.
    """
    console = Console()
    for piece in _pieces(measures, models, console.width):
        names = (Column(Text(name, overflow="fold"), justify="right") for name in piece)
        table = Table(Column("measure", no_wrap=True), *names)
        for index, measure in enumerate(measures):
            table.add_row(measure, *(models[name][index] for name in piece))
        console.print(table)


def _pieces(measures: Sequence[str], models: Mapping[str, Sequence[Text]], width: int) -> Iterator[list[str]]:
    """Names of the models that fit beside each other, at least one."""
    edges = 3  # of a column: a line and two blanks
    left = free = width - 1 - edges - max(len(name) for name in ("measure", *measures))
    piece: list[str] = []
    for name, values in models.items():
        needed = edges + max([len(name), *(value.cell_len for value in values)])
        if piece and needed > left:
            yield piece
            piece, left = [], free
        piece.append(name)
        left -= needed
    yield piece
