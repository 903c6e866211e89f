"""What every payload shares."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[float, Field(allow_inf_nan=False)]


class Payload(BaseModel):
    """A payload: fields that are not known pass untouched."""

    model_config = ConfigDict(extra="allow")


class InputRef(BaseModel):
    """Points to an input."""

    sender: str = Field(alias="from")
    input: str


class RunRef(BaseModel):
    """Points to a run of another agent."""

    agent: str
    run: str
