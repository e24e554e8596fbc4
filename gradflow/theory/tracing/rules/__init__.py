"""Rules of mean-field theory, by primitive; importing this package fills the table."""

from gradflow.theory.tracing.rules import elementwise, reductions, shapes
from gradflow.theory.tracing.rules.table import RULES, Rule, register_rule

__all__ = ["RULES", "Rule", "elementwise", "reductions", "register_rule", "shapes"]
