"""The console in a real browser, over a real gateway that is killed, with agents as processes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from orchestrator_free.events import encode
from orchestrator_free.subjects import address

if TYPE_CHECKING:
    from orchestrator_free.broker import Broker

#: says numbers until it is told to stop, by a value of the session's state
COUNTING = """
    for number in range(2000):
        await run.text(f"{number} ")
        await asyncio.sleep(0.02)
        if number % 10 == 0 and await run.session.state.get("enough"):
            break
    await run.text("that is all")
"""
NUMBERS = "() => [...document.querySelectorAll('article.card .parts .text')].map((one) => one.textContent).join('')"


async def _whole(text: str) -> list[int]:
    """The numbers of an answer; they are all there and in order."""
    numbers = [int(word) for word in text.replace("that is all", "").split()]
    assert numbers == list(range(len(numbers)))
    return numbers


async def _said(page: Any, number: int) -> None:
    """Wait until an answer has come to a number."""
    await page.until(f"() => ({NUMBERS})().includes(' {number} ')")


async def _talk(page: Any, text: str) -> None:
    await page.page.get_by_label("Write a message").fill(text)
    await page.page.keyboard.press("Enter")


async def test_two_pages_stay_in_step_through_the_death_of_the_gateway_and_a_reload(
    console: Any, house: Any, programs: Any, ann: Broker, fresh: Any
) -> None:
    """While an answer streams: what was sent on one is on both, nothing is lost or doubled, and both end the same."""
    session = ann.session(fresh("sync"))
    await session.create(title="In step", agents=["counter"])
    programs.agent("counter", COUNTING)
    async with console(session.id, "ann") as one, console(session.id, "bob") as two:
        await _talk(one, "count, please")
        await two.page.get_by_text("count, please").first.wait_for()
        await asyncio.gather(_said(one, 20), _said(two, 20))
        house.kill()
        for page in (one, two):
            await page.until("() => document.querySelector('.connection').dataset.status === 'offline'")
        await house.start()
        for page in (one, two):
            await page.until("() => document.querySelector('.connection').dataset.status === 'live'")
        at = len((await one.page.evaluate(NUMBERS)).split())
        await asyncio.gather(_said(one, at + 20), _said(two, at + 20))
        await two.page.reload()
        await _said(two, at + 40)
        await session.state.set("enough", True)
        for page in (one, two):
            await page.page.locator("article.card[data-state=done]").wait_for()
        texts = [await page.page.evaluate(NUMBERS) for page in (one, two)]
        assert texts[0] == texts[1]
        assert len(await _whole(texts[0])) > at + 40


async def test_a_cancel_on_one_page_stops_the_answer_on_both(
    console: Any, programs: Any, ann: Broker, fresh: Any
) -> None:
    """The other page shows it as cancelled, with the same text."""
    session = ann.session(fresh("stop"))
    await session.create(agents=["counter"])
    programs.agent("counter", COUNTING)
    async with console(session.id, "ann") as one, console(session.id, "bob") as two:
        await _talk(one, "count")
        await asyncio.gather(_said(one, 5), _said(two, 5))
        await two.page.get_by_role("button", name="Cancel counter", exact=True).click()
        for page in (one, two):
            await page.page.locator("article.card[data-state=cancelled]").wait_for()
        await one.until(f"(was) => ({NUMBERS})() === was[0]", await two.page.evaluate(NUMBERS))
        view = await session.view()
    assert view["controls"][0]["from"] == "bob"


async def test_steers_pauses_and_redirects_go_to_the_run_at_work(
    console: Any, programs: Any, ann: Broker, fresh: Any
) -> None:
    """From its card: a steer is applied, a paused run stands still until it is resumed, a redirect ends it."""
    session = ann.session(fresh("steer"))
    await session.create(agents=["counter"])
    programs.agent(
        "counter",
        """
        for number in range(2000):
            await run.text(f"{number} ")
            await asyncio.sleep(0.02)
            for steer in await run.steers():
                await run.text(f"ok: {steer.text} ")
        """,
    )
    async with console(session.id, "bob") as one:
        page = one.page
        await _talk(one, "count")
        await _said(one, 5)
        await page.get_by_role("button", name="Steer counter").click()
        await page.get_by_label("Steer: what should it take into account?").fill("by twos")
        await page.keyboard.press("Enter")
        await page.get_by_text("ok: by twos").wait_for()
        await page.get_by_role("button", name="Pause counter").click()
        await page.get_by_role("button", name="Resume counter").wait_for()
        await page.locator("#panel details", has_text="Decisions").locator("summary").click()
        await page.locator("#panel").get_by_text("counter: applied").nth(1).wait_for()
        at = len((await page.evaluate(NUMBERS)).split())
        await page.get_by_role("button", name="Resume counter").click()
        await one.until(f"(was) => ({NUMBERS})().split(' ').length > was[0] + 10", at)
        await page.get_by_role("button", name="Redirect counter").click()
        await page.get_by_label("Redirect: what should it do instead?").fill("again")
        await page.keyboard.press("Enter")
        await page.locator("article.card[data-state=cancelled]").wait_for()
        await one.until("() => document.querySelectorAll('article.card').length === 2")


async def test_a_long_session_opens_at_its_end_and_shows_more_when_asked(console: Any, ann: Broker, fresh: Any) -> None:
    """Two thousand runs of five parts: only the last are on the page, in both layouts, and the timeline covers all."""
    session = ann.session(fresh("long"))
    names = ["ada", "bob", "cyd", "dan"]
    await session.create(title="Long", agents=names)
    several = asyncio.Semaphore(50)

    async def turn(number: int) -> None:
        async with several:
            sent = await session.send(f"Question {number}", to="all")
            body = {"input": f"ann/{sent.input}", "attempt": 1}
            parts = [{"type": "text", "part": str(part), "text": f"Answer {number}.{part}"} for part in range(5)]
            end = {"type": "run.finished", "status": "done", "parts": parts, "attempts": [], **body}
            for name in names:
                where = str(address(ann.log.shard(session.id), session.id, name, "run", id=sent.run))
                await ann.log.wire.publish(where, encode({"type": "run.started", **body}))
                await ann.log.wire.publish(where, encode(end), rollup=True)

    await asyncio.gather(*(turn(number) for number in range(500)))
    async with console(session.id, "eve", viewport={"width": 1600, "height": 900}) as one:
        page = one.page
        cards = page.locator("article.card")
        await cards.first.wait_for()
        assert await cards.count() == 120
        await page.get_by_role("button", name="Show 30 earlier messages of 470").click()
        await one.until("() => document.querySelectorAll('article.card').length === 240")
        await page.keyboard.press("l")
        await one.until("() => document.querySelectorAll('section.column').length === 5")
        assert await cards.count() == 80
        await page.keyboard.press("t")
        await one.until("() => Number(document.querySelector('#replay input').max) >= 2501")
        await page.keyboard.press("Home")
        await one.until("() => document.querySelectorAll('article.card').length === 0")
        await page.keyboard.press("End")
        await one.until("() => document.querySelectorAll('article.card').length === 80")


async def test_of_a_very_long_answer_the_end_is_shown_and_the_rest_when_asked(
    console: Any, ann: Broker, fresh: Any
) -> None:
    """A book of a megabyte, still being written: a page of few nodes, which goes on; all of it is one click away."""
    session = ann.session(fresh("book"))
    await session.create(agents=["ada"])
    sent = await session.send("Write a book", to="ada")
    where = str(address(session.shard, session.id, "ada", "run", id=sent.run))
    await ann.log.wire.publish(where, encode({"type": "run.started", "attempt": 1, "input": f"ann/{sent.input}"}))
    for number in range(10):
        text = "".join(f"Page {number}.{line} {'of **words** ' * 10}\n\n" for line in range(700))
        await ann.log.wire.publish(where, encode({"type": "text.delta", "part": "1", "text": text}))
    async with console(session.id, "eve") as one:
        text = one.page.locator("article.card .part.text")
        await text.get_by_text("Page 9.699").wait_for()
        assert await text.locator("*").count() < 20_000
        assert await text.get_by_text("Page 0.0 ").count() == 0
        await ann.log.wire.publish(where, encode({"type": "text.delta", "part": "1", "text": "The end."}))
        await text.get_by_text("The end.").wait_for()
        await text.get_by_role("button", name="characters before").click()
        await text.get_by_text("Page 0.0 ").wait_for()
        await ann.log.wire.publish(where, encode({"type": "text.delta", "part": "1", "text": " Really."}))
        await text.get_by_text("The end. Really.").wait_for()


async def test_a_person_takes_over_and_hands_back(console: Any, programs: Any, ann: Broker, fresh: Any) -> None:
    """An agent asks for a person; the person accepts, writes to the customer, whispers, and gives the floor back."""
    session = ann.session(fresh("floor"))
    await session.create(title="Refund", agents=["clerk"])
    programs.agent(
        "clerk",
        """
        if "person" in run.input.text:
            await run.session.floor.take()
            await run.session.floor.request("desk", reason="beyond me")
        await run.text("I heard: " + run.input.text)
        """,
    )
    async with console(session.id, "casey") as customer, console(session.id, "dana") as dana:
        await _talk(customer, "I want a person")
        needs = dana.page.locator(".section.needs")
        await needs.get_by_text("beyond me").wait_for()
        await needs.get_by_role("button", name="Accept").click()
        await dana.page.get_by_text("You have the floor", exact=True).wait_for()
        await customer.page.locator("#panel").get_by_text("dana has the floor").wait_for()
        await dana.page.get_by_label("How").select_option("note")
        await dana.page.get_by_label("Write to the customer; no agent answers").fill("Hello, a person here")
        await dana.page.keyboard.press("Enter")
        await customer.page.locator(".said[data-note=true]").get_by_text("Hello, a person here").wait_for()
        await dana.page.get_by_role("button", name="Brief").click()
        await dana.page.get_by_role("dialog").get_by_text("I want a person").first.wait_for()
        await dana.page.keyboard.press("Escape")
        await dana.page.get_by_role("button", name="Hand back").click()
        await dana.page.locator("#panel").get_by_text("clerk has the floor").wait_for()
        await _talk(customer, "Thank you")
        await customer.page.get_by_text("I heard: Thank you").wait_for()
        history = [step["step"] for step in (await session.view())["floor"]["history"]]
    assert history == ["take", "request", "accept", "return"]


async def test_approvals_and_questions_are_answered_where_they_stand(
    console: Any, programs: Any, ann: Broker, fresh: Any
) -> None:
    """Approve by a button, a question by a field; the run goes on with what was said."""
    session = ann.session(fresh("ask"))
    await session.create(agents=["clerk"])
    programs.agent(
        "clerk",
        """
        yes = await run.approve("Refund 40?", to=["dana"], seconds=600)
        color = await run.ask("Which colour?", to=["dana"], seconds=600)
        await run.text(f"{bool(yes)} {color.value}")
        """,
    )
    async with console(session.id, "dana") as dana, console(session.id, "eve") as eve:
        await _talk(dana, "go")
        await eve.page.locator(".card .ask").get_by_text("not for eve").wait_for()
        assert await eve.page.get_by_role("button", name="Approve").count() == 0
        await dana.page.locator(".card .ask").get_by_role("button", name="Approve").click()
        field = dana.page.locator(".section.needs").get_by_label("Answer to: Which colour?")
        await field.fill("green")
        await field.press("Enter")
        await eve.page.get_by_text("True green").wait_for()
        await dana.page.locator(".section.needs").wait_for(state="hidden")


async def test_other_versions_of_what_was_said_can_be_shown(
    console: Any, programs: Any, ann: Broker, fresh: Any
) -> None:
    """An edited message is one of two; who goes back sees the first answer, and so does everybody else."""
    session = ann.session(fresh("branch"))
    await session.create(agents=["echo"])
    programs.agent("echo", 'await run.text("heard " + run.input.text)')
    sent = await session.send("first", to="echo")
    await session.result("echo", sent.run, timeout=40)
    edited = await session.branches.edit(sent.input, "better")
    await session.result("echo", edited.run, timeout=40)
    async with console(session.id, "ann") as one, console(session.id, "bob") as two:
        for page in (one, two):
            await page.page.get_by_text("heard better").wait_for()
            assert await page.page.get_by_text("heard first").count() == 0
        await one.page.get_by_role("button", name="Earlier version").click()
        for page in (one, two):
            await page.page.get_by_text("heard first").wait_for()
            await page.page.get_by_text("1 of 2").wait_for()
            assert await page.page.get_by_text("heard better").count() == 0


HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>[go](javascript:alert(3)) **bold** <b>tag</b>"


async def test_hostile_content_is_shown_as_text(
    console: Any, house: Any, programs: Any, ann: Broker, fresh: Any
) -> None:
    """Titles, messages, answers, tools, sources, files, data, state: no node and no script comes from them."""
    session = ann.session(fresh("xss"))
    await session.create(title=HOSTILE, agents=["bad"])
    await session.state.set("note", {"html": HOSTILE})
    programs.agent(
        "bad",
        f"""
        text = {HOSTILE!r}
        await run.reasoning(text)
        async with run.tool(text, {{"x": text}}) as call:
            call.output = text
        await run.source("javascript:alert(4)", title=text)
        await run.source("https://example.org/ok", title="fine")
        await run.data("name", {{"y": text}})
        await run.file(text, b"<script>alert(5)</script>", media_type="text/html")
        await run.text("# " + text + "\\n\\n```\\n" + text + "\\n```\\n\\n- " + text)
        for sign in ("`", "*", "[", " "):
            await run.text("\\n\\n" + 5000 * sign + "x")
        await run.notice(text)
        """,
    )
    async with console(session.id) as one:
        await _talk(one, HOSTILE)
        await one.page.locator("article.card[data-state=done]").wait_for()
        for summary in await one.page.locator("article.card .part > summary").all():
            await summary.click()
        await one.page.locator(".part.tool .code").first.get_by_text("onerror").wait_for()
        assert await one.page.locator("#app img, #app script, #app iframe, #app b").count() == 0
        links = await one.page.locator("#transcript a").evaluate_all("(all) => all.map((one) => one.href)")
        assert "https://example.org/ok" in links
        assert all(link.startswith(("https://example.org/", house.url)) for link in links)
        assert await one.page.locator("#transcript strong", has_text="bold").count() > 0
        assert HOSTILE in await one.page.title()
        objects = [link for link in links if "/objects/" in link]
        head = await one.page.request.get(objects[0])
        assert head.headers["content-type"] == "application/octet-stream"


async def test_whatever_runs_claim_as_their_parents_all_of_them_can_be_seen(
    console: Any, ann: Broker, fresh: Any
) -> None:
    """Its own parent, each other's, and three thousand one below the other: nothing is hidden, the page stands."""
    session = ann.session(fresh("kin"))
    await session.create(agents=["a"])

    async def begin(run: str, parent: str) -> None:
        where = str(address(session.shard, session.id, "a", "run", id=run))
        claims = {"attempt": 1, "input": f"a/{run}", "parent": {"agent": "a", "run": parent}}
        await ann.log.wire.publish(where, encode({"type": "run.started", **claims}))
        await ann.log.wire.publish(where, encode({"type": "text.delta", "part": "1", "text": f"I am {run}."}))

    for first in range(0, 3000, 500):
        await asyncio.gather(*(begin(f"deep{number}", f"deep{number - 1}") for number in range(first, first + 500)))
    for run, parent in (("own", "own"), ("one", "other"), ("other", "one")):
        await begin(run, parent)
    async with console(session.id, "eve") as one:
        for run in ("own", "one", "other", "deep2999"):
            await one.page.get_by_text(f"I am {run}.").first.wait_for()


