# /// script
# requires-python = ">=3.11"
# dependencies = ["orchestrator-free"]
# [tool.uv.sources]
# orchestrator-free = { path = "..", editable = true }
# ///
"""Critic: how a document reads: its grade, long and passive sentences, sections out of balance, a late message.

It waits for the outliner's run of the same input and judges by that outline; where there is none it says so.
"""

import asyncio
import os
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from statistics import fmean, median
from typing import Any, NamedTuple

from orchestrator_free import Agent, Run

agent = Agent("critic")
PACE_SECONDS = float(os.environ.get("ORCHESTRATOR_FREE_PACE_MS", "12")) / 1000
WAIT_SECONDS = float(os.environ.get("ORCHESTRATOR_FREE_WAIT_SECONDS", "60"))
LONG = 30  # words; a sentence beyond that is worth splitting

BREAK = re.compile(  # the group is where a paragraph or a list item ends, the others may be the end of a sentence
    r"(\n\s*\n|\n(?=\s*(?:[-*+>]|\d{1,3}[.)])\s))|(?<=[.!?\"')*])\s+(?=[^\Wa-z_]|[\"'(*\[`])|(?<=[\u3002\uff01\uff1f؟\u06d4।])"
)
NO_END = re.compile(  # an abbreviation, or no full stop at all
    r"(?:\b(?:e\.g|i\.e|vs|cf|Dr|Mrs?|Ms|Prof|St|No|Fig|approx|[A-Z])\.|[^.!?\"')*\u3002\uff01\uff1f؟\u06d4।])[\"')*]{0,3}$"
)
MARKUP = re.compile(
    r"^\s*(?:[-*+>]|\d{1,3}[.)])\s+|\*\*|`|!?\[(?=[^\[\]]{1,300}\]\()|(?<=\])\([^()\s]{0,2000}\)|\]|https?://[^\s)>]{1,2000}"
)
CJK_PAIR = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]{1,2}")
WORD = re.compile(r"[^\W\d_]+(?:['\u2019\u0300-\u036f\u0591-\u05c7\u064b-\u0655\u0900-\u0d7f-]+[^\W_]+)*|\d[\d.,]*")
ENGLISH = re.compile(r"(?i)\b(?:the|of|and|to|an?|in|is|are|that|it|for|on|with|as|be|this|by|or|not|from|at)\b")
VOWELS = re.compile(r"[aeiouy]+")
PASSIVE = re.compile(
    r"(?i)\b(?:is|are|was|were|be|been|being)\s(?:(?:\w{2,12}ly|not|never|also|only|then)\s)?(?!indeed|hundred)(?:\w{2,20}ed|"
    r"made|done|given|taken|known|shown|seen|written|kept|held|sent|found|built|told|lost|paid|sold|brought|bought|caught|"
    r"chosen|broken|driven|drawn|hidden|thrown|meant|led|begun)\b"
)
SPLIT_AT = re.compile(r"[;:] |, (?:and|but|so|which|while|because|where|or) | (?:and|because|although|which) |, ")

EASE = ((80, "easy"), (60, "plain"), (50, "fairly difficult"), (30, "difficult"), (-1e9, "very difficult"))


class Sentence(NamedTuple):
    """A sentence, the line it begins on, its number of words, and the number of its paragraph."""

    text: str
    line: int
    words: int
    paragraph: int


class Outline(NamedTuple):
    """What the outliner found: sections (level, title, words), key sentences (score, position, line, text)."""

    sections: list[tuple[int, str, int]]
    keys: list[tuple[float, float, int, str]]


def document_of(data: object, text: str | None) -> tuple[str, str]:
    """Take the document's name and text from the input, rid of null bytes, lone surrogates and CRs."""
    found = data.get("document") if isinstance(data, dict) else None
    name = "the message"
    if isinstance(found, dict) and isinstance(found.get("text"), str):
        name, text = str(found.get("name") or "the document"), found["text"]
    text = (text or "").encode("utf-8", "replace").decode().removeprefix("\ufeff").replace("\x00", "")
    return name, text.replace("\r\n", "\n").replace("\r", "\n")


