"""The option ``--cohort``: who takes part in a round, and when it is closed."""

from __future__ import annotations

from pydantic import ValidationError

from fedkube.api.v1alpha1 import Cohort
from fedkube.app import project
from fedkube.core.errors import Usage

_FIELDS = {name.replace("_", "-"): name for name in Cohort.model_fields}
HELP = (
    "Who takes part in a round, and when it is closed: 'fraction=0.5 minimum=3 over-selection=1.3 "
    "deadline-seconds=60 speculate=true late=fold', any of them. Default: as the app's strategy "
    "says."
)


def read(words: list[str], clients: int | None = None) -> Cohort:
    """The cohort that the option's words say; Usage where they say nothing that can be.

    ``clients``: of the run; None: somebody else checks whether there are enough.
    """
    given = project.parse_overrides(words)
    for key in given:
        if key not in _FIELDS:
            raise Usage(f"a cohort has no {key!r}", hint=f"it has {', '.join(_FIELDS)}")
    try:
        cohort = Cohort.model_validate({_FIELDS[key]: value for key, value in given.items()})
        if clients is not None:
            cohort.check(clients)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]).replace("_", "-")
        raise Usage(f"the cohort's {key} is {first['input']!r}: {first['msg']}") from None
    except ValueError as error:
        raise Usage(str(error)) from None
    return cohort
