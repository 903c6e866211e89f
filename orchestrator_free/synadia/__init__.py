"""The Synadia Agent Protocol 0.3 in front of sessions, and its agents inside of them.

The protocol (github.com/synadia-ai/synadia-agent-sdk-docs, core-protocol.md) is prompts and answers over core NATS:
what is sent while somebody is away is lost. Behind `FrontDoor` a prompt is an input of a durable session, and its
answer is told from the log. `Guest` is the other direction: a discovered agent takes part in sessions as a member.
"""

from orchestrator_free.synadia.door import DoorSettings, FrontDoor
from orchestrator_free.synadia.guest import Guest

__all__ = ("DoorSettings", "FrontDoor", "Guest")
