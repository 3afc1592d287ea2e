"""Rubrics: what a judge looks at, as versioned texts. A changed text is another version, whatever it calls itself."""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schemas.errors import UsageError

FOLDER = Path(__file__).parent / "rubrics"
NAMES = ("factuality", "instruction_following", "safety_refusal", "tone", "retrieval_relevance")
"""The rubrics that come with the product."""
_NAME = re.compile(r"[a-z][a-z0-9_]{0,40}")
_UNFIT = re.compile(r"[^\w.\-/]")

Ground = Literal["reference", "documents"]


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Annotated[int, Field(ge=1)]
    criteria: Annotated[str, Field(min_length=20, max_length=8_000)]
    needs: tuple[Ground, ...] = ()
    about: Literal["answer", "documents"] = "answer"


@dataclass(frozen=True, slots=True)
class Rubric:
    """``needs``: what it is judged against, of which one at least has to be there; ``about``: what is judged.

    ``version`` is the file's own number and the hash of what the judge reads of it.
    """

    name: str
    version: str
    criteria: str
    needs: tuple[Ground, ...] = ()
    about: Literal["answer", "documents"] = "answer"


def judge_id(rubric: Rubric, model: str) -> str:
    """What stands for a judge everywhere: the rubric, its version and the model.

    >>> judge_id(Rubric("tone", "1-0af7", ""), "org/model 8b")
    'tone:1-0af7/org/model_8b'
    """
    return f"{rubric.name}:{rubric.version}/{_UNFIT.sub('_', model)}"


def rubric(name: str, folder: Path | None = None) -> Rubric:
    """A rubric by name: ``<name>.toml`` of ``folder`` when it is there, else the product's own.

    Raises UsageError that names the file and the field.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"judge.rubrics: {name!r} is no name of a rubric (small letters, digits, _)")
    own = None if folder is None else folder.expanduser() / f"{name}.toml"
    path = own if own is not None and own.is_file() else FOLDER / f"{name}.toml"
    if not path.is_file():
        raise UsageError(f"judge.rubrics: no rubric {name!r}; there are: {', '.join(NAMES)}, and those in judge.folder")
    return _read(name, path)


def rubrics(names: Sequence[str], folder: Path | None = None) -> list[Rubric]:
    """Rubrics by their names, each once."""
    return [rubric(name, folder) for name in dict.fromkeys(names)]


def _read(name: str, path: Path) -> Rubric:
    try:
        file = _File.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UsageError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    criteria = file.criteria.strip()
    read = "\x1f".join([name, criteria, file.about, *file.needs])
    digest = hashlib.sha256(read.encode()).hexdigest()[:10]
    return Rubric(name, f"{file.version}-{digest}", criteria, file.needs, file.about)
