"""Learning, one verdict after the other, from which features failures follow: river's scaler and logistic regression.

Plain stochastic gradient descent with a constant rate, so that it follows a world that changes; on top of it slope and
offset of a calibration, learnt in the same way (Platt 1999, online). Both count each verdict by its weight. A
category's share of failures is a Beta-Binomial that forgets, drawn to the share of all turns.

State is JSON of our own with a version, since river's pickles do not survive its versions; learning goes on from it bit
for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from processors.bounds import shorten
from processors.calibrating import FEATURES, GROUPS, LIMIT, VERSION, log_odds, missing, p_failure, sigmoid

_BIAS = -1.0
_ABSENT = "absent:"


@dataclass(frozen=True, slots=True)
class FusionRules:
    """``rate``, ``l2``: of the regression. ``slope``, ``offset``: rates of the calibration, 0 for none.

    ``prior``: turns that the share of all is worth to a category. ``forget``: what is left of a category's past after
    each of its verdicts; of all turns' after ten. ``categories``: how many are remembered.
    """

    rate: float = 0.02
    l2: float = 1e-4
    slope: float = 0.01
    offset: float = 0.05
    prior: float = 20.0
    forget: float = 0.995
    categories: int = 200


class Fusion:
    """A model that learns. ``body`` is its state, kept up to date in place. Raises ValueError for another version."""

    def __init__(self, body: dict[str, Any] | None, rules: FusionRules) -> None:
        self.body = _begun() if body is None else body
        self._rules = rules
        if self.body.get("v") != VERSION:
            raise ValueError(f"a model of version {self.body.get('v')}; this release reads version {VERSION}")

    @property
    def lessons(self) -> int:
        """How many verdicts it has learnt from."""
        return self.body["lessons"]

    def model(self) -> dict[str, Any]:
        """What it knows now, as ``processors.calibrating`` has it."""
        body, weights = self.body, self.body["weights"]
        share = self._share_of_all()
        return {
            "v": VERSION,
            "columns": {
                name: [body["means"][name], variance**0.5, weights.get(name, 0.0)]
                for name, variance in body["vars"].items()
                if variance > 0
            },
            "absent": {
                name.removeprefix(_ABSENT): weight for name, weight in weights.items() if name.startswith(_ABSENT)
            },
            "intercept": body["intercept"],
            "platt": list(body["platt"]),
            "categories": {name: self._weakness(pair, share) for name, pair in body["categories"].items()},
            "other": round(log_odds(share), 4),
        }

    def learn(self, features: Mapping[str, float], category: str, failed: bool, weight: float) -> None:
        """One verdict, which counts ``weight``. ``features`` are with how weak the category was when it was scored."""
        self._calibrate(p_failure(features, self._uncalibrated()), failed, weight)
        self._regress({name: value for name, value in features.items() if name in FEATURES}, failed, weight)
        self._count(category, failed, weight)
        self.body["lessons"] += 1

    def _uncalibrated(self) -> dict[str, Any]:
        return self.model() | {"platt": [1.0, 0.0]}

    def _calibrate(self, score: float, failed: bool, weight: float) -> None:
        slope, offset = self.body["platt"]
        odds = log_odds(score)
        error = weight * (failed - sigmoid(slope * odds + offset))
        slope += self._rules.slope * error * odds
        self.body["platt"] = [max(min(slope, 3.0), 0.2), offset + self._rules.offset * error]

    def _regress(self, present: dict[Any, float], failed: bool, weight: float) -> None:
        from river.linear_model import LogisticRegression  # noqa: PLC0415  # 130 MB, for those alone that learn
        from river.optim import SGD  # noqa: PLC0415  # as above
        from river.preprocessing import StandardScaler  # noqa: PLC0415  # as above
        from river.utils import VectorDict  # noqa: PLC0415  # as above

        body = self.body
        scaler = StandardScaler()
        scaler.counts.update(body["counts"])
        scaler.means.update(body["means"])
        scaler.vars.update(body["vars"])
        scaler.learn_one(present)
        scaled = {name: max(min(z, LIMIT), -LIMIT) for name, z in scaler.transform_one(present).items()}
        seen = {group for group, names in GROUPS.items() if any(name in scaler.counts for name in names)}
        scaled |= {_ABSENT + group: 1.0 for group in missing(present) if group in seen}
        regression = LogisticRegression(optimizer=SGD(self._rules.rate), l2=self._rules.l2)
        regression.intercept = body["intercept"]
        regression._weights = VectorDict(body["weights"])  # pyright: ignore[reportPrivateUsage]  # no other way in
        regression.learn_one(scaled, failed, w=weight)
        body.update(
            counts=dict(scaler.counts),
            means=dict(scaler.means),
            vars=dict(scaler.vars),
            weights=dict(regression.weights),
            intercept=regression.intercept,
        )

    def _count(self, category: str, failed: bool, weight: float) -> None:
        rules, body = self._rules, self.body
        body["total"] = _faded(body["total"], 1.0 - (1.0 - rules.forget) / 10.0, failed, weight)
        if category:
            pair = body["categories"].pop(category, [0.0, 0.0])
            body["categories"][category] = _faded(pair, rules.forget, failed, weight)
            shorten(body["categories"], rules.categories)

    def _share_of_all(self) -> float:
        failed, count = self.body["total"]
        return (failed + sigmoid(_BIAS)) / (count + 1.0)

    def _weakness(self, pair: list[float], share: float) -> float:
        prior = self._rules.prior
        return round(log_odds((pair[0] + prior * share) / (pair[1] + prior)), 4)


def _begun() -> dict[str, Any]:
    return {
        "v": VERSION, "lessons": 0, "counts": {}, "means": {}, "vars": {}, "weights": {}, "intercept": _BIAS,
        "platt": [1.0, 0.0], "categories": {}, "total": [0.0, 0.0],
    }  # fmt: skip


def _faded(pair: list[float], left: float, failed: bool, weight: float) -> list[float]:
    return [pair[0] * left + weight * failed, pair[1] * left + weight]
