"""The NeMo contract: what jobs and releases need of a training and serving platform.

Every call either worked, or raised: Retry when the platform is away or busy (nothing is lost by asking again),
Refused when it said no for good, with the platform's own words. Creating calls are idempotent by name: what exists
already and is the same is taken as made, so that a crash between a call and its record never does the work twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

RemoteState = Literal["queued", "running", "succeeded", "failed", "cancelled", "unknown"]

_STATES: dict[str, RemoteState] = {
    "created": "queued", "pending": "queued",
    "running": "running", "active": "running", "resuming": "running", "paused": "running", "pausing": "running",
    "cancelling": "cancelled", "cancelled": "cancelled",
    "failed": "failed", "error": "failed",
    "completed": "succeeded", "ready": "succeeded",
}  # fmt: skip


def remote_state(word: Any) -> RemoteState:
    """A platform's word for the state of a job, in ours; a word nobody knows yet is ``unknown``, never an error.

    >>> remote_state("completed"), remote_state("hibernating")
    ('succeeded', 'unknown')
    """
    return _STATES.get(str(word).lower(), "unknown")


@dataclass(frozen=True, slots=True)
class RemoteStatus:
    """How a remote job stands. ``progress`` from 0 to 1; ``message`` is the platform's own, '' when it has none."""

    state: RemoteState
    progress: float = 0.0
    message: str = ""

    @property
    def ended(self) -> bool:
        """Whether it will not change any more."""
        return self.state in ("succeeded", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class RowResult:
    """One evaluated row: its place in the file, the answer that is right, and the model's answer."""

    index: int
    expected: str
    answer: str


@dataclass(frozen=True, slots=True)
class Split:
    """How a group of models shares traffic: ``weight`` of it goes to ``candidate``, sticky by session.

    ``shadow``: the candidate also answers copies of live requests, unseen by users.
    """

    live: str
    candidate: str = ""
    weight: float = 0.0
    shadow: bool = False


@dataclass(frozen=True, slots=True)
class Pair:
    """One request that live model and shadow both answered. ``number`` counts up within its group."""

    number: int
    session_id: str
    turn_id: str
    live: str
    live_answer: str
    shadow: str
    shadow_answer: str


@dataclass(frozen=True, slots=True)
class Training:
    """What to train: ``name`` makes it idempotent; ``dataset`` is an uploaded and registered one."""

    name: str
    dataset: str
    base: str
    output_model: str
    hyperparameters: Mapping[str, Any]


class NemoPort(Protocol):
    """A training platform (data, jobs, evaluations) with serving."""

    @property
    def namespace(self) -> str:
        """Owner of everything made here; model names start with it and a slash."""
        ...

    def ensure_namespace(self) -> None:
        """Make the namespace, unless it is there."""
        ...

    def ensure_base(self, labels: Sequence[str]) -> str:
        """Make the training configuration for answers among ``labels``; its name, for ``Training.base``."""
        ...

    def upload_dataset(self, name: str, files: Mapping[str, bytes]) -> None:
        """Store files under their paths in the dataset; the same path again is replaced."""
        ...

    def download(self, name: str, path: str) -> bytes:
        """A file of a dataset; b'' when dataset or file does not exist."""
        ...

    def register_dataset(self, name: str) -> None:
        """Make an uploaded dataset known to training and evaluation."""
        ...

    def create_training(self, training: Training) -> str:
        """Start a training; its remote id. The same name again gives the id of the first.

        Raises Refused when a job of that name trains something else.
        """
        ...

    def training_status(self, job_id: str) -> RemoteStatus:
        """How a training stands."""
        ...

    def create_evaluation(self, name: str, model: str, dataset: str, path: str) -> str:
        """Start answering every row of a file with a model; its remote id."""
        ...

    def evaluation_status(self, job_id: str) -> RemoteStatus:
        """How an evaluation stands."""
        ...

    def evaluation_rows(self, job_id: str) -> list[RowResult]:
        """The answers of an evaluation that succeeded, in the order of the file."""
        ...

    def ensure_deployed(self, model: str) -> bool:
        """Ask that a model be served; whether it is by now."""
        ...

    def list_models(self) -> list[str]:
        """Names of the models that are served."""
        ...

    def apply(self, group: str, split: Split) -> None:
        """Make a group share its traffic like this from now on; the same again changes nothing."""
        ...

    def observe(self, group: str) -> Split | None:
        """How a group shares its traffic, read back; None when there is no such group."""
        ...

    def pairs(self, group: str, after: int, limit: int = 500) -> list[Pair]:
        """Shadow pairs with a number above ``after``, in order."""
        ...