async def test_the_timeline_shows_the_past_and_comes_back(console: Any, programs: Any, ann: Broker, fresh: Any) -> None:
    """From any position: the beginning has nothing, the middle the first answer only; what is live comes back."""
    session = ann.session(fresh("past"))
    await session.create(agents=["echo"])
    programs.agent(
        "echo", 'await run.text("heard " + run.input.text)\nawait run.session.state.set("last", run.input.text)'
    )
    for word in ("first", "second"):
        sent = await session.send(word, to="echo")
        await session.result("echo", sent.run, timeout=40)
    async with console(session.id) as one:
        page = one.page
        await page.get_by_text("heard second").wait_for()
        await page.keyboard.press("t")
        slider = page.get_by_label("Position in the log")
        await one.until("() => Number(document.querySelector('#replay input').max) > 4")
        await slider.focus()
        await page.keyboard.press("Home")
        await one.until("() => !document.querySelector('article.card') && document.body.classList.contains('past')")
        await page.get_by_role("button", name="Take over").wait_for(state="detached")
        while not await page.get_by_text("heard first").count():
            await page.keyboard.press("ArrowRight")
            await page.wait_for_timeout(60)
        assert await page.get_by_text("heard second").count() == 0
        sent = await session.send("third", to="echo")
        await session.result("echo", sent.run, timeout=40)
        await page.get_by_role("button", name="Play").click()
        await page.get_by_text("heard second").wait_for()
        assert await page.get_by_text("heard third").count() == 0
        await page.get_by_role("button", name="Back to live").click()
        await page.get_by_text("heard third").wait_for()
        assert not await page.evaluate("document.body.classList.contains('past')")


