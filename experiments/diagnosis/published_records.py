"""Rules on published training records of other people's programs, as far as their features allow.

python -m experiments.diagnosis.published_records --records 1st_Level_UnderSampled.csv

The records are DEFault's (Jahan et al. 2025, github.com/SigmaJahan/DEFault-DNN-Debugging, MIT licence; folder
g_Dataset/labeled_dynamic_feature_first_level): one row a Keras program, correct or buggy, each feature a mean over the
epochs of its training. There is neither a model nor a batch, so a verdict cannot be asked for. What can be tried are
the flags that DEFault recorded, and those limits of `gradflow.diagnosis` that read nothing but norms of gradients: the
norm of one weight's gradient over the median weight's, and numbers that are not finite.
"""

from __future__ import annotations

import csv
import dataclasses
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.diagnosis.scores import rate
from experiments.framework import commandline
from experiments.framework.commandline import UsageError
from experiments.framework.exit_status import HOLDS, guarded
from gradflow.diagnosis import thresholds

__all__ = ["LABELS", "RULES", "main", "read", "table"]

Record = Mapping[str, float]
Rule = Callable[[Record], bool | None]
LABELS = ("buggy", "correct")
FEATURES = (
    "train_loss", "gradient_vanish", "gradient_explode", "dying_relu", "saturated_activation", "nan_weight_count",
    "nan_gradients_count", "gradient_min", "gradient_median", "gradient_max",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Options:
    """Where the records are."""

    records: Path = Path("1st_Level_UnderSampled.csv")
    """File with a row a program: the features as columns, and "label"."""


def _flag(feature: str) -> Rule:
    """Return the rule that DEFault's flag is raised in some epoch."""
    return lambda record: None if math.isnan(record[feature]) else record[feature] > 0


def _nonfinite(record: Record) -> bool:
    counts = (record["nan_weight_count"], record["nan_gradients_count"])
    return any(count > 0 for count in counts) or math.isinf(record["train_loss"])


def _over_median(feature: str, limit: float) -> Rule:
    """Return the rule that log10 of a norm over the median norm leaves a limit, downwards if that is negative."""

    def fires(record: Record) -> bool | None:
        norm, median = record[feature], record["gradient_median"]
        if math.isnan(norm) or math.isnan(median) or not 0 < median < math.inf:
            return None
        log = math.log10(norm / median) if norm > 0 else -math.inf
        return log < limit if limit < 0 else log > limit

    return fires


RULES: dict[str, Rule] = {
    "DEFault's flag: gradient vanishes (mean below 1e-4)": _flag("gradient_vanish"),
    "DEFault's flag: gradient explodes (entry above 70)": _flag("gradient_explode"),
    "DEFault's flag: dying ReLU (7 of 10 outputs 0)": _flag("dying_relu"),
    "DEFault's flag: saturated activation": _flag("saturated_activation"),
    "gradflow's limit: not finite": _nonfinite,
    "gradflow's limit: a gradient far below the median (`STALLED`)": _over_median("gradient_min", thresholds.STALLED),
    "gradflow's limit: a gradient far above the median (`EXPLODED`)": _over_median("gradient_max", thresholds.EXPLODED),
}


def read(file: Path) -> list[tuple[str, Record]]:
    """Read records.

    Args:
        file: as published.

    Returns:
        Label and features of each program; NaN where a feature is missing.

    Raises:
        UsageError: if there is no such file, or a column is missing.
    """
    if not file.is_file():
        raise UsageError(
            f"{file}: expected a file of records, got none. Fix: download 1st_Level_UnderSampled.csv from "
            "github.com/SigmaJahan/DEFault-DNN-Debugging, then --records FILE"
        )
    with file.open(newline="", encoding="utf-8") as lines:
        reader = csv.DictReader(lines)
        missing = [name for name in (*FEATURES, "label") if name not in (reader.fieldnames or ())]
        if missing:
            raise UsageError(f"{file}: expected a column for each feature, got none for {', '.join(missing)}")
        return [(row["label"], {name: float(row[name] or "nan") for name in FEATURES}) for row in reader]


def table(records: Sequence[tuple[str, Record]]) -> str:
    """Return how often each rule fires, by label, of the programs that have its features.

    Args:
        records: from `read`.
    """
    lines = ["| rule | buggy programs | correct programs |", "|---|---|---|"]
    for name, rule in {**RULES, "any of gradflow's limits": _any}.items():
        fired = {label: [fires for of, record in records if of == label and (fires := rule(record)) is not None]
                 for label in LABELS}  # fmt: skip
        lines.append(f"| {name} | {' | '.join(str(rate(np.array(fired[label], bool))) for label in LABELS)} |")
    return "\n".join([*lines, ""])


def _any(record: Record) -> bool:
    return any(rule(record) for name, rule in RULES.items() if name.startswith("gradflow"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table.

    Args:
        arguments: what follows the command; by default that of this process.

    Returns:
        0, 2 for bad usage, 3 after a crash, or 130 when interrupted.
    """
    typed = sys.argv[1:] if arguments is None else arguments
    command = "python -m experiments.diagnosis.published_records"

    def told() -> int:
        print(table(read(commandline.read(command, __doc__ or "", Options(), typed).records)), end="")
        return HOLDS

    return guarded(command, told)


if __name__ == "__main__":
    sys.exit(main())
