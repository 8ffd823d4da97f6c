"""Proofs as objects: inequalities with a left side, a right side and assumptions, held against measured runs.

    from cbn_lab import theory
    problem = theory.problems.quadratic([1.0, 0.1], sigma=0.5)
    state = theory.run(problem, step=0.3, steps=50)
    theory.chain().check(state)             # None, or the first line that fails and the assumption behind it
    theory.chain().table(state)             # every line

`theory.Problem` takes problems of your own. Nothing here imports torch. The layer's part is imported by
name: `theory.layer`, `layer_bounds`, `guarantee`, and `algebra` for SymPy's checks.
"""

from cbn_lab.theory import oracles, problems
from cbn_lab.theory.inequalities import Assumption, Chain, Failure, Finding, Inequality, Row, Sides, plain
from cbn_lab.theory.lines import best_step, chain
from cbn_lab.theory.problems import Problem
from cbn_lab.theory.sgd import run
from cbn_lab.theory.state import State

__all__ = ["Assumption", "Chain", "Failure", "Finding", "Inequality", "Problem", "Row", "Sides", "State", "best_step",
           "chain", "oracles", "plain", "problems", "run"]