async def test_sessions_are_begun_and_ended_and_members_chosen(console: Any, ann: Broker, fresh: Any) -> None:
    """A new session by its dialog; in another name; one that is unknown, and one that is deleted meanwhile."""
    title = fresh("New")
    async with console(None) as one:
        page = one.page
        await page.get_by_role("button", name="New session").click()
        await page.get_by_label("Title").fill(title)
        await page.get_by_label("Agents").fill("ada, bob")
        await page.keyboard.press("Enter")
        await page.get_by_role("heading", name=title).wait_for()
        await page.get_by_role("button", name="You are ann. Change").click()
        await page.get_by_label("Member", exact=True).fill("zoe")
        await page.keyboard.press("Enter")
        await page.get_by_text("zoe (you)").wait_for()
        await one.until("() => document.querySelector('.connection')?.dataset.status === 'live'")
        await page.get_by_label("To whom").select_option("bob")
        await _talk(one, "for you")
        await page.get_by_text("waits for bob").wait_for()
        session = (await page.evaluate("location.hash")).rpartition("/")[2]
        view = await ann.session(session).view()
        assert [(entry["from"], entry["to"]) for entry in view["inputs"]] == [("zoe", "bob")]
        assert view["meta"]["agents"] == ["ada", "bob"]
        await ann.session(session).delete()
        await page.get_by_text("This session was deleted.").wait_for()
    unknown = fresh("unknown")
    async with console(None) as one:
        await one.page.evaluate(f"location.hash = '#/s/{unknown}'")
        await one.page.get_by_text(f"There is no session {unknown}.").wait_for()
        one.faults.clear()  # the browser says that a request had a 404


