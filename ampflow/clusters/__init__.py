"""Clusters: profiles, job scripts, the queue, and fleets of jobs that are kept at strength."""
