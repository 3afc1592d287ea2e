"""Redact: raw traces and signals become clean spans, signals and labels, or dead letters. Nothing passes unread."""

from __future__ import annotations

from processors.redact.settings import RedactSettings
from processors.redact.stage import Redact

__all__ = ["Redact", "RedactSettings"]