async def test_all_can_be_done_by_keyboard(console: Any, programs: Any, ann: Broker, fresh: Any) -> None:
    """Find and open a session, write, cancel, read the help: without a pointer, and with the focus to be seen."""
    session = ann.session(fresh("keys"))
    title = fresh("Keyboard")
    await session.create(title=title, agents=["counter"])
    programs.agent("counter", COUNTING)
    async with console(None) as one:
        keys = one.page.keyboard
        await one.page.locator("#sessions a.row").first.wait_for()
        await keys.press("/")
        await keys.type(title)
        await keys.press("Enter")
        await one.page.get_by_role("heading", name=title).wait_for()
        await one.until("() => document.querySelector('.connection')?.dataset.status === 'live'")
        await keys.press("Escape")
        await keys.press("n")
        await keys.type("count")
        await keys.press("Enter")
        await _said(one, 3)
        await keys.press("Escape")
        await keys.press("x")
        await one.page.locator("article.card[data-state=cancelled]").wait_for()
        await keys.press("?")
        await one.page.get_by_role("dialog", name="Keys").wait_for()
        await keys.press("Escape")
        seen = set()
        for _ in range(25):
            await keys.press("Tab")
            focus = await one.page.evaluate(
                "() => { const at = document.activeElement, style = getComputedStyle(at);"
                " return [at.closest('nav, header, form, aside')?.id ?? '', at.tagName, style.outlineStyle !== 'none'"
                " || at.id === 'transcript' || at.tagName === 'TEXTAREA' || at.tagName === 'BODY']; }"
            )
            seen.add(focus[0])
            assert focus[2], focus
        assert {"composer", "head", "panel"} <= seen


