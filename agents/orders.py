# /// script
# requires-python = ">=3.11"
# dependencies = ["orchestrator-free"]
# [tool.uv.sources]
# orchestrator-free = { path = "..", editable = true }
# ///
"""Orders: looks up orders and pays refunds. Other agents ask it; what it does stands in the session as tool calls.

The orders are a small table in this file; put your own system in the place of `find` and `pay`.
"""

import asyncio
import os
import re
from typing import Any

from orchestrator_free import Agent, Run, RunError

agent = Agent("orders", overlap="queue")
PACE_SECONDS = float(os.environ.get("ORCHESTRATOR_FREE_PACE_MS", "12")) / 1000
ORDERS: dict[str, dict[str, Any]] = {
    "1042": {"order": "1042", "item": "espresso machine", "price": 129.0, "status": "delivered", "day": "Tuesday"},
    "1043": {"order": "1043", "item": "coffee grinder", "price": 59.0, "status": "on its way", "day": "Friday"},
}


def find(text: str) -> dict[str, Any]:
    """Return the order that a text names."""
    for number in re.findall(r"\d{3,}", text):
        if number in ORDERS:
            return ORDERS[number]
    raise RunError("no order of that number; ask the customer for the number on the receipt")


def pay(order: dict[str, Any], approved: list[str]) -> dict[str, Any]:
    """Pay a refund."""
    return {
        "order": order["order"],
        "refunded": order["price"],
        "receipt": f"R-{order['order']}",
        "approved_by": approved,
    }


@agent
async def serve(run: Run) -> None:
    """Look up an order; with `{"refund": [who approved]}` as data, pay it back."""
    async with run.tool("find_order", {"text": run.input.text}) as call:
        await asyncio.sleep(PACE_SECONDS * 20)
        call.output = order = find(run.input.text)
    await run.data("order", order, id=order["order"])
    told = run.input.whisper and "refund" in run.input.text  # by a person at the desk
    approved = [run.input.sender] if told else (run.input.data or {}).get("refund")
    if approved is None:
        await run.text(f"Order {order['order']}: {order['item']}, {order['status']}, {order['day']}.")
        return
    async with run.tool("pay_refund", {"order": order["order"], "amount": order["price"]}) as call:
        await asyncio.sleep(PACE_SECONDS * 20)
        call.output = receipt = pay(order, approved)
    await run.session.state.set("refund", receipt)
    await run.text(f"Refunded {order['price']:.2f} for order {order['order']}, receipt {receipt['receipt']}.")


if __name__ == "__main__":
    agent.main()