def prose(text: str) -> str:
    """Make blank what is no prose: fenced code, tables, headings."""
    lines, fence = text.split("\n"), ""
    for i, line in enumerate(lines):
        bare, hidden = line.strip(), bool(fence)
        if bare.startswith(fence or ("```", "~~~")):
            fence, hidden = "" if fence else bare[:3], True
        no_prose = bare.startswith(("#", "|")) or bare.count(" | ") > 1 or not any(map(str.isalnum, bare))
        lines[i] = "" if hidden or no_prose else line.rstrip()
    return "\n".join(lines)


def sentences_of(text: str) -> Iterator[Sentence]:
    """Split prose into sentences."""
    start, line, paragraph = 0, 1, 0
    ends = [(match.start(), match.end(), bool(match[1])) for match in BREAK.finditer(text)]
    for end, after, closes in [*ends, (len(text), len(text), True)]:
        if not closes and NO_END.search(text[max(start, end - 12) : end]):
            continue
        piece, bare = text[start:end], " ".join(MARKUP.sub("", text[start:end]).split())
        if size := len(WORD.findall(CJK_PAIR.sub(" x ", bare))):
            breaks = piece[: len(piece) - len(piece.lstrip())].count("\n")
            yield Sentence(bare, line + breaks, size, paragraph)
        line += text.count("\n", start, after)
        start, paragraph = after, paragraph + closes


def syllables(word: str) -> int:
    """Count the syllables of an English word: its groups of vowels, without a silent e."""
    silent = re.search(r"[^aeiouyl]e$|[aeiouy]le$|[^td]ed$|[^aeiouycghsxz]es$", word) is not None
    return max(1, len(VOWELS.findall(word)) - silent)


def measure(sentences: list[Sentence]) -> dict[str, Any]:
    """Measure how sentences read; the grade (Flesch-Kincaid) and passive voice only where they are English."""
    lengths = [sentence.words for sentence in sentences] or [0]
    words, text = sum(lengths), " ".join(sentence.text for sentence in sentences)
    facts: dict[str, Any] = {"words": words, "sentences": len(sentences), "mean": round(fmean(lengths), 1)}
    facts |= {"longest": max(lengths), "long": sum(size > LONG for size in lengths)}
    facts["lengths"] = [sum(low < size <= low + 10 for size in lengths) for low in (0, 10, 20)] + [facts["long"]]
    facts |= {"passive": None, "grade": None, "ease": None}
    if words and len(ENGLISH.findall(text)) > 0.15 * words:
        counted = Counter(word.lower() for word in WORD.findall(text))
        rate = sum(syllables(word) * count for word, count in counted.items()) / words
        facts["grade"] = round(max(0.0, 0.39 * words / len(sentences) + 11.8 * rate - 15.59), 1)
        facts["ease"] = round(206.835 - 1.015 * words / len(sentences) - 84.6 * rate)
        facts["passive"] = sum(PASSIVE.search(sentence.text) is not None for sentence in sentences)
    return facts


def outline_from(other: dict[str, Any]) -> Outline | None:
    """Take the outline out of the outliner's run; None if there is none that can be used."""
    parts = [part for part in other.get("parts") or () if part.get("type") == "data" and part.get("name") == "outline"]
    try:
        data = parts[-1]["data"]
        sections = [(int(h["level"]), str(h["title"]), int(h["words"])) for h in data["headings"]]
        keys = [
            (float(k["score"]), float(k["position"]), int(k["line"]), str(k["text"])) for k in data["key_sentences"]
        ]
    except (IndexError, KeyError, TypeError, ValueError):
        return None
    return Outline(sections, keys)


def chapters(outline: Outline) -> list[tuple[str, int, int]]:
    """List the sections of the highest level that has several: title, words with all that is below, own words."""
    levels = Counter(level for level, _, _ in outline.sections if level)
    top = min((level for level, count in levels.items() if count > 1), default=0)
    found: list[tuple[str, int, int]] = []
    for level, title, words in outline.sections:
        if 0 < level <= top:
            found.append((title, words, words))
        elif found:
            found[-1] = (found[-1][0], found[-1][1] + words, found[-1][2])
    return found


