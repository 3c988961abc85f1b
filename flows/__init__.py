"""The flows: each a command, a deployment and a function of the same name."""

from flows.fingerprint import fingerprint
from flows.pipeline import pipeline
from flows.report import report
from flows.split import split
from flows.train import train
from flows.tune import tune

__all__ = ["fingerprint", "pipeline", "report", "split", "train", "tune"]
