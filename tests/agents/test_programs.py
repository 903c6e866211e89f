"""All shipped programs: what hostile documents do to them, and that they work as processes with a real broker."""

from __future__ import annotations

import asyncio
import json
import re
import time
from datetime import datetime, timedelta

import pytest

MEGABYTE = 1_000_000
OFFLINE = ["outliner", "checker", "critic"]


def filled(text, size=MEGABYTE):
    return (text * (size // len(text) + 1))[:size]


PROSE = (
    "The broker keeps every session in one ordered log, and 3 agents publish into it. Readers are told where they "
    "stand; see https://example.org/log and [the wire](#wire). It is 40 % faster, e.g. on two machines.\n"
)
HOSTILE = {
    "empty": "",
    "blank": " \n\t\r\n",
    "null bytes": filled("a\x00b. ", 5000),
    "only code": "```\n" + "x = [1](2)\n" * 500,
    "no punctuation": filled("word and more words ", 50_000),
    "one word": "x" * 50_000,
    "right to left": "هل هذا صحيح؟ نعم هذا صحيح. " * 50,
    "chinese": "我们的系统很好。它很快。" * 50,
    "crlf": "# Title\r\n\r\nSome text here. And more of it.\r\n" * 20,
    "surrogates": "half \ud800 a \udfff pair. " * 20,
    "emoji": "👩‍👩‍👧‍👦 🇩🇪 text. " * 50,
    "table": "| a | b |\n|---|---|\n" + "| 1 | 2 |\n" * 500 + "| Total | 7 |\n",
    "control characters": "".join(map(chr, range(160))) * 20,
    "line separators": "one\u2028two\u2029three\x0bfour\x0cfive. " * 50,
}
LARGE = {
    "prose": filled(PROSE),
    "prose on one line": filled(PROSE.replace("\n", " ")),
    "chinese": filled("我们的系统很好。"),
    "headings": filled("# a b\n"),
    "short paragraphs": filled("A Title\n\n"),
    "items": filled("- item with text\n"),
    "table": filled("| 1 | 2 |\n"),
    "percentages": filled("1% 200% "),
    "links": filled("[a](http://b.c/d) "),
}
PIECES = (
    *'[(<`*_|!."#:/%=- \n',
    "](",
    "[a](",
    "<a ",
    "http://",
    "1.",
    "a. ",
    '"""\n',
    "| 1 ",
    "the 3 agents ",
    "the best ",
)


def analyse(program, name, text):
    """Do what the program's handler does with a document, without a broker; return data and text."""
    module = program(name)
    data = {"document": {"name": "a.md", "text": text}}
    if name == "outliner":
        outline = module.build_outline(*module.document_of(data, None))
        return outline, module.report(outline)
    if name == "checker":
        page = module.page_of(data, None)
        found = {check: module.findings_of(page, check) for check in module.CHECKS}
        return [found, module.sources_of(page)], module.report(page, found)
    title, text = module.document_of(data, None)
    sentences = list(module.sentences_of(module.prose(text)))
    facts = module.measure(sentences)
    return facts, module.report(title, facts, sentences, None)


@pytest.mark.parametrize("name", OFFLINE)
@pytest.mark.parametrize("document", HOSTILE)
def test_a_hostile_document_gives_a_report_that_can_be_sent(program, name, document):
    data, report = analyse(program, name, HOSTILE[document])

    assert report.endswith("\n")
    assert "\x00" not in report
    report.encode()
    json.dumps(data).encode()


@pytest.mark.slow
@pytest.mark.parametrize("name", OFFLINE)
@pytest.mark.parametrize("document", LARGE)
def test_a_megabyte_takes_about_two_seconds_at_most(program, name, document):
    """Processor time, so that a busy machine does not count; the limit is for slow ones."""
    begun = time.process_time()
    _, report = analyse(program, name, LARGE[document])

    assert time.process_time() - begun < 5
    assert len(report) < 20_000


@pytest.mark.slow
@pytest.mark.parametrize("name", OFFLINE)
@pytest.mark.parametrize("piece", PIECES)
def test_no_repeated_piece_takes_quadratic_time(program, name, piece):
    """What looks ahead from every place would need many seconds for these."""
    begun = time.process_time()
    analyse(program, name, filled(piece, 200_000))

    assert time.process_time() - begun < 2


@pytest.mark.parametrize("name", [*OFFLINE, "writer"])
def test_a_program_is_one_documented_file_that_can_be_run(folder, name):
    source = (folder / f"{name}.py").read_text()

    assert re.match(r'# /// script\n# requires-python = ">=3.11"\n# dependencies = \["orchestrator-free', source)
    assert f'\n"""{name.capitalize()}: ' in source
    assert f'agent = Agent("{name}")' in source
    assert '\nif __name__ == "__main__":\n' in source
    assert not (folder / "__init__.py").exists()


# -- with a real broker -----------------------------------------------------------------------------------------------

REVIEWED = """# Plan

Our system has 3 agents. See [the wire](#wire) and https://example.org/plan.

## Agents

All four agents publish into one log. They are started by the launcher, and they are watched by the monitor. It is the
fastest design.
"""


def of_kind(run, kind):
    return [part for part in run["parts"] if part["type"] == kind]


def text_of(run):
    return "".join(part["text"] for part in of_kind(run, "text"))


async def test_three_processes_work_on_one_document(ann, fresh, programs, folder):
    for name in OFFLINE:
        programs.start(folder / f"{name}.py", ORCHESTRATOR_FREE_PACE_MS="0")
    session = ann.session(fresh("s"))
    await session.create(agents=OFFLINE)
    sent = await session.send("Read this.", to="all", data={"document": {"name": "plan.md", "text": REVIEWED}})
    outline, check, critique = await asyncio.gather(*(session.result(name, sent.run, timeout=60) for name in OFFLINE))

    assert [run["status"] for run in (outline, check, critique)] == ["done"] * 3
    (data,) = of_kind(outline, "data")
    assert [heading["title"] for heading in data["data"]["headings"]] == ["Plan", "Agents"]
    assert "- Plan · 10 words" in text_of(outline)
    assert [tool["tool"] for tool in of_kind(check, "tool")] == ["check_links", "check_numbers", "check_claims"]
    assert [part["data"]["kind"] for part in of_kind(check, "data")] == ["broken anchor", "count", "superlative"]
    assert [part["url"] for part in of_kind(check, "source")] == ["https://example.org/plan"]
    assert "Got it: sections 2" in of_kind(critique, "reasoning")[0]["text"]
    assert "### Three suggestions" in text_of(critique)


async def test_a_message_without_a_document_is_the_document(ann, fresh, programs, folder):
    programs.start(folder / "outliner.py", ORCHESTRATOR_FREE_PACE_MS="0")
    session = ann.session(fresh("s"))
    sent = await session.send("# Hi\n\nThere is a point to make here.\n", to="outliner")
    run = await session.result("outliner", sent.run, timeout=60)

    assert text_of(run).startswith("**the message**: 7 words, 1 section\n")


async def test_the_pace_is_a_pause_after_each_word(ann, fresh, programs, folder):
    """The report has 13 words; a pause of 40 ms after each takes 520 ms."""
    programs.start(folder / "outliner.py", ORCHESTRATOR_FREE_PACE_MS="40")
    session = ann.session(fresh("s"))
    sent = await session.send("# Hi\n", to="outliner")
    run = await session.result("outliner", sent.run, timeout=60)

    assert text_of(run) == "**the message**: 0 words, 1 section\n\n### Outline\n\n- Hi · 0 words\n"
    started, finished = (datetime.fromisoformat(run[name]) for name in ("started", "finished"))
    assert finished - started > timedelta(seconds=0.52)


@pytest.mark.slow
@pytest.mark.parametrize("name", OFFLINE)
async def test_a_large_document_does_not_stop_the_event_loop(ann, fresh, program, served, name):
    """Heartbeats leave this loop while a handler works: a silent replica loses its run."""
    session = ann.session(fresh("s"))
    gaps = []

    async def tick():
        while True:
            begun = time.monotonic()
            await asyncio.sleep(0.01)
            gaps.append(time.monotonic() - begun)

    async with served(program(name).agent):
        sent = await session.send(filled(PROSE, 700_000), to=name)
        ticking = asyncio.create_task(tick())
        run = await session.result(name, sent.run, timeout=100)
        ticking.cancel()

    assert run["status"] == "done"
    assert max(gaps) < 1
