"""The report as a task."""

from __future__ import annotations

from pathlib import Path

from optuna.trial import FrozenTrial
from prefect import task
from prefect.artifacts import create_link_artifact, create_markdown_artifact

from ampflow.experiment import Experiment, Fingerprints
from ampflow.files import read_json
from ampflow.layout import Layout
from ampflow.outcome import outcome_digest, outcome_is_whole, write_outcome
from ampflow.tuning.described import described_store
from ampflow.tuning.study import StudySpec, open_study
from ampflow.winner import Winner
from tasks.caching import STEP, run_cached

__all__ = ["write_report"]


def write_report(
    experiment: Experiment,
    spec: StudySpec,
    winner: Path,
    fingerprints: Fingerprints,
    with_study: bool = True,
) -> Path:
    """Return the experiment's report, written unless it shows this outcome already."""
    layout = Layout.of(experiment)
    name = outcome_digest(experiment, Winner(winner), _trials(spec, with_study))
    whole = outcome_is_whole(layout, name)
    return run_cached(
        _report, name, layout.report, layout.steps, whole,
        experiment, spec, winner, fingerprints, with_study,
    )  # fmt: skip


@task(name="Report", **STEP)
def _report(
    experiment: Experiment,
    spec: StudySpec,
    winner: Path,
    fingerprints: Fingerprints,
    with_study: bool,
) -> None:
    from ampflow.reports.results import Results
    from ampflow.reports.wording import markdown_summary

    page = write_outcome(
        experiment,
        described_store(spec, fingerprints),
        spec.split,
        Winner(winner),
        spec.name if with_study else "",
        _trials(spec, with_study),
    )
    results = Results.model_validate(read_json(Layout.of(experiment).results))
    create_markdown_artifact(markdown_summary(results), key="results", description="Results")
    # Browsers refuse links from a server to a file: the text can be copied.
    create_link_artifact(page.as_uri(), link_text=str(page), key="report")


def _trials(spec: StudySpec, with_study: bool) -> list[FrozenTrial]:
    return open_study(spec).get_trials(deepcopy=False) if with_study else []
