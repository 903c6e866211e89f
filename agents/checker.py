# /// script
# requires-python = ">=3.11"
# dependencies = ["orchestrator-free"]
# [tool.uv.sources]
# orchestrator-free = { path = "..", editable = true }
# ///
"""Checker: what in a document does not hold: broken links, numbers that disagree, claims without a source.

Offline: it never opens a link. Every check is a tool call, every finding a data part with its line and quote.
"""

import asyncio
import os
import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator
from decimal import Decimal
from itertools import groupby
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from orchestrator_free import Agent, Run

agent = Agent("checker")
PACE_SECONDS = float(os.environ.get("ORCHESTRATOR_FREE_PACE_MS", "12")) / 1000
MOST = 25  # findings of one check that are shown; the others are counted

CODE = re.compile(r"(?<!`)(`{1,2})(?!`)[^`\n]{1,500}\1|<!--[^<>]{0,2000}-->")
BREAK = re.compile(r"[.!?][\"')*]{0,3}\s+(?=[A-Z\"'(*\[])|\u3002|\n\s*\n|\n(?=\s*(?:[-*+>|#]|\d{1,3}[.)]\s))")
LINK = re.compile(r"\[([^\[\]\n]{0,300})\]\(([^()\n]{0,1000}(?:\([^()\n]{0,200}\)[^()\n]{0,1000})?)\)")
REFERENCE = re.compile(r"\[([^\[\]\n]{1,300})\]\[([^\[\]\n]{0,200})\]")
DEFINED = re.compile(r"(?m)^ {0,3}\[([^\[\]^\n][^\[\]\n]{0,200})\]:[ \t]*(\S{0,1000})")
BARE = re.compile(r"\bhttps?:[^\s<>\"'`|\\()\[\]]{0,999}(?:\([^\s()<>]{0,99}\)[^\s<>\"'`|\\()\[\]]{0,999})?")
HEADING = re.compile(r"(?m)^ {0,3}#{1,6}[ \t]+([^\n]{1,300})|^([^\n]{1,300})\n[=-]{3,200}$")
NAMED = re.compile(r"<[a-z]\w{0,9} [^<>]{0,200}?\b(?:id|name)=\"([^\"<>]{1,99})")
MISSPELT = re.compile(r"(?i)(?!https?://)h?t{1,3}ps?(?:[:;]|//)|https?://(?:$|[/.?#]|[^/]{0,200}https?:)")
NO_SCHEME = re.compile(r"(?i)www\.|[\w-]{1,63}\.(?:com|org|net|io|dev)(?:/|$)")
LOCAL = re.compile(r"[^.]*$|127\.|10\.|192\.168\.|0\.0\.0\.0|.*\b(?:local|test|example|w3)(?:\.com|\.org)?$")
SMALL = {w: n for n, w in enumerate(re.findall(r"\w+", "two three four five six seven eight nine ten"), 2)}
COUNTED = re.compile(rf"(?i)(?<![\w.,:/$%-])(\d{{1,4}}|{'|'.join(SMALL)})\s((?:[a-z]{{2,20}}[\s-])?)([a-z]{{3,20}}s)\b")
WHOLE = re.compile(r"(?i)\b(?:the|all|these|those|our|its|your|their|both|a total of)(?: of)?(?: the)?\s$")
PLAIN = re.compile(r"(?i)(?:\b(?:ha[sd]|have|with|contains?|includes?|uses?|runs?|starts?)\s|^|[.:!?]\s|\n\W*)$")
NO_THING = re.compile(
    r"(?i)(?:does|this|less|its|has|was|ones|things|times|\w*seconds|minutes|hours|days|weeks|months|years|\w*b[iy]tes?|"
    r"lines|words|pages|points|more|others?|additional|new|and|or|of|to|in)\W?$"
)
UNIT = re.compile(r"(?<![\w.])\d[\d,.]{0,15}( ?)(ms|µs|us|s|[KkMG]i?B|TB|%|k?m|k?g|px|[kMG]?Hz)(?![\w/%])")
PERCENT = re.compile(r"(?<![\w.,])(\d{1,9}(?:\.\d{1,6})?) ?(?:%|percent\b)")
GROWTH = re.compile(r"(?i)\b(by|gr[eo]w|rose|rise|increas|gain|more|[a-z]+er\b|over|up|than|cpu|of the)")
TOTAL = re.compile(r"(?i)(?:grand )?(?:total|sum|summe|gesamt)s?\b")
CELL = re.compile(r"([-+]?)[$€£]? ?((?:\d{1,3}(?:,\d{3}){1,5}|\d{1,15})(?:\.\d{1,9})?) ?(%|[a-zA-Zµ€$]{0,4})$")
SOURCED = re.compile(
    r"(?i)https?://|\]\(|\[\^|\[\d{1,3}\]|\([^()\d]{2,60}\d{4}[a-z]?\)|\w\.(?:md|pdf|csv|html?|txt)\b|§|"
    r"measure|\bbenchmark|\baccording\sto\b|\b(?:see|figure|table|section|appendix|chapter)\s\w"
)
CLAIMS = {
    "unnamed authority": r"(?:studies|research|surveys?|experts|scientists) (?:shows?|suggests?|says?|agree|proves?|"
    r"found|believe)|it is (?:well[- ])?known|everyone knows|widely (?:regarded|accepted|believed)",
    "superlative": r"the (?:very )?(?:best|fastest|largest|biggest|cheapest|strongest|safest|easiest)|world[- ]class|"
    r"the most (?!recent|of\b|part\b|likely|common)[a-z]{4,20}|the only (?:tool|product|platform)|"
    r"state[- ]of[- ]the[- ]art|(?:industry|market)[- ]leading|best[- ]in[- ]class",
    "certainty": r"obviously|undoubtedly|never fails?|always works|guarantees|guaranteed|zero downtime",
    "comparison": r"\d{1,6}(?:\.\d{1,3})? ?(?:x|times) (?:as|more|less|fewer|[a-z]{3,9}er)",
    "percentage": r"(?!100\b)\d{1,9}(?:\.\d{1,6})? ?(?:%|percent)",
}
ANY_CLAIM = ")|(".join(CLAIMS.values()).replace(" ", r"\s")  # where lines are wrapped, a space is a line break
CLAIM = re.compile(rf"(?i)(?<![\w.])(?:({ANY_CLAIM}))(?!\w)")
Finding = dict[str, Any]


