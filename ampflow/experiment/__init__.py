"""The experiment file: every option, with its type, unit, default and meaning.

This is the only place where options and defaults live. `ampflow init`, the validation of a
file, `--set`, the form in Prefect's UI and the documentation are all made from these models.
"""

from ampflow.experiment.data import Data, Split
from ampflow.experiment.fingerprints import Fingerprints, Spaced
from ampflow.experiment.space import Choices, Distribution, Range, flat_space, option_type
from ampflow.experiment.training import Training
from ampflow.experiment.tuning import Tuning
from ampflow.experiment.whole import Experiment

__all__ = [
    "Choices",
    "Data",
    "Distribution",
    "Experiment",
    "Fingerprints",
    "Range",
    "Spaced",
    "Split",
    "Training",
    "Tuning",
    "flat_space",
    "option_type",
]
