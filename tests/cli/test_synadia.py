"""`orchestrator-free synadia`: the door and a guest as processes, the listing, and words for wrong use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.cli.conftest import Commands


async def test_an_agent_behind_the_door_is_listed_and_can_be_a_guest_elsewhere(
    command: Commands, programs: Any, eventually: Any
) -> None:
    """The door of one name, and a guest that goes through it: our agent, by their protocol, as a member of a session."""
    programs.agent("greeter", 'await run.text(f"Hello, {run.input.text}!")')
    door = command.start("synadia", "door", "--owner", "here")
    guest = command.start("synadia", "guest", "visitor", "greeter.here.new")
    await eventually(lambda: "answering agents.prompt.*.here.*" in door.output, 30)
    await eventually(lambda: "takes part as visitor" in guest.output, 30)

    def listed() -> bool:
        return "greeter.here.new" in [one["agent"] for one in command("synadia", "agents", "--json").json]

    await eventually(listed, 40)
    done = command("send", "s1", "Ada", "--to", "visitor", "--wait")

    assert "Hello, Ada!" in done.out
    assert done.code == 0


def test_an_address_that_is_none_is_refused(command: Commands) -> None:
    """With what an address looks like."""
    done = command("synadia", "guest", "visitor", "greeter")

    assert done.code == 2
    assert "write agent.owner.session" in done.err
