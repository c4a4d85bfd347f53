"""Alertmanager's webhook payload, version 4.

Owns what of it is read: each alert's status and labels. The group's status is wrong for decisions
(with a silenced sibling it says resolved while an alert still fires), so it is not read at all.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, FailFast


class Alert(BaseModel):
    """One alert of the group."""

    model_config = ConfigDict(frozen=True)

    status: Literal["firing", "resolved"]
    labels: dict[str, str]


class Payload(BaseModel):
    """What is posted; fields that newer versions add are ignored."""

    model_config = ConfigDict(frozen=True)

    version: Literal["4"]
    # A megabyte of faults would take seconds to tell: the first one will do.
    alerts: Annotated[tuple[Alert, ...], FailFast()]
