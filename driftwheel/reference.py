"""Writes what the documentation takes from the code: the pipeline diagram and ``docs/reference.md``.

``python -m driftwheel.reference`` writes; ``--check`` fails when something is out of date.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel
from typer.core import TyperGroup

from driftwheel.cli import app
from driftwheel.config import Config
from driftwheel.pipeline import WHEEL
from processors import PIPELINE
from schemas.errors import DriftwheelError
from schemas.metrics import HELP
from schemas.topics import TOPICS

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- generated: pipeline -->", "<!-- /generated -->"


def diagram() -> str:
    """The wheel as a Mermaid flow chart, from the stages themselves."""
    lines = ["```mermaid", "flowchart TD"]
    lines.append('  agents([agents]) --> gateway["gateway"]')
    lines += [f'  gateway --> {_node(topic.name)}[/"{topic.name}"/]' for topic in TOPICS if topic.raw]
    for stage in WHEEL:
        lines += [
            f'  {_node(topic.name)}[/"{topic.name}"/] --> {stage.name}["{stage.name}"]' for topic in stage.sources
        ]
        lines += [f'  {stage.name} --> {_node(topic.name)}[/"{topic.name}"/]' for topic in stage.emits]
    lines.append('  clean["every clean topic"] --> store[(ClickHouse)]')
    lines.append("```")
    return "\n".join(lines)


def _node(name: str) -> str:
    return "t_" + name.replace(".", "_")


def reference() -> str:
    """The reference page."""
    parts = ["# Reference", "", "Written by `make docs` from the code; do not edit.", "", "## Commands", ""]
    parts += _commands()
    parts += [
        "## Settings",
        "",
        "In `driftwheel.toml`, or as `DRIFTWHEEL__SECTION__NAME` in the environment.",
        "",
    ]
    parts += ["| setting | default |", "| --- | --- |", *_settings(Config, ""), *_stage_settings(), ""]
    parts += ["## Stages", "", "| stage | reads | emits |", "| --- | --- | --- |", *_stages(), ""]
    parts += [
        "## Topics",
        "",
        "| topic | record | kept |",
        "| --- | --- | --- |",
        *_topics(),
        "",
    ]
    parts += ["## Metrics", "", "| metric | what it counts |", "| --- | --- |"]
    parts += [f"| `{name}` | {text} |" for name, text in HELP.items()]
    parts += ["", "## Errors", "", "| error | what follows |", "| --- | --- |", *_errors(), ""]
    return "\n".join(parts)


def _commands() -> Iterator[str]:
    root = typer.main.get_command(app)
    yield from _command(root, typer.Context(root, info_name="driftwheel"))


def _command(command: Any, context: Any) -> Iterator[str]:
    if isinstance(command, TyperGroup):
        if command.invoke_without_command:
            yield from _described(command, context)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None:
                yield from _command(child, typer.Context(child, info_name=name, parent=context))
        return
    yield from _described(command, context)


def _described(command: Any, context: Any) -> Iterator[str]:
    yield f"### `{context.command_path}`"
    yield ""
    yield " ".join((command.help or "").split())
    yield ""
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record and "--help" not in record[0]:
            yield f"- `{record[0]}`: {record[1]}"
    yield ""


def _settings(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, info in model.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _settings(kind, f"{prefix}{name}.")
        elif name != "stages":
            yield f"| `{prefix}{name}` | {_shown(name, info.default)} |"


def _shown(name: str, default: Any) -> str:
    if name in {"data_dir", "folder"}:
        return "under the user's data folder"
    return f"`{default}`"


def _stage_settings() -> Iterator[str]:
    for stage in PIPELINE:
        settings = stage().settings
        if is_dataclass(settings):
            for field in fields(settings):
                value = getattr(settings, field.name)
                shown = "(secret)" if isinstance(value, bytes) else f"`{value}`"
                yield f"| `stages.{stage.name}.{field.name}` | {shown} |"


def _stages() -> Iterator[str]:
    for stage in WHEEL:
        reads = ", ".join(topic.name for topic in stage.sources)
        yield f"| [{stage.name}](stages/{stage.name}.md) | {reads} | {', '.join(t.name for t in stage.emits)} |"


def _topics() -> Iterator[str]:
    for topic in TOPICS:
        record = topic.record.__name__ if topic.record else f"OTLP `{topic.carries}`"
        kept = "newest of each" if topic.compacted else f"{topic.retention.total_seconds() / 86400:g} days"
        yield f"| `{topic.name}` | {record} | {kept} |"


def _errors() -> Iterator[str]:
    for error in DriftwheelError.__subclasses__():
        yield f"| `{error.__name__}` | {(error.__doc__ or '').splitlines()[0]} |"


def outputs() -> dict[Path, str]:
    """Every generated text by its file."""
    made = {ROOT / "docs" / "reference.md": reference()}
    for path in (ROOT / "docs" / "architecture.md",):
        text = path.read_text()
        before, _, rest = text.partition(BEGIN)
        made[path] = f"{before}{BEGIN}\n{diagram()}\n{END}{rest.partition(END)[2]}"
    return made


def main(check: bool) -> int:
    """Write, or with ``check`` name what is out of date and return 1."""
    stale = [path for path, text in outputs().items() if not path.exists() or path.read_text() != text]
    for path in stale:
        if check:
            typer.echo(f"{path.relative_to(ROOT)} is out of date: run `make docs`", err=True)
        else:
            path.write_text(outputs()[path])
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
