"""Operations are tested with the commands that operators use, too."""

from tests.cli.conftest import command, zygotes  # noqa: F401