class Page(NamedTuple):
    """A document to check: its text, and that with the code blanked out, and where its lines start."""

    name: str
    original: str
    text: str
    starts: list[int]

    def line(self, at: int) -> int:
        """Return the number of the line an offset is on."""
        return bisect_right(self.starts, at)

    def finding(self, kind: str, at: int, end: int, message: str, severity: str = "warning") -> Finding:
        """Say what is wrong with the text between two offsets."""
        quote = " ".join(self.original[at : min(end, at + 200)].split())
        return {"kind": kind, "severity": severity, "line": self.line(at), "quote": quote, "message": message}

    def sentence(self, at: int) -> tuple[int, int]:
        """Return where the sentence around an offset begins and ends."""
        start = max(0, at - 400)
        low = max((m.end() for m in BREAK.finditer(self.text, start, at + 1) if m.end() <= at), default=start)
        after = BREAK.search(self.text, at, at + 400)
        return low, after.start() + 1 if after else min(len(self.text), at + 400)


def page_of(data: object, text: str | None) -> Page:
    """Take the document from the input; blank out its code, so that only what people read is checked."""
    found = data.get("document") if isinstance(data, dict) else None
    name = "the message"
    if isinstance(found, dict) and isinstance(found.get("text"), str):
        name, text = str(found.get("name") or "the document"), found["text"]
    text = (text or "").encode("utf-8", "replace").decode().removeprefix("\ufeff").replace("\x00", "")
    lines, fence = text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), ""
    for i, line in enumerate(lines):
        bare = line.strip()
        if fence or bare.startswith(("```", "~~~")):
            lines[i] = " " * len(line)
            fence = ("" if bare.startswith(fence) else fence) if fence else bare[:3]
    original = "\n".join(lines)
    text = CODE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), original)
    return Page(name, original, text, [0, *(match.end() for match in re.finditer("\n", text))])


def url_problem(url: str) -> str:
    """Say what is wrong with the form of a link's target; nothing if it is fine."""
    try:
        parts = urlsplit(url)
        no_host = parts.port == 0 or re.search(r"\.\.|[^\w.:{}$-]", parts.hostname or "")
    except ValueError as error:
        return f"the address cannot be read: {error}"
    if not url or NO_SCHEME.match(url):
        return "without https:// this is read as a file name" if url else "the link has no target"
    if re.search(r"\s", url):
        return "the target has a space in it"
    return "the address is misspelt" if MISSPELT.match(url) or no_host else ""


