# /// script
# requires-python = ">=3.11"
# dependencies = ["orchestrator-free"]
# [tool.uv.sources]
# orchestrator-free = { path = "..", editable = true }
# ///
"""Concierge: answers a customer, with the help of others.

It lets `orders` do what needs the order, asks for approval of a refund, and hands the customer to a person when nobody
could approve it in time. It works without a model: rules in the place of one.
"""

import asyncio
import os
import re

from orchestrator_free import Agent, Run

agent = Agent("concierge", overlap="queue")
PACE_SECONDS = float(os.environ.get("ORCHESTRATOR_FREE_PACE_MS", "12")) / 1000
#: who may approve a refund, for how long, and which person takes over when that has passed
APPROVERS = os.environ.get("SUPPORT_APPROVERS", "lee").split(",")
APPROVAL_SECONDS = float(os.environ.get("SUPPORT_APPROVAL_SECONDS", "60"))
DESK = os.environ.get("SUPPORT_DESK", "dana")
POLICY = """You may return what you bought within thirty days. Please keep the box and the receipt. We check what comes
back within five working days, and pay the money back the way you paid. Machines have to be emptied and dry. Filters,
cups and opened coffee cannot be returned. What arrives broken is another matter: tell me, and I see to it at once."""


async def say(run: Run, text: str) -> None:
    """Write word by word."""
    for word in re.findall(r"\S+\s*", text):
        await run.text(word)
        await asyncio.sleep(PACE_SECONDS)


async def order_of(run: Run) -> str:
    """Return the number of the order that this conversation is about."""
    said = [run.input.text] + [turn["text"] for turn in reversed(await run.history())]
    numbers = [number for text in said for number in re.findall(r"\d{3,}", text)]
    return numbers[0] if numbers else ""


async def refund(run: Run) -> None:
    """Ask whoever may approve; pay, or hand over."""
    number = await order_of(run)
    order = await (await run.delegate("orders", f"order {number}")).result(timeout=60)
    if order["status"] != "done":
        await say(run, f"I cannot find your order: {order['error']}.")
        return
    await say(run, "I am sorry that it arrived broken. One moment: a colleague has to approve the refund. ")
    decision = await run.approve(
        f"Refund order {number}?", data={"order": number}, to=APPROVERS, seconds=APPROVAL_SECONDS
    )
    if decision.status == "expired":
        await say(run, f"Nobody could approve it in time, so {DESK} takes over from here and knows what we said.")
        await run.hand_off(DESK, f"refund of order {number}: nobody approved it in time")
    elif decision.value == "approve":
        paid = await (await run.delegate("orders", f"order {number}", data={"refund": decision.by})).result(timeout=60)
        await say(run, "".join(part["text"] for part in paid["parts"] if part["type"] == "text"))
    else:
        await say(run, "The refund was not approved. I am happy to send you a replacement instead.")


@agent
async def serve(run: Run) -> None:
    """Answer what the customer says."""
    text = run.input.text.lower()
    if "broken" in text or "refund" in text:
        await refund(run)
    elif "policy" in text:
        await say(run, POLICY)
    elif re.search(r"\d{3,}", text):
        child = await run.delegate("orders", run.input.text)
        found = await child.result(timeout=60)
        if found["status"] == "done":
            await say(
                run, "I looked it up. " + "".join(part["text"] for part in found["parts"] if part["type"] == "text")
            )
        else:
            await say(run, f"I could not look it up: {found['error']}")
    else:
        receipt = await run.session.state.get("refund")
        done = f" Your refund is on its way, receipt {receipt.value['receipt']}." if receipt else ""
        await say(run, f"You are welcome.{done} Is there anything else?")


if __name__ == "__main__":
    agent.main()
