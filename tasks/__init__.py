"""Prefect tasks: one a step, each a cache policy, retries and artifacts around one call."""
