"""Operations are tested with the commands that operators use, and with a gateway that asks for tokens."""

from tests.cli.conftest import command, zygotes  # noqa: F401
from tests.gateway.identity import guard, token  # noqa: F401
from tests.test_permissions import place  # noqa: F401
