"""Rules on published records: what each reads, and what it says of a record without its features."""

from __future__ import annotations

import csv

import pytest

from experiments.diagnosis import published_records as published

PLAIN = dict.fromkeys(published.FEATURES, 0.0) | {"gradient_min": 1.0, "gradient_median": 1.0, "gradient_max": 1.0}


def fires(rule, **features):
    (name,) = [name for name in published.RULES if rule in name]
    return published.RULES[name]({**PLAIN, **features})


@pytest.mark.parametrize(
    ("rule", "features"),
    [
        ("gradient vanishes", {"gradient_vanish": 0.1}),
        ("gradient explodes", {"gradient_explode": 1.0}),
        ("not finite", {"nan_weight_count": 3.0}),
        ("not finite", {"train_loss": float("inf")}),
        ("STALLED", {"gradient_min": 1e-3}),
        ("STALLED", {"gradient_min": 0.0}),
        ("EXPLODED", {"gradient_max": 1e3}),
    ],
)
def test_a_rule_fires_on_what_it_reads_and_on_nothing_else(rule, features):
    assert fires(rule, **features) is True
    assert fires(rule) is False


@pytest.mark.parametrize("rule", ["gradient vanishes", "STALLED", "EXPLODED"])
def test_where_features_are_missing_a_rule_says_nothing(rule):
    missing = dict.fromkeys(published.FEATURES, float("nan"))
    assert fires(rule, **missing) is None


def test_a_limit_is_free_of_scale():
    for scale in (1e-20, 1e20):
        assert fires("STALLED", gradient_min=1e-3 * scale, gradient_median=scale) is True
        assert fires("STALLED", gradient_min=1e-2 * scale, gradient_median=scale) is False


def test_table_counts_by_label(tmp_path, capsys):
    file = tmp_path / "records.csv"
    with file.open("w", newline="") as out:
        writer = csv.DictWriter(out, [*published.FEATURES, "label"])
        writer.writeheader()
        for label, vanishes in (("buggy", 1), ("buggy", ""), ("correct", 0), ("correct", 0)):
            writer.writerow({**PLAIN, "gradient_vanish": vanishes, "label": label})
    assert published.main([f"--records={file}"]) == 0
    line = capsys.readouterr().out.splitlines()[2]
    assert line.endswith("| 100.0% (21% to 100% of 1) | 0.0% (0% to 66% of 2) |")


def test_a_file_that_is_not_there_is_bad_usage(tmp_path, capsys):
    assert published.main([f"--records={tmp_path / 'none.csv'}"]) == 2
    assert "Fix: download" in capsys.readouterr().err
    (tmp_path / "other.csv").write_text("a,label\n1,buggy\n")
    assert published.main([f"--records={tmp_path / 'other.csv'}"]) == 2
    assert "expected a column for each feature" in capsys.readouterr().err
