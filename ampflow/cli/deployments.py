"""The flows as deployments, which Prefect's UI can start: deployments/prefect.yaml has the same."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.utilities.callables import parameter_schema

import flows
from ampflow.cli.flow_worker import POOL
from ampflow.experiment import Experiment

__all__ = ["DEPLOYMENTS", "Deployment", "register_deployments"]

_NIGHTLY = "0 2 * * *"


@dataclass(frozen=True)
class Deployment:
    """A flow that can be started from the UI.

    Parameters
    ----------
    name
        How the UI names it.
    flow
        The flow's name in the package `flows`.
    cron
        When it starts by itself (UTC), if its schedule is switched on.
    """

    name: str
    flow: str
    cron: str | None = None

    @property
    def entrypoint(self) -> str:
        """Where workers import the flow from."""
        return f"flows.{self.flow}.{self.flow}"


DEPLOYMENTS = (
    *(Deployment(flow, flow) for flow in flows.__all__),
    Deployment("nightly", "pipeline", _NIGHTLY),
)
"""Each flow on demand, and the pipeline every night."""


def register_deployments(experiment: Experiment, folder: Path) -> None:
    """Register the flows at the server of PREFECT_API_URL, or bring them up to date.

    Parameters
    ----------
    experiment
        What a run's form shows at first, and what the nightly run does.
    folder
        Where runs start: relative paths of a form are relative to it.
    """
    with get_client(sync_client=True) as client:
        with suppress(ObjectAlreadyExists):
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
        for deployment in DEPLOYMENTS:
            _register(client, deployment, experiment, folder)


def _register(
    client: SyncPrefectClient, deployment: Deployment, experiment: Experiment, folder: Path
) -> None:
    flow: Flow[[Experiment], object] = getattr(flows, deployment.flow)
    client.create_deployment(
        flow_id=client.create_flow(flow),
        name=deployment.name,
        description=flow.description,
        entrypoint=deployment.entrypoint,
        work_pool_name=POOL,
        pull_steps=[
            {"prefect.deployments.steps.set_working_directory": {"directory": str(folder)}}
        ],
        parameters={"experiment": experiment.model_dump(mode="json")},
        parameter_openapi_schema=parameter_schema(flow).model_dump_for_openapi(),
        enforce_parameter_schema=True,
        schedules=_schedules(client, deployment, flow.name),
        # Nights that were missed are not made up for one after the other.
        concurrency_limit=1 if deployment.cron else None,
        concurrency_options=ConcurrencyOptions(
            collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW
        ),
    )


def _schedules(
    client: SyncPrefectClient, deployment: Deployment, flow: str
) -> list[DeploymentScheduleCreate]:
    """Return the schedule, off at first and then as it was left in the UI."""
    if deployment.cron is None:
        return []
    try:
        before = client.read_deployment_by_name(f"{flow}/{deployment.name}").schedules
    except ObjectNotFound:
        before = []
    return [
        DeploymentScheduleCreate(
            schedule=CronSchedule(cron=deployment.cron),
            active=any(schedule.active for schedule in before),
        )
    ]
