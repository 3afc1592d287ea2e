"""What happens, and nothing else: pure stages over records. ``PIPELINE`` is the table of contents."""

from __future__ import annotations

from processors.assemble import Assemble
from processors.attribute import Attribute
from processors.cluster import Cluster
from processors.curate import Curate
from processors.detect_drift import DetectDrift
from processors.learn import Learn
from processors.plan import Plan
from processors.redact import Redact
from processors.score import ScoreTurns
from processors.stage import Stage

PIPELINE: tuple[type[Stage], ...] = (
    Redact, Assemble, ScoreTurns, Attribute, Cluster, DetectDrift, Curate, Learn, Plan,
)  # fmt: skip
"""The stages, in the order of the flow."""
