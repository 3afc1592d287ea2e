"""spaCy's models: loaded once for a process, never from the network, and run in the caller's thread alone.

Matrices are multiplied by numpy's library (OpenBLAS) instead of BLIS, which thinc takes by default: a tenth less CPU
for names and sentences, and the same entities. Processes are what scales here, so its threads are off meanwhile.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any

import spacy
from spacy.util import is_package
from thinc.api import use_ops
from threadpoolctl import ThreadpoolController

from schemas.errors import Refused


def lacking(name: str) -> str:
    """Why spaCy has no such model on this machine; '' where it has one."""
    there = is_package(name) or Path(name).is_dir()
    return "" if there else f"the redaction model {name} is not installed: install its package, or name another"


@cache
def loaded(name: str, without: tuple[str, ...], idle: tuple[str, ...] = ()) -> Any:
    """An installed spaCy model without some of its parts, others ``idle``, once for the process. Raises Refused."""
    try:
        with use_ops("numpy", use_blis=False):
            return spacy.load(name, exclude=without, disable=idle)
    except OSError as error:
        reason = lacking(name) or f"the redaction model {name} cannot be loaded: {str(error).partition(chr(10))[0]}"
        raise Refused(reason) from error


def one_thread() -> AbstractContextManager[Any]:
    """While inside, numpy's library uses no threads of its own."""
    return _controller().limit(limits=1, user_api="blas")


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()
