"""Interactive views over the figures and the training loop; no numerics in here.

Core ipywidgets only, alike in 7.7 and 8: pictures are PNG bytes in an Image, words are HTML, and there is no Output.
"""

from cbn_lab.widgets import slack
from cbn_lab.widgets.ablation import ablation_at, ablation_explorer
from cbn_lab.widgets.calibration import my_calibration
from cbn_lab.widgets.chooser import Chooser, chooser, compare
from cbn_lab.widgets.code import CodePanel
from cbn_lab.widgets.effects import dashboard
from cbn_lab.widgets.evidence import EvidenceExplorer, compared, evidence_explorer
from cbn_lab.widgets.explorer import Explorer
from cbn_lab.widgets.fold import fold_explorer, folded
from cbn_lab.widgets.landscape import landscape_at, landscape_explorer
from cbn_lab.widgets.live import LiveTraining, watch
from cbn_lab.widgets.player import Player
from cbn_lab.widgets.playground import Playground, playground, playground_figure
from cbn_lab.widgets.predict import predict_curve, predict_number, predict_ranking
from cbn_lab.widgets.spectra import spectrum_explorer
from cbn_lab.widgets.speed import speed_explorer, speeds_at

__all__ = ["Chooser", "CodePanel", "EvidenceExplorer", "Explorer", "LiveTraining", "Player", "Playground",
           "ablation_at", "ablation_explorer", "chooser", "compare", "compared", "dashboard", "evidence_explorer",
           "fold_explorer", "folded", "landscape_at", "landscape_explorer", "my_calibration", "playground",
           "playground_figure", "predict_curve", "predict_number", "predict_ranking", "slack", "spectrum_explorer",
           "speed_explorer", "speeds_at", "watch"]
