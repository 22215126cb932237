"""Callbacks that tell Joulemeter of a training's phases, one file a library.

from joulemeter.integrations.lightning import EnergyCallback
from joulemeter.integrations.transformers import EnergyCallback
from joulemeter.integrations.keras import EnergyCallback
"""
