"""Interactive views over the figures and the training loop; no numerics in here.

Core ipywidgets only, alike in 7.7 and 8: pictures are PNG bytes in an Image, words are HTML, and there is no Output.
"""

from cbn_lab.widgets.chooser import Chooser, chooser, compare
from cbn_lab.widgets.landscape import LandscapeExplorer, landscape_at, landscape_explorer
from cbn_lab.widgets.live import LiveTraining, watch
from cbn_lab.widgets.spectra import SpectrumExplorer, spectrum_explorer

__all__ = ["Chooser", "LandscapeExplorer", "LiveTraining", "SpectrumExplorer", "chooser", "compare", "landscape_at",
           "landscape_explorer", "spectrum_explorer", "watch"]