def links_of(page: Page) -> list[tuple[int, int, str, str]]:
    """Find every link: where it begins and ends, its text, its target."""
    defined = {match[1].lower(): match[2].strip("<>") for match in DEFINED.finditer(page.text)}
    found = [(*m.span(), m[1], m[2].strip().split(' "')[0].strip("<>")) for m in LINK.finditer(page.text)]
    references = REFERENCE.finditer(page.text) if defined else ()
    found += [(*m.span(), m[1], defined.get((m[2] or m[1]).lower(), "")) for m in references]
    taken = bytearray(len(page.text))
    for start, end in [link[:2] for link in found] + [match.span() for match in DEFINED.finditer(page.text)]:
        taken[start:end] = b"\1" * (end - start)
    bare = [(m.start(), m[0].rstrip(".,;:!?*_")) for m in BARE.finditer(page.text) if not taken[m.start()]]
    return sorted(found + [(start, start + len(url), "", url) for start, url in bare])


def anchors_of(page: Page) -> set[str]:
    """Return the fragments that a link within the document can point to, as GitHub makes them."""
    anchors, seen = {"", "top"}, Counter[str]()
    for match in HEADING.finditer(page.text):
        title = (match[1] or match[2]).strip(" #\t").lower().replace(" ", "-")
        slug = re.sub(r"[^\w-]", "", title)
        anchors.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return anchors | {match[1].lower() for match in NAMED.finditer(page.text)}


def links(page: Page) -> Iterator[Finding]:
    """Check the form of links, anchors within the document, http, and targets linked again and again."""
    anchors, places = anchors_of(page), defaultdict(list)
    for start, end, _, url in links_of(page):
        file, _, fragment = url.partition("#")
        places[url].append((start, end))
        if problem := url_problem(url):
            yield page.finding("malformed link", start, end, problem, "error")
        elif file in ("", page.name, f"./{page.name}") and fragment.lower() not in anchors:
            yield page.finding("broken anchor", start, end, f"no heading here is called #{fragment}", "error")
    for url, spans in places.items():
        if url.startswith("http://") and not LOCAL.match(urlsplit(url).hostname or ""):
            also = "; elsewhere it has https://" if f"https{url[4:]}" in places else ""
            yield page.finding("http link", *spans[0], f"http:// is not encrypted{also}")
        if "://" in url and len(spans) > 1:
            lines = ", ".join(map(str, sorted({page.line(start) for start, _ in spans})[:8]))
            yield page.finding("duplicate link", *spans[0], f"linked {len(spans)} times (line {lines})", "note")


def sources_of(page: Page) -> list[tuple[str, str]]:
    """Return what the document cites: addresses and the words that link them, each address once."""
    cited: dict[str, str] = {}
    for *_, text, url in links_of(page):
        if url.startswith("https://") and not url_problem(url):
            cited[url] = cited.get(url) or text
    return list(cited.items())[:MOST]


def counts(page: Page) -> Iterator[Finding]:
    """Find things that are counted twice with different results, such as "3 agents" and "the four agents".

    Most numbers count different sets: of these two, one must be called the whole and the other no mere part.
    """
    seen: defaultdict[str, dict[int, tuple[int, re.Match[str]]]] = defaultdict(dict)
    for match in COUNTED.finditer(page.text):
        value = SMALL.get(match[1].lower()) or int(match[1])
        before = page.text[max(0, match.start() - 24) : match.start()]
        strength = 2 if WHOLE.search(before) else 1 if PLAIN.search(before) else 0
        if strength and 1 < value <= 50 and not NO_THING.match(match[2]) and not NO_THING.match(match[3]):
            values = seen[" ".join((match[2] + match[3]).lower().split())]
            values[value] = max(values.get(value, (0, match)), (strength, match), key=lambda pair: pair[0])
    for thing, values in seen.items():
        if len(values) > 1 and sum(sorted(strength for strength, _ in values.values())[-2:]) > 2:
            told = " but ".join(f"{match[1]} (line {page.line(match.start())})" for _, match in values.values())
            last = [match for _, match in values.values()][-1]
            yield page.finding("count", *last.span(), f"{thing}: {told}; are they the same {thing}?")


def measures(page: Page) -> Iterator[Finding]:
    """Find percentages that cannot be shares, and units that are written in two ways."""
    done = 0
    for match in PERCENT.finditer(page.text):
        if float(match[1]) > 100 and match.start() >= done:
            low, done = page.sentence(match.start())
            if not GROWTH.search(page.text, low, done):
                yield page.finding("percentage", low, done, f"{match[0]} is more than all of it")
    ways: defaultdict[str, dict[str, re.Match[str]]] = defaultdict(dict)
    for match in UNIT.finditer(page.text):
        ways[match[2]].setdefault(match[1], match)
    for unit, both in ways.items():
        if len(both) > 1:
            told = " and ".join(f"“{match[0]}” (line {page.line(match.start())})" for match in both.values())
            yield page.finding("unit", *both[""].span(), f"{unit} is written in two ways: {told}", "note")


