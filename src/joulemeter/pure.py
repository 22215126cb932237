"""The engine of the recorder in pure Python, with the names of the extension ``joulemeter._recorder``."""

from joulemeter.gates import Gate, Gates
from joulemeter.lanes import Lanes

__all__ = ["Gate", "Gates", "Lanes"]
