"""The files of `broker/`, rendered from the contract: `make contract` writes them.

Everything but `write` is pure, and a test compares what is committed with what is rendered here.
"""

from orchestrator_free.contract_files.asyncapi import asyncapi
from orchestrator_free.contract_files.configuration import (
    COMMAND,
    User,
    accounts_block,
    accounts_conf,
    nats_server_conf,
    permissions_conf,
)
from orchestrator_free.contract_files.folder import files, main, write
from orchestrator_free.contract_files.schemas import schemas, type_of
from orchestrator_free.contract_files.tables import with_tables
from orchestrator_free.contract_files.yaml import to_yaml

__all__ = (
    "COMMAND",
    "User",
    "accounts_block",
    "accounts_conf",
    "asyncapi",
    "files",
    "main",
    "nats_server_conf",
    "permissions_conf",
    "schemas",
    "to_yaml",
    "type_of",
    "with_tables",
    "write",
)