def sums(page: Page) -> Iterator[Finding]:
    """Find totals in tables that are not the sum of the rows above them."""
    lines = zip(page.starts, page.text.split("\n"), strict=True)
    for is_table, rows in groupby(lines, key=lambda row: row[1].count("|") > 1):
        above: list[list[str]] = []
        for start, line in rows if is_table else ():
            cells = [cell.strip(" *") for cell in line.strip().strip("|").split("|")]
            if TOTAL.match(cells[0]):
                span = (start, start + len(line))
                yield from (page.finding("sum", *span, problem) for problem in wrong_sums(above, cells))
                break
            above.append(cells)


def wrong_sums(above: list[list[str]], total: list[str]) -> Iterator[str]:
    """Compare a row of totals with the rows above it, column by column, where all cells are numbers."""
    for column in range(1, len(total)):
        cells = [CELL.match(row[column]) if column < len(row) else None for row in [*above[2:], total]]
        numbers = [(Decimal(cell[1] + cell[2].replace(",", "")), cell[3]) for cell in cells if cell]
        if 2 < len(numbers) == len(cells) and len({unit for _, unit in numbers}) == 1:
            told, added = numbers[-1][0], sum(number for number, _ in numbers[:-1])
            step = Decimal(10) ** int(told.as_tuple().exponent)  # what rounding may hide: half a step a row
            if abs(added - told) > (step * len(numbers) / 2 if step < 1 or numbers[0][1] == "%" else 0):
                yield f"{above[0][column]}: the rows add up to {added:,}, the total says {total[column]}"


def claims(page: Page) -> Iterator[Finding]:
    """Find claims that have no source in their own or a neighbouring sentence; tables are left alone."""
    done = 0
    for match in CLAIM.finditer(page.text):
        if match.start() < done:
            continue
        low, done = page.sentence(match.start())
        in_table = page.text[low : match.start()].lstrip().startswith("|")
        near = page.sentence(max(0, low - 2))[0], page.sentence(min(done + 1, len(page.text)))[1]
        if not in_table and not SOURCED.search(page.text, *near):
            kind = list(CLAIMS)[(match.lastindex or 1) - 1]
            yield page.finding(kind, low, done, f"“{' '.join(match[0].split())}” has no source nearby")


CHECKS = {"check_links": (links,), "check_numbers": (counts, measures, sums), "check_claims": (claims,)}


def findings_of(page: Page, check: str) -> list[Finding]:
    """Do one check."""
    return [finding for function in CHECKS[check] for finding in function(page)]


def report(page: Page, found: dict[str, list[Finding]]) -> str:
    """Sum up for a reader: what was looked at, how many findings of which kind, and the worst of each check."""
    targets, numbers = [url for *_, url in links_of(page)], len(re.findall(r"\d[\d.,]*", page.text))
    files = sum(1 for url in targets if not re.match(r"#|\w+:|$", url))
    size = f"{len(targets):,} links ({files:,} to files I cannot see), {numbers:,} numbers"
    lines = [f"**{page.name}**: {size}; findings: {sum(map(len, found.values())):,}\n"]
    for check, findings in found.items():
        kinds = Counter(finding["kind"] for finding in findings).most_common()
        told = ", ".join(f"{count} {kind}" for kind, count in kinds) or "nothing to complain about"
        lines.append(f"- {check.removeprefix('check_').capitalize()}: {told}")
        worst = sorted(findings, key=lambda finding: ("error", "warning", "note").index(finding["severity"]))
        lines += [f"  - line {finding['line']}: {finding['message']}" for finding in worst[:4]]
    return "\n".join(lines) + "\n"


@agent
async def check(run: Run) -> None:
    """Check the document of the input: a tool call for each check, a data part for each finding."""
    page = await asyncio.to_thread(page_of, run.input.data, run.input.text)
    found: dict[str, list[Finding]] = {}
    for name in CHECKS:
        async with run.tool(name, {"document": page.name, "characters": len(page.text)}) as call:
            found[name] = await asyncio.to_thread(findings_of, page, name)
            call.output = {"findings": len(found[name]), "shown": min(MOST, len(found[name]))}
        for number, finding in enumerate(found[name][:MOST], 1):
            await run.data("finding", {"check": name, **finding}, id=f"{name}-{number}")
    for url, text in await asyncio.to_thread(sources_of, page):
        await run.source(url, title=text or None)
    for word in re.findall(r"\S+\s*|\s+", await asyncio.to_thread(report, page, found)):
        await run.text(word)
        await asyncio.sleep(PACE_SECONDS)


if __name__ == "__main__":
    agent.main()
