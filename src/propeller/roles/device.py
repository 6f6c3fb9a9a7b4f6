"""A proplet as a process of its own, on this machine or on a device."""

from propeller.proplet.app import run_proplet
from propeller.roles.process import run_role
from propeller.roles.proplet import of_device
from propeller.roles.settings import Told, level_of


def run_device(told: Told) -> None:
    """Run one proplet until told to stop; its log goes to stderr."""
    settings = of_device(told)
    level = level_of(told.layers("proplet"), "PROPLET_LOG_LEVEL")
    run_role("proplet", level, lambda: run_proplet(settings))
