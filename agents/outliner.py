# /// script
# requires-python = ">=3.11"
# dependencies = ["orchestrator-free"]
# [tool.uv.sources]
# orchestrator-free = { path = "..", editable = true }
# ///
"""Outliner: the outline of a document (inferred where it has no headings) and the sentences that carry it.

Markdown, plain text and source code, offline: sentences are weighed by TF-IDF centrality, place and novelty.
"""

import asyncio
import math
import os
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from orchestrator_free import Agent, Run

agent = Agent("outliner")
PACE_SECONDS = float(os.environ.get("ORCHESTRATOR_FREE_PACE_MS", "12")) / 1000

CODE_NAME = re.compile(r"(?i)\.(py|[cm]?[jt]sx?|go|rs|java|kt|swift|c|cc|cpp|hh?|cs|rb|php|sh|sql|toml|yml)$")
CODE_LINE = re.compile(
    r"([ \t]{0,40})(?:(?:[a-z]{2,9} ){0,4}(?:def|class|function|func|fn|struct|interface|enum|trait)[ \t]+"
    r"(?P<name>[\w.:$]{1,120})|(?://+!?|#+!?(?!\w)|--|/?\*+)[ \t]?(?P<note>.*))"
)
ITEM = re.compile(r"[ \t]{0,40}(?:[-*+•]|\d{1,3}[.)])[ \t]+")
NUMBERED = re.compile(r"(\d{1,3}(?:\.\d{1,3}){0,5})[.)]?[ \t]+\w")
CHAPTER = re.compile(r"(?i)(chapter|part|section|appendix|kapitel|teil|chapitre)\b")
CJK = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]")
ADDRESS = re.compile(r"\]\([^()\s]{0,2000}\)|https?://[^\s)>]{1,2000}")
WORD = re.compile(r"[^\W_]+(?:['\u2019\u0300-\u036f\u0591-\u05c7\u064b-\u0655\u0900-\u0d7f-]+[^\W_]+)*")
END = re.compile(  # . ! ? … before a space; the full stops of Chinese, Japanese, Urdu, Hindi and ؟ anywhere
    r"(?<![.!?…])[.!?…]+[\"'”\u2019»)\]*_]{0,4}(?:\s+|$)|[\u3002\uff01\uff1f؟\u06d4।]+[」』”\u2019\uff09]{0,3}\s*"
)
NO_HEADING_END = tuple(".,;!?:؟\u3002\uff0c\u3001\uff01\uff1f")
SHORTENED = re.compile(r"(?:e\.g|i\.e|vs|cf|dr|mrs?|ms|prof|st|approx|ca|resp|incl|al|z\.b|d\.h|bzw)$")
STOP = re.compile(
    "(?:about|after|all|also|and?|any|are|as|at|because|been|before|but|by|can|could|did|does|each|even|every|for|from|"
    "had|has|have|here?|his|how|in|into|is|its?|just|like|many|may|more|most|much|must|not?|off?|on|once|one|only|"
    "other|our|out|over|own|same|she|should|so|some|such|than|that|the|their|them|then|there|these|they|this|to|too|"
    "until|used?|very|was|we|were|what|when|where|which|while|who|why|will|with|without|would|you|your)$"
)
LEANING = re.compile(r"(?i)\W*(args|raises|its?|this|that|these|those|they|s?he|but|and|or|so|such|then)\b")
CUE = re.compile(r"(?i)\b(in (short|summary)|we (propose|show)|the (main|key|goal)|therefore|must|never)\b")
INLINE = re.compile(
    r"<(?P<url>https?://[^<>\s]{1,500})>|</?(?:a|b|i|em|strong|br|p|div|span|img|kbd|h[1-6])\b[^<>]{0,300}>"
    r"|!?\[(?P<text>[^\[\]]{0,300})\]\([^()\s]{0,2000}\)|\*\*|(?<![\w*])\*(?=[^\s*])|(?<=[^\s*])\*(?![\w*])"
)

Block = tuple[int, list[str], int]  # the line it starts on, its lines, its level if it is a heading, else 0
Sentence = tuple[float, dict[str, Any], frozenset[str]]  # weight, what is told of it, the words that carry it


