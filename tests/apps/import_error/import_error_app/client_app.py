"""ClientApp that needs a package nobody has."""

import a_package_that_does_not_exist  # noqa: F401
from flwr.clientapp import ClientApp

app = ClientApp()
