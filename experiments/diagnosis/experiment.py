"""Run and claims of `diagnosis`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

import experiments.diagnosis as package
import gradflow as gf
from experiments.diagnosis import bands, committed, figures, labels, peers, scores, tables
from experiments.diagnosis.public_programs import PROGRAMS
from experiments.diagnosis.results import Results
from experiments.diagnosis.settings import PRESETS, Config
from experiments.diagnosis.specimen import Specimen
from experiments.diagnosis.zoo import HELD_OUT, draw
from experiments.framework.claims import Claim
from experiments.framework.processes import cores
from experiments.framework.resume import Parts
from experiments.framework.runner import Experiment


def run(config: Config) -> Results:
    """Draw, train, treat and diagnose.

    Args:
        config: settings.
    """
    counts = {family: config.specimens if family in HELD_OUT else config.tuned for family in config.families}
    wanted = [(family, number) for family, count in counts.items() for number in range(count)]
    known = committed.read()
    again = _relabelled(config, wanted, known)
    networks = {_name(*which): functools.partial(_row, config, *which, known, which in again) for which in wanted}
    programs = {f"public: {name}": functools.partial(_of_program, config, name)
                for name in list(PROGRAMS)[: config.programs]}  # fmt: skip
    parts, workers = Parts("networks"), config.workers or cores()
    rows: list[dict[str, Any]] = [*parts.several(networks, "networks", workers).values()]
    for forms in parts.several(programs, "public programs", workers).values():
        rows += forms
    _treat(config, rows, parts, workers)
    names = rows[0].keys() - {"numbers"}
    columns: dict[str, Any] = {name: np.array([row[name] for row in rows]) for name in names}
    return Results(**columns | {"rules": np.array(list(peers.RULES)), "rule_flags": columns["rule_flags"].T})


def _key(config: Config, family: str, number: int) -> committed.Key:
    return committed.Key(family, number, config.seed, config.budget, config.orders)


def _relabelled(
    config: Config, wanted: Sequence[tuple[str, int]], known: Mapping[committed.Key, committed.Row]
) -> set[tuple[str, int]]:
    """Draw some of the networks whose label is committed."""
    labelled = [which for which in wanted if _key(config, *which) in known]
    drawn = np.random.default_rng(config.seed).permutation(len(labelled))[: config.relabelled]
    return {labelled[k] for k in drawn}


def _treat(config: Config, rows: Sequence[dict[str, Any]], parts: Parts, workers: int) -> None:
    """Treat some of the sick networks, and write down the gains."""
    helped = [row for row in rows if row["held_out"] and _is_helped(row)]
    drawn = np.random.default_rng(config.seed).permutation(len(helped))[: config.treated]
    chosen = {f"treated: {_name(row['families'], row['numbers'])}": row for row in (helped[k] for k in drawn)}
    treatments = {key: functools.partial(_treated, config, row["families"], row["numbers"])
                  for key, row in chosen.items()}  # fmt: skip
    gains = parts.several(treatments, "treatments", workers)
    for row in rows:
        row |= {"treated_gains": np.nan, "random_gains": np.nan}
    for key, row in chosen.items():
        row |= gains[key]


def _name(family: str, number: int) -> str:
    return f"{family} {number}"


def _is_helped(row: Mapping[str, Any]) -> bool:
    """Tell whether a network is sick and a treatment of the label's helps it."""
    return bool(labels.is_sick(row["gains"], row["twin_gains"])) and row["twin_gains"] >= labels.LEARNT


def _treated(config: Config, family: str, number: int) -> dict[str, Any]:
    """Return the gains of the treatment that `gradflow.treat` chooses, and of the one drawn by chance."""
    specimen = draw(family, number, config.seed)
    t = gf.treat(
        specimen.loss, specimen.params, *specimen.batches[0], optimizer=specimen.optimizer, batches=specimen.batches,
        budget=config.budget, seeds=config.orders, key=jax.random.key(config.seed + number),
    )  # fmt: skip
    losses = {"treated_gains": t.chosen.loss, "random_gains": next((a.loss for a in t.trials if a.random), np.nan)}
    return {name: 1 - loss / specimen.chance for name, loss in losses.items()}


def _row(
    config: Config, family: str, number: int, known: Mapping[committed.Key, committed.Row], again: bool
) -> dict[str, Any]:
    """Return what is known of one network."""
    specimen = draw(family, number, config.seed)
    kept = committed.find(known, _key(config, family, number), specimen)
    found = kept
    if found is None or again:
        found = labels.label(specimen, config.budget, config.orders, config.seed)
    same = kept is not None and _sick(kept) == _sick(found)
    of_label = {"gains": found.gain, "twin_gains": found.twin_gain, "twins": found.twin}
    held_out = {"held_out": family in HELD_OUT, "public": False, "numbers": number}
    return _judged(specimen, config) | of_label | held_out | {"relabelled": again, "same": again and same}