#: every control has a name, ids are there once, and text stands out from what is behind it
AUDIT = """() => {
  const found = [];
  const rgb = (text) => { const [r, g, b, a] = text.match(/[\\d.]+/g).map(Number); return [r, g, b, a ?? 1]; };
  const light = ([r, g, b]) => { const f = (c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b); };
  const behind = (node) => { for (; node; node = node.parentElement) { const c = rgb(getComputedStyle(node).backgroundColor);
    if (c[3] > 0.99) return c; } return [255, 255, 255, 1]; };
  for (const node of document.querySelectorAll('button, a, input, select, textarea, summary')) {
    if (!node.checkVisibility()) continue;
    const name = node.getAttribute('aria-label') || node.labels?.[0]?.textContent || node.textContent;
    if (!name?.trim()) found.push(`no name: ${node.outerHTML.slice(0, 120)}`);
  }
  const walk = document.createTreeWalker(document.querySelector('#app'), NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode.parentElement;
    if (!walk.currentNode.textContent.trim() || !node.checkVisibility() || node.closest(':disabled, option')) continue;
    const [one, other] = [light(rgb(getComputedStyle(node).color)), light(behind(node))];
    const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (ratio < 4.5) found.push(`contrast ${ratio.toFixed(2)}: ${node.className} ${node.textContent.slice(0, 40)}`);
  }
  const ids = [...document.querySelectorAll('[id]')].map((one) => one.id);
  if (new Set(ids).size !== ids.length) found.push('an id is there twice');
  for (const landmark of ['nav', 'main', 'aside']) if (!document.querySelector(`${landmark}[aria-label]`)) found.push(landmark);
  if (!document.documentElement.lang) found.push('no language');
  if (document.documentElement.scrollWidth > innerWidth) found.push('wider than the screen');
  return found;
}"""


