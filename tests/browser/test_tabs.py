"""The TypeScript client in tabs of a real browser: one feed for all of them, and what was said offline is kept."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator_free import Broker

OPEN = """async ([id]) => {
  const { Session } = await import("/client/index.js");
  window.session = new Session({ session: id, backoff: { base: 100, most: 400 } });
  await window.session.open();
}"""
TEXT = "window.session.view?.agents[0]?.runs.at(-1)?.parts.at(-1)?.text"
SECONDS = 60_000


async def feeds(url: str) -> int:
    """How many feeds the gateway serves."""
    async with httpx.AsyncClient(base_url=url) as http:
        found = re.search(
            r"^orchestrator_free_gateway_clients ([0-9.]+)$", (await http.get("/metrics")).text, re.MULTILINE
        )
    assert found
    return int(float(found[1]))


async def enter(context: Any, house: Any, session: str) -> Any:
    """Open the session in a new tab."""
    tab = await context.new_page()
    await tab.goto(f"{house.url}/healthz")  # a page without a policy of its own
    await tab.evaluate(OPEN, [session])
    return tab


async def test_eight_tabs_share_one_feed_and_survive_their_leader_and_the_gateway(
    house: Any, browser: Any, ann: Broker, programs: Any, fresh: Callable[[str], str]
) -> None:
    """More tabs than a browser opens connections to one host."""
    name, agent = fresh("tabs"), fresh("agent")
    programs.agent(agent, "for number in range(50):\n    await run.text(f'{number} ')\n    await asyncio.sleep(0.03)")
    await ann.session(name).create(agents=[agent])
    whole = "".join(f"{number} " for number in range(50))
    context = await browser.new_context()
    tabs = [await enter(context, house, name) for _ in range(8)]
    assert await feeds(house.url) == 1

    await tabs[5].evaluate("window.session.send('one')")
    for tab in tabs:
        await tab.wait_for_function(f"{TEXT}?.startsWith('0 1 ')", timeout=SECONDS)
    await tabs.pop(0).close()  # the leader
    for tab in tabs:
        await tab.wait_for_function(f"{TEXT} === {whole!r} && window.session.status === 'live'", timeout=SECONDS)
    assert await feeds(house.url) == 1

    house.kill()
    for tab in tabs:
        await tab.wait_for_function("window.session.status === 'offline'", timeout=SECONDS)
    await tabs[0].evaluate("void window.session.send('two')")
    await tabs[0].evaluate("void window.session.send('three')")
    await tabs.pop(0).close()  # before anything could be sent
    await house.start()
    tabs.append(await enter(context, house, name))
    for tab in tabs:
        await tab.wait_for_function("window.session.view.inputs.length === 3", timeout=SECONDS)
        assert await tab.evaluate("window.session.view.inputs.map((input) => input.text)") == ["one", "two", "three"]
    assert await feeds(house.url) == 1
    views = [await tab.evaluate("JSON.stringify(window.session.view.inputs)") for tab in tabs]
    assert len(set(views)) == 1