def structure(outline: Outline, words: int) -> list[tuple[float, str, str]]:
    """Judge the structure: how much it matters, what is seen, what to do about it."""
    found = []
    sized = sorted(chapters(outline), key=lambda chapter: -chapter[1])
    middle = median([size for _, size, _ in sized if size] or [1])
    title, size, own = sized[0] if len(sized) > 2 else ("", 0, 0)
    if size > 0.3 * words and size > 2.5 * middle:
        seen = f"“{title}” holds {size / words:.0%} of the text, {size / middle:.1f} times the median section"
        todo = "give its parts headings" if own > size / 2 else "move a part of it into a document of its own"
        found.append((2 * size / words, seen, f"Make “{title}” ({size:,} words) lighter: {todo}."))
    for above, below in pairwise(outline.sections):
        if above[0] and below[0] > above[0] + 1:
            seen = f"“{below[1]}” skips a level below “{above[1]}”"
            found.append((0.5, seen, f"Make “{below[1]}” a heading of level {above[0] + 1}."))
            break
    if outline.keys:
        position, line, text = max(outline.keys)[1:]
        first = min(key[1] for key in outline.keys)
        if position > 0.5 or first > 0.25:
            seen = f"the key sentences begin after {first:.0%} of the text, the strongest comes after {position:.0%}"
            found.append((0.2 + position, seen, f"Say at the start what line {line} says: “{shorten(text, 20)}”"))
    if words > 300 and len(chapters(outline)) < 2:
        lines = ", ".join(str(key[2]) for key in outline.keys[1:4])
        found.append((0.9, "there are hardly any headings", f"Add headings, for instance above line {lines or 1}."))
    return found


def shorten(text: str, words: int) -> str:
    """Quote the first words of a text."""
    parts = text.split()
    return " ".join(parts[:words])[:300] + (" …" if len(parts) > words else "")


def advice_on(sentences: list[Sentence]) -> list[tuple[float, str]]:
    """Say what to do about sentences and paragraphs, with how much each would help; three at least."""
    advice = [(0.02, f"Put one sentence above line {sentences[0].line} that says what the reader gets.")]
    advice.append((0.01, f"Say after line {sentences[-1].line} what the reader should do next."))
    for rank, s in enumerate(sorted(sentences, key=lambda sentence: -sentence.words)[:3]):
        listed = next((mark for mark in (" · ", "; ", " | ") if s.text.count(mark) > 3), "")
        cuts = sorted(
            SPLIT_AT.finditer(s.text), key=lambda cut: abs(cut.start() / len(s.text) - 0.5) + 0.3 * (cut[0] == ", ")
        )
        where = f" at “{shorten(s.text[cuts[0].start() :].strip(), 5)}”" if cuts else " in two"
        what = f"the sentence of {s.words} words in line {s.line}"
        told = f"Make a list of {what}: “{listed.strip()}” divides it." if listed else f"Split {what}{where}."
        advice.append((min(1.2, s.words / 40) - rank * 0.5 if s.words > 20 else 0, told))
    passive = [(s.words, s.line, match[0]) for s in sentences if (match := PASSIVE.search(s.text))]
    if passive:
        _, line, verb = max(passive)
        advice.append((2 * len(passive) / len(sentences), f"Say in line {line} who acts, instead of “{verb}”."))
    paragraphs: Counter[int] = Counter()
    for s in reversed(sentences):
        paragraphs[s.paragraph] += s.words
    paragraph, size = paragraphs.most_common(1)[0]
    line = next(s.line for s in sentences if s.paragraph == paragraph)
    advice.append((size / 250, f"Break up the paragraph of {size} words that begins in line {line}."))
    counted = Counter(word.lower() for s in sentences for word in WORD.findall(s.text) if len(word) > 10)
    if words := [f"“{word}” ({count} times)" for word, count in counted.most_common(2) if count > 1]:
        advice.append((0.3, f"Find shorter words for {' and '.join(words)}."))
    return advice