def document_of(data: object, text: str | None) -> tuple[str, str]:
    """Take the document's name and text from the input, rid of null bytes, lone surrogates and CRs."""
    found = data.get("document") if isinstance(data, dict) else None
    name = "the message"
    if isinstance(found, dict) and isinstance(found.get("text"), str):
        name, text = str(found.get("name") or "the document"), found["text"]
    text = (text or "").encode("utf-8", "replace").decode().removeprefix("\ufeff").replace("\x00", "")
    return name, text.replace("\r\n", "\n").replace("\r", "\n")


def as_markdown(name: str, text: str) -> tuple[str, str]:
    """Tell code, Markdown and plain text apart; return the kind and the document as Markdown."""
    if CODE_NAME.search(name) or text.startswith("#!"):
        return "code", marked_code(text)
    if name.lower().endswith((".md", ".markdown")) or any(level for _, _, level in blocks(text)):
        return "markdown", text
    return "text", marked_text(text)


def marked_code(text: str) -> str:
    """Turn code into Markdown: definitions become headings; of the rest, comments and docstrings stay."""
    lines, quoted = [], False
    for line in text.split("\n"):
        match = None if quoted else CODE_LINE.match(line)
        if match and match["name"]:
            lines.append(f"{'#' * min(6, 1 + len(match[1].expandtabs(4)) // 4)} {match['name'].rstrip(':')}")
        elif quoted or line.lstrip().startswith('"""'):
            lines.append(line.strip().replace('"""', ""))
        else:
            lines.append(match["note"].removesuffix("*/").lstrip("#: ") if match else "")
        quoted ^= line.count('"""') % 2 == 1
    return "\n".join(lines)


def heading_level(above: str, line: str, below: str) -> int:
    """Say how deep a heading this line of plain text is; 0 if it is none."""
    title = line.strip()
    if above.strip() or not 2 < len(title) <= 70 or title.endswith(NO_HEADING_END) or title.count(" ") > 9:
        return 0
    if match := NUMBERED.match(title):
        run_in = below.strip() and (NUMBERED.match(below.strip()) or title.count(". ") > 1)
        return 0 if run_in else match[1].count(".") + 1
    if ITEM.match(line) or line[0] in " \t" or not title[0].isalnum():
        return 0
    capitals = title.isupper() and not below.isupper() and sum(map(str.isalpha, title)) > 2
    return int(capitals or bool(CHAPTER.match(title)) or not (below.strip() or title[0].islower()))


def marked_text(text: str) -> str:
    """Mark the lines of plain text that look like headings, unless too many do (a poem, an address list)."""
    lines = ["", *text.split("\n"), ""]
    levels = [heading_level(*three) for three in zip(lines, lines[1:], lines[2:], strict=False)]
    if sum(map(bool, levels)) > 0.6 * (1 + text.count("\n\n")):
        return text
    marked = zip(levels, lines[1:-1], strict=True)
    return "\n".join(f"{'#' * level} {line.strip()}" if level else line for level, line in marked)


def prose_lines(text: str) -> Iterator[str]:
    """Yield the lines of Markdown, with front matter, fenced code and tables made blank."""
    lines = text.split("\n")
    fence = "---" if lines[0].rstrip() == "---" and "---" in (line.rstrip() for line in lines[1:60]) else ""
    for number, line in enumerate(lines):
        bare, hidden = line.strip(), bool(fence)
        if not fence and bare.startswith(("```", "~~~")):
            fence, hidden = bare[:3], True
        elif fence and number and bare.startswith(fence):
            fence = ""
        yield "" if hidden or bare.startswith("|") or bare.count(" | ") > 1 else line


def blocks(text: str) -> list[Block]:
    """Cut Markdown into headings, paragraphs and list items, each with all its lines."""
    found: list[Block] = []
    is_open = False
    for number, line in enumerate(prose_lines(text.expandtabs(4)), 1):
        bare, item = line.strip(), ITEM.match(line)
        hashes = len(bare[:7]) - len(bare[:7].lstrip("#"))
        if is_open and bare[:3] in ("===", "---") and len(set(bare)) == 1 and len(found[-1][1]) == 1:
            found[-1] = (*found[-1][:2], 1 if bare[0] == "=" else 2)
            is_open = False
        elif 0 < hashes < 7 and bare[hashes : hashes + 1].isspace() and not line.startswith("    "):
            found.append((number, [bare[hashes:].rstrip("#")], hashes))
            is_open = False
        elif not any(map(str.isalnum, bare)) or (line.startswith("    ") and not is_open and not item):
            is_open = is_open and bool(bare)
        elif is_open and not item:
            found[-1][1].append(bare.lstrip("> "))
        else:
            found.append((number, [line[item.end() if item else 0 :].strip().lstrip("> ")], 0))
            is_open = True
    return found


