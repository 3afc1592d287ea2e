"""Tables on the terminal: for people, as JSON or as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from typing import Any

import typer
from rich.console import Console
from rich.table import Table as RichTable

from driftwheel.api import Table, plain


def show(table: Table, *, as_json: bool = False, as_csv: bool = False) -> None:
    """Print a table: JSON is a list of objects, CSV has a header."""
    rows = plain(table.rows)
    if as_json:
        typer.echo(json.dumps([dict(zip(table.columns, row, strict=True)) for row in rows], indent=2))
    elif as_csv:
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(table.columns)
        writer.writerows(rows)
        typer.echo(out.getvalue(), nl=False)
    else:
        _print_table(table.columns, rows)


def show_mapping(values: Mapping[str, Any], *, as_json: bool = False) -> None:
    """Print names and values."""
    if as_json:
        typer.echo(json.dumps(plain(dict(values)), indent=2))
        return
    for name, value in values.items():
        typer.echo(f"{name}: {value if isinstance(value, str | int | float) else json.dumps(plain(value))}")


def _print_table(columns: list[str], rows: list[list[Any]]) -> None:
    view = RichTable(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        view.add_column(column, overflow="fold")
    for row in rows:
        view.add_row(*("" if cell is None else str(cell) for cell in row))
    console = Console(soft_wrap=False)
    console.print(view, markup=False)
    console.print(f"({len(rows)} rows)", style="dim")
