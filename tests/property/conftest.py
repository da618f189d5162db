"""How many examples Hypothesis tries: few enough for every commit, more with FEDKUBE_EXAMPLES."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "fedkube",
    deadline=None,  # a slow machine is no defect
    max_examples=int(os.environ.get("FEDKUBE_EXAMPLES", "60")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("fedkube")
