"""What every tier shares: e2e tests keep to one worker; in CI nothing is skipped for want of a package."""

import os
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

_REQUIRED = bool(os.environ.get("CI") or os.environ.get("PROPELLER_REQUIRE_DEBIAN"))
_MISSING = "missing Debian package"

# How fast a machine is, is never a reason to fail.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with real processes run one after another: they measure time and use fixed ports."""
    for item in items:
        if item.get_closest_marker("e2e"):
            item.add_marker(pytest.mark.xdist_group("e2e"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where packages are required, a skip that says one is missing is a failure."""
    report = yield
    if _REQUIRED and report.skipped and _MISSING in str(report.longrepr):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: {report.longrepr}; `make debian` installs it"
    return report