async def test_names_contrast_and_width_hold_in_light_dark_and_on_a_phone(
    console: Any, programs: Any, ann: Broker, fresh: Any
) -> None:
    """With an ask, tools, state and an answer on the page."""
    session = ann.session(fresh("audit"))
    await session.create(title="Audit", agents=["clerk"])
    await session.state.set("plan", {"step": 1})
    programs.agent(
        "clerk",
        """
        await run.reasoning("hm")
        async with run.tool("search", {"q": "x"}) as call:
            call.output = {"found": 1}
        await run.text("**Found** it, see `code`.")
        await run.approve("Go on?", seconds=600)
        """,
    )
    await session.send("go", to="clerk")
    phone = {"viewport": {"width": 390, "height": 844}}
    for options in ({"color_scheme": "light"}, {"color_scheme": "dark"}, phone):
        async with console(session.id, "dana", reduced_motion="reduce", **options) as one:
            await one.page.locator(".card .ask").wait_for()
            assert await one.page.evaluate(AUDIT) == []
            if options is phone:
                await one.page.get_by_role("button", name="Details").click()
                await one.page.get_by_role("heading", name="State").wait_for()
                assert await one.page.evaluate(AUDIT) == []
                await one.page.get_by_role("button", name="Sessions").click()
                await one.page.get_by_label("Search sessions").wait_for()
            else:
                await one.page.get_by_role("button", name="Light or dark").click()
                assert await one.page.evaluate(AUDIT) == []
