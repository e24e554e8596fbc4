"""Bands of the claims of `diagnosis`: the targets that the project sets itself."""

from __future__ import annotations

from experiments.framework.claims import Band, goal


def detection() -> Band:
    """Share of sick networks that are found: at least 95 %."""
    return goal("a verdict that can be trusted finds 19 of 20", low=0.95, high=1.0)


def false_alarms() -> Band:
    """Share of healthy networks that are called sick: at most 2 %."""
    return goal("a verdict that is believed cries wolf once in 50", low=0.0, high=0.02)


def false_alarms_at_most() -> Band:
    """Upper 95 % limit of that share: at most 4 %."""
    return goal("so many networks that chance alone does not pass", low=0.0, high=0.04)


def cause() -> Band:
    """Share of found faults whose kind is right: at least 90 %."""
    return goal("the right remedy needs the right cause", low=0.9, high=1.0)


def place() -> Band:
    """Share of found faults whose layer is among the three worst: at least 90 %."""
    return goal("three layers are quickly looked at", low=0.9, high=1.0)


def treated() -> Band:
    """Share of treated networks that come within 10 % of their twin's gain: at least 90 %."""
    return goal("a remedy that was tried on the network itself helps", low=0.9, high=1.0)


def chance() -> Band:
    """The same with a remedy drawn by chance: fewer than half."""
    return goal("helping is more than trying something", low=0.0, high=0.5)


def seconds() -> Band:
    """Median seconds to a verdict: at most 10."""
    return goal("one waits for ten seconds", low=0.0, high=10.0)


def same_labels() -> Band:
    """Share of networks, trained anew, that are sick or healthy as their committed label says: all."""
    return goal("committed labels are those that training gives", low=1.0)


def public_programs() -> Band:
    """Share of public programs that are found: at least that of DEFault on 52 real programs, 94 %.

    DEFault (Jahan et al. 2025, Table VIII) reports .94 on programs of the same source. Of ten, all must be found.
    """
    return goal("DEFault finds .94 of 52 real programs", low=0.94, high=1.0)


def repaired_programs() -> Band:
    """Share of repaired programs that are called sick: none of ten."""
    return goal("a repaired program is a healthy one", high=0.05)