def count_words(text: str) -> int:
    """Count words; an address counts as one, so does every Chinese or Japanese character."""
    text = ADDRESS.sub(lambda match: " x " if match[0][0] == "h" else "]", text)
    return len(WORD.findall(text if text.isascii() else CJK.sub(" x ", text)))


def terms_of(text: str) -> Iterator[str]:
    """Yield the words that carry content, plurals folded; pairs of characters for Chinese and Japanese."""
    yield from map("".join, pairwise(CJK.findall(text)))
    for word in WORD.findall(CJK.sub(" ", text).lower()):
        if len(word) > 2 and not STOP.match(word) and not word.isdigit():
            yield word[:-1] if len(word) > 4 and word[-1] == "s" != word[-2] else word


def clean(text: str, limit: int = 400) -> str:
    """Drop inline markup, keep its text on one line, cut at a word when it is too long to show."""
    text = " ".join(INLINE.sub(lambda match: match["url"] or match["text"] or "", text).split())
    return text if len(text) <= limit else f"{text[:limit].rsplit(' ', 1)[0].replace('`', '')} …"


def ends_sentence(before: str, mark: str, after: str) -> bool:
    """Decide whether a mark ends a sentence, from the word before it and the text after it."""
    word = before.split()[-1].lstrip("([\"'“„").lower() if before.strip() else ""
    following = after.split()[0] if after.strip() else ""
    if following[:1].islower() or mark[0] != ".":
        return not following[:1].islower()
    if SHORTENED.match(word) or (word in ("no", "fig", "sec", "p", "pp", "nr") and following[:1].isdigit()):
        return False
    initials = word.replace(".", "").isalpha() and max(map(len, word.split("."))) == 1
    return not initials or bool(STOP.match(following.lower()))


def sentences_of(text: str) -> Iterator[tuple[int, str]]:
    """Split a paragraph into sentences, each with the number of line breaks before it."""
    start = breaks = 0
    for match in END.finditer(text):
        end, before = match.end(), text[max(start, match.start() - 24) : match.start()]
        if ends_sentence(before, match[0], text[end : end + 24]):
            yield breaks, text[start:end]
            breaks += text.count("\n", start, end)
            start = end
    if text[start:].strip():
        yield breaks, text[start:]


def form(text: str, size: int, opens: bool, position: float) -> float:
    """Weigh how well a sentence stands alone: length, letters, first word, announcement, end and place."""
    weight = min(1.0, size / 8, 40 / (size or 1), 1.4 * sum(map(str.isalpha, text)) / len(text))
    weight *= (0.7 if LEANING.match(text) else 1.0) * (1.2 if CUE.search(text) else 1.0)
    weight *= (0.5 if text.rstrip().endswith((":", "?")) else 1.0) * (1.15 if opens else 1.0)
    return weight * (1.2 if position < 0.1 else 1.0)


def ranked(sentences: list[Sentence]) -> list[Sentence]:
    """Weigh sentences by how near they are to the document's centre: the first step of LexRank."""
    frequency = Counter(term for _, _, terms in sentences for term in terms)
    rarity = {term: math.log(1 + len(sentences) / count) for term, count in frequency.items()}
    named = {title: frozenset(terms_of(title)) for title in {facts["section"] for _, facts, _ in sentences}}
    result = []
    for weight, facts, terms in sentences:
        length = math.sqrt(sum(rarity[term] ** 2 for term in terms)) or 1.0
        centrality = sum(rarity[term] ** 2 * frequency[term] for term in terms) / length
        result.append((weight * (1 + 0.1 * len(terms & named[facts["section"]])) * centrality, facts, terms))
    return sorted(result, key=lambda sentence: -sentence[0])