def _of_program(config: Config, name: str) -> list[dict[str, Any]]:
    """Return what is known of a public program and of its repaired form, which is the twin of both."""
    program = PROGRAMS[name]
    forms = {
        "public program": program.faulty.specimen(name, config.seed, program.kinds),
        "public program, repaired": program.repaired.specimen(name, config.seed),
    }
    gains = [labels.trained(specimen, config.budget, config.orders) for specimen in forms.values()]
    of_label = {"twin_gains": gains[1], "twins": "repaired", "held_out": False, "public": True, "numbers": 0}
    return [
        _judged(dataclasses.replace(specimen, family=family), config) | of_label
        | {"gains": gain, "relabelled": False, "same": False}
        for (family, specimen), gain in zip(forms.items(), gains, strict=True)
    ]  # fmt: skip


def _judged(specimen: Specimen, config: Config) -> dict[str, Any]:
    """Return what a verdict says of a network."""
    d = gf.diagnose(
        specimen.loss, specimen.params, *specimen.batches[0], optimizer=specimen.optimizer,
        batches=specimen.batches, steps=config.steps, progress=False,
    )  # fmt: skip
    return {
        "names": specimen.name,
        "families": specimen.family,
        "flagged": not d.healthy,
        "kinds": ", ".join(finding.kind for finding in d.findings),
        "causes": ", ".join(specimen.kinds),
        "layers": ", ".join(d.findings[0].layers[:3]) if d.findings else "",
        "places": ", ".join(specimen.places),
        "seconds": d.seconds,
        "rule_flags": [bool(rule(d)) for rule in peers.RULES.values()],
    }


def _sick(label: labels.Label) -> bool:
    return bool(labels.is_sick(label.gain, label.twin_gain))


def claims(results: Results) -> list[Claim]:
    """Check a run.

    Args:
        results: from `run`.

    Returns:
        The claims, about the held-out families; that on labels is about all.
    """
    again = results.relabelled
    out = (
        [Claim("same-labels", "share of labels that come out the same when made anew", bands.same_labels(),
               float(results.same[again].mean()))]
        if again.any() else []
    )  # fmt: skip
    return out + _of_verdicts(results) + _of_treatments(results) + _of_programs(results)


def _of_treatments(results: Results) -> list[Claim]:
    treated = ~np.isnan(results.treated_gains)
    by_chance = ~np.isnan(results.random_gains)
    out = []
    if treated.any():
        helped = scores.rate(scores.helped(results.treated_gains, results)[treated])
        out.append(Claim("treated", "share of treated networks that come within 10 % of their twin's gain",
                         bands.treated(), helped.share))  # fmt: skip
    if by_chance.any():
        helped = scores.rate(scores.helped(results.random_gains, results)[by_chance])
        out.append(Claim("treated-by-chance", "the same with a remedy drawn by chance", bands.chance(), helped.share))
    return out


def _of_verdicts(results: Results) -> list[Claim]:
    sick, held = scores.sick(results), results.held_out
    if not (held & sick).any() or not (held & ~sick).any():
        return []
    alarms, found = scores.rate(results.flagged[held & ~sick]), held & sick & results.flagged
    out = [
        Claim("detection", "share of sick networks that are found", bands.detection(),
              scores.rate(results.flagged[held & sick]).share),
        Claim("false-alarms", "share of healthy networks that are called sick", bands.false_alarms(), alarms.share),
        Claim("false-alarms-limit", "upper 95 % limit of that share", bands.false_alarms_at_most(), alarms.high),
        Claim("seconds", "median seconds to a verdict", bands.seconds(), float(np.median(results.seconds))),
    ]  # fmt: skip
    for known, hits, id_, words, band in (
        (results.causes, scores.cause_found, "cause", "share of found faults whose kind is right", bands.cause()),
        (results.places, scores.place_found, "place", "share of found faults whose layer is among three",
         bands.place()),
    ):  # fmt: skip
        judged = found & (known != "")
        if judged.any():
            out.append(Claim(id_, words, band, scores.rate(hits(results)[judged]).share))
    return out


def _of_programs(results: Results) -> list[Claim]:
    """Check the verdicts on public programs and on their repaired forms."""
    sick, public = scores.sick(results), results.public
    out = []
    if (public & sick).any():
        found = scores.rate(results.flagged[public & sick])
        out.append(Claim("public-programs", "share of public programs that do not train and are found",
                         bands.public_programs(), found.share))  # fmt: skip
    if (public & ~sick).any():
        alarms = scores.rate(results.flagged[public & ~sick])
        out.append(Claim("repaired-programs", "share of their repaired forms that are called sick",
                         bands.repaired_programs(), alarms.share))  # fmt: skip
    return out


EXPERIMENT = Experiment("diagnosis", package.__doc__ or "", PRESETS, run, claims, figures.draw, tables.files)
