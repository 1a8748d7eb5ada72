"""The option `metrics`."""

from __future__ import annotations

import pytest

from oban_sync import ConfigError
from oban_sync.core.metering import MetricsConfig, check_metrics


def test_by_default_jobs_are_counted_and_nobody_is_told():
    assert check_metrics("metrics", {}) == MetricsConfig()
    assert check_metrics("metrics", True) == MetricsConfig()
    assert not MetricsConfig().broadcast


@pytest.mark.parametrize("off", [False, "false", "0"])
def test_false_turns_it_off(off):
    assert not check_metrics("metrics", off).enabled


def test_every_option_can_be_given():
    given = {"interval": 5, "keep": 86_400, "broadcast": True, "name": "MyApp.Oban"}

    assert check_metrics("metrics", given) == MetricsConfig(True, 5.0, 86_400.0, True, "MyApp.Oban")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"interval": 7}, r"metrics.interval: 7 is not allowed; give 1, 2, 5 or 10 seconds"),
        ({"keep": 60}, r"metrics.keep: 60 is not allowed; give seconds, 3600 or more"),
        ({"broadcast": "maybe"}, "metrics.broadcast"),
        ({"name": "My App"}, "metrics.name"),
        ({"intervall": 10}, "interval"),
        (7, "metrics"),
    ],
)
def test_what_is_wrong_is_named(given, message):
    with pytest.raises(ConfigError, match=message):
        check_metrics("metrics", given)