def key_sentences(sentences: list[Sentence]) -> list[dict[str, Any]]:
    """Pick the few sentences that say most, each adding something new, in the order of the document."""
    left = ranked(sentences)[:200]
    picked: list[dict[str, Any]] = []
    while left and len(picked) < min(7, 1 + len(sentences) // 5):
        score, facts, known = left.pop(0)
        picked.append(facts | {"text": clean(facts["text"]), "score": round(score, 3)})
        for i, (weight, other, terms) in enumerate(left):
            news = 1 - len(terms & known) / (min(len(terms), len(known)) or 1)
            left[i] = (weight * news * (0.75 if other["section"] == facts["section"] else 1.0), other, terms)
        left.sort(key=lambda sentence: -sentence[0])
    return sorted(picked, key=lambda facts: facts["position"])


def with_headings(found: list[Block]) -> list[Block]:
    """Give prose without headings up to eight parts, each named by how it begins."""
    if any(level for _, _, level in found) or len(found) < 4:
        return found
    result, step = [], max(2, math.ceil(len(found) / 8))
    for i in range(0, len(found), step):
        opening = next(sentences_of("\n".join(found[i][1])))[1]
        result += [(found[i][0], [clean(opening, 60)], 1), *found[i : i + step]]
    return result


def build_outline(name: str, text: str) -> dict[str, Any]:
    """Outline a document: its sections with their sizes, and its key sentences with their places."""
    kind, marked = as_markdown(name, text)
    found = blocks(marked)
    headings: list[dict[str, Any]] = [{"level": 0, "title": "", "line": 1, "words": 0}]
    parts = []
    for line, lines, level in with_headings(found):
        body = "\n".join(lines)
        if level:
            headings.append({"level": level, "title": clean(body, 160), "line": line, "words": 0})
        for breaks, part in sentences_of("" if level else body):
            size = count_words(part)
            headings[-1]["words"] += size
            parts.append((part, size, line + breaks, headings[-1]["title"], breaks == 0))
    sentences, done, total = [], 0, sum(size for _, size, *_ in parts) or 1
    for part, size, line, section, opens in parts:
        facts = {"text": part, "line": line, "section": section, "position": round(done / total, 3)}
        sentences.append((form(part, size, opens, done / total), facts, frozenset(terms_of(part))))
        done += size
    sections = [heading for heading in headings if heading["level"] or heading["words"]]
    facts = {"name": name, "format": kind, "inferred": kind == "text" or not any(block[2] for block in found)}
    facts |= {"words": done, "sections": len(sections), "sentences": len(sentences)}
    return facts | {"headings": sections[:400], "key_sentences": key_sentences(sentences)}


def report(outline: dict[str, Any]) -> str:
    """Write the outline as Markdown for a reader; of a long one, the upper levels."""
    headings, name = outline["headings"], outline["name"]
    depth = next(d for d in (6, 5, 4, 3, 2, 1) if d == 1 or sum(h["level"] <= d for h in headings) <= 30)
    shown = [heading for heading in headings if heading["level"] <= depth][:30]
    size = f"{outline['words']:,} words, {outline['sections']:,} section{'s' * (outline['sections'] != 1)}"
    lines = [f"**{name}**: {size}\n", "### Outline\n"]
    lines += [f"{'  ' * (h['level'] - 1)}- {h['title'] or '(opening)'} · {h['words']:,} words" for h in shown]
    if outline["sections"] > len(shown):
        lines.append(f"- … and {outline['sections'] - len(shown):,} more sections")
    lines += ["\n### Key sentences\n"] if outline["key_sentences"] else []
    for i, key in enumerate(outline["key_sentences"], 1):
        lines.append(f"{i}. {key['text']} *({key['section'] or 'opening'}, line {key['line']})*")
    return "\n".join(lines) + "\n"


@agent
async def outline(run: Run) -> None:
    """Outline the document of the input: the structure as data, the reading version as text."""
    name, text = document_of(run.input.data, run.input.text)
    await run.reasoning(f"Reading {name}: {len(text):,} characters. ")
    found = await asyncio.to_thread(build_outline, name, text)
    await run.data("outline", found, id="outline")
    told = report(found) if found["sections"] else f"{name} holds no text to outline.\n"
    for word in re.findall(r"\S+\s*|\s+", told):
        await run.text(word)
        await asyncio.sleep(PACE_SECONDS)


if __name__ == "__main__":
    agent.main()
