"""Functions that take data and return a `Figure`: a picture, and a sentence made from the same numbers."""

from cbn_lab.figures.comparisons import ablation, difference, final_accuracy
from cbn_lab.figures.curves import arms, learning_curves
from cbn_lab.figures.diagrams import block_diagram, model_diagram, module_diagram
from cbn_lab.figures.effects import effect_curves, effect_scores, effects_by_layer, rescaled_effects
from cbn_lab.figures.folding import fold_effect
from cbn_lab.figures.grids import placement_grid
from cbn_lab.figures.landscape import along_gradient, gradient_growth, landscape_over_training, traces
from cbn_lab.figures.layers import layer_summary, layer_table
from cbn_lab.figures.ledger import ledger
from cbn_lab.figures.predictions import calibration, curve_guess, number_guess, ranking_guess
from cbn_lab.figures.seeds import seed_strip
from cbn_lab.figures.selection import accuracies, paired, spread
from cbn_lab.figures.shares import shortcut_shares
from cbn_lab.figures.slack import slack_meter, three_effects
from cbn_lab.figures.spectra import eigenvalues, operating_point, points, tension
from cbn_lab.figures.speed import roofline, speed_ladder
from cbn_lab.figures.stacked import stacked
from cbn_lab.figures.statistics import running_paths, seed_paths, variance_errors
from cbn_lab.figures.structure import images, moments
from cbn_lab.figures.style import MARKS, STYLE, Figure, Mark, mark
from cbn_lab.figures.tables import Table

__all__ = ["Figure", "MARKS", "Mark", "STYLE", "Table", "ablation", "accuracies", "along_gradient", "arms",
           "block_diagram", "calibration", "curve_guess", "difference", "effect_curves", "effect_scores",
           "effects_by_layer", "eigenvalues", "final_accuracy", "fold_effect", "gradient_growth", "images",
           "landscape_over_training", "layer_summary", "layer_table", "learning_curves", "ledger", "mark",
           "model_diagram", "module_diagram", "moments", "number_guess", "operating_point", "paired",
           "placement_grid", "points", "ranking_guess", "rescaled_effects", "roofline", "running_paths", "seed_paths",
           "seed_strip", "shortcut_shares", "slack_meter", "speed_ladder", "spread", "stacked", "tension",
           "three_effects", "traces", "variance_errors"]
