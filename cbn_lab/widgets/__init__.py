"""Interactive views over the figures and the training loop; no numerics in here.

Core ipywidgets only, alike in 7.7 and 8: pictures are PNG bytes in an Image, words are HTML, and there is no Output.
"""

from cbn_lab.widgets import slack
from cbn_lab.widgets.chooser import Chooser, chooser, compare
from cbn_lab.widgets.effects import Dashboard, dashboard
from cbn_lab.widgets.landscape import LandscapeExplorer, landscape_at, landscape_explorer
from cbn_lab.widgets.live import LiveTraining, watch
from cbn_lab.widgets.spectra import SpectrumExplorer, spectrum_explorer

__all__ = ["Chooser", "Dashboard", "LandscapeExplorer", "LiveTraining", "SpectrumExplorer", "chooser", "compare",
           "dashboard", "landscape_at", "landscape_explorer", "slack", "spectrum_explorer", "watch"]