def report(name: str, facts: dict[str, Any], sentences: list[Sentence], outline: Outline | None) -> str:
    """Write the critique for a reader: how it reads, how it is built, and three suggestions."""
    if facts["words"] < 20:
        return f"**{name}** is too short to judge: {facts['words']} words of prose.\n"
    short, middling, longish, long = facts["lengths"]
    ease = facts["ease"]
    grade = "Its grade is not told: the formula is for English."
    if ease is not None:
        word = next(word for limit, word in EASE if ease >= limit)
        grade = f"It reads at grade {facts['grade']} (Flesch ease {ease}: {word})."
    lines = [
        f"**{name}**: {grade} {len(sentences):,} sentences of {facts['mean']} words on average.\n",
        "### Sentences\n",
    ]
    lines.append(f"- up to 10 words: {short}, up to 20: {middling}, up to {LONG}: {longish}, longer: {long}")
    longest = sorted(sentences, key=lambda sentence: -sentence.words)[: min(3, long)]
    lines += [f"- line {s.line}, {s.words} words: “{shorten(s.text, 25)}”" for s in longest]
    if facts["passive"]:
        lines.append(f"- {facts['passive']} are in the passive voice ({facts['passive'] / len(sentences):.0%})")
    seen = structure(outline, facts["words"]) if outline else []
    lines.append("\n### Structure\n")
    balanced = ["sections are in balance, key sentences come early"] if outline else ["not judged: no outline"]
    lines += [f"- {told}" for told in [told for _, told, _ in seen] or balanced]
    ranked = sorted([(weight, todo) for weight, _, todo in seen] + advice_on(sentences), reverse=True)
    lines += ["\n### Three suggestions\n"] + [f"{i}. {todo}" for i, (_, todo) in enumerate(ranked[:3], 1)]
    return "\n".join(lines) + "\n"


async def is_asked(run: Run, agent_name: str) -> bool:
    """Say whether an agent was given this input too, by its name or as one of all."""
    mine = (run.input.sender, run.input.id)
    for pause in (0, 1):  # an input for several agents is appended for one after the other: look again
        await asyncio.sleep(pause)
        view = await run.session.view(whole=False)
        targets = {given["to"] for given in view["inputs"] if (given["from"], given["input"]) == mine}
        if agent_name in targets or ("all" in targets and agent_name in (view["meta"].get("agents") or [agent_name])):
            return True
    return False


async def outline_of(run: Run) -> tuple[Outline | None, str]:
    """Wait for the outliner's run of the same input; return its outline and what to say about it."""
    if not await is_asked(run, "outliner"):
        return None, "The outliner was not asked: I go on without its outline."
    try:
        other = await run.result_of("outliner", timeout=WAIT_SECONDS)
    except TimeoutError:
        return None, f"No outline after {WAIT_SECONDS:g} seconds: I go on without."
    if other.get("status") != "done":
        return None, f"The outliner's run ended as {other.get('status')} ({other.get('error')}): I go on without."
    outline = outline_from(other)
    if outline is None:
        return None, "The outliner's run holds no outline that I can read: I go on without."
    return outline, f"Got it: sections {len(outline.sections)}, key sentences {len(outline.keys)}."


@agent
async def critique(run: Run) -> None:
    """Critique the document of the input, with the outline that the outliner makes of it meanwhile."""
    name, text = document_of(run.input.data, run.input.text)
    waiting = asyncio.create_task(outline_of(run))
    try:
        await run.reasoning(f"Measuring the sentences of {name} while the outliner works. ")
        sentences = await asyncio.to_thread(lambda: list(sentences_of(prose(text))))
        facts = await asyncio.to_thread(measure, sentences)
        while not (await asyncio.wait({waiting}, timeout=3))[0]:
            await run.reasoning("Waiting for its outline. ")
        outline, told = await waiting
    finally:
        waiting.cancel()
    await run.reasoning(told)
    await run.data("readability", {**facts, "outline": outline is not None}, id="readability")
    for word in re.findall(r"\S+\s*|\s+", await asyncio.to_thread(report, name, facts, sentences, outline)):
        await run.text(word)
        await asyncio.sleep(PACE_SECONDS)


if __name__ == "__main__":
    agent.main()
