"""Energy where trainings already report, one file a library.

Callbacks that tell Joulemeter of a training's phases, and log their energy through its loggers:

    from joulemeter.integrations.lightning import EnergyCallback
    from joulemeter.integrations.transformers import EnergyCallback
    from joulemeter.integrations.keras import EnergyCallback

Experiment trackers, for loops of one's own:

    from joulemeter.integrations.mlflow import log_energy
    from joulemeter.integrations.wandb import log_energy
    from joulemeter.integrations.tensorboard import log_energy
"""
