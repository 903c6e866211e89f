"""Checker: what is found, and what is left in peace. Expectations were worked out by hand."""

from __future__ import annotations

import pytest


@pytest.fixture
def checker(program):
    return program("checker")


@pytest.fixture
def find(checker):
    """Return the findings of one check: `find("check_links", text)` as (kind, line, message)."""

    def findings(check, text, name="a.md"):
        page = checker.page_of({"document": {"name": name, "text": text}}, None)
        return [(found["kind"], found["line"], found["message"]) for found in checker.findings_of(page, check)]

    return findings


def kinds(findings):
    return [kind for kind, _, _ in findings]


# -- links ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("", "the link has no target"),
        ("a b", "the target has a space in it"),
        ("htp://acme.org", "the address is misspelt"),
        ("http:/acme.org", "the address is misspelt"),
        ("https//acme.org", "the address is misspelt"),
        ("https://", "the address is misspelt"),
        ("https://https://acme.org", "the address is misspelt"),
        ("https://acme..org/", "the address is misspelt"),
        ("https://ac,me.org/", "the address is misspelt"),
        ("https://[::1", "the address cannot be read: Invalid IPv6 URL"),
        ("https://acme.org:99999/", "the address cannot be read: Port out of range 0-65535"),
        ("www.acme.org", "without https:// this is read as a file name"),
        ("acme.com/x", "without https:// this is read as a file name"),
        ("https://acme.org:8443/a_(b)?c=d#e", ""),
        ("https://{host}:8222/x", ""),
        ("https://müller.example/", ""),
        ("http://[::1]:4222/", ""),
        ("docs/readme.md", ""),
        ("mailto:ann@acme.org", ""),
    ],
)
def test_a_target_is_well_formed_or_says_why_not(checker, target, problem):
    assert checker.url_problem(target) == problem


def test_every_form_of_link_is_found_and_code_is_not(checker):
    text = (
        '[a](https://a.org "title") <https://b.org> https://c.org/w_(x). [d][ref] ![e](img.png)\n\n[ref]: https://d.org\n'
        "`https://code.org` `[x](y)`\n\n```\nhttps://fenced.org\n```\n<!-- https://comment.org -->\n"
    )
    page = checker.page_of({"document": {"name": "a.md", "text": text}}, None)

    assert [url for *_, url in checker.links_of(page)] == [
        "https://a.org",
        "https://b.org",
        "https://c.org/w_(x)",
        "https://d.org",
        "img.png",
    ]


def test_an_anchor_needs_a_heading_or_a_name(find):
    text = (
        '# The *API* (v2)!\n\n## Same\n\n## Same\n\nSetext one\n---\n\n<a id="here"></a>\n\n'
        "[1](#the-api-v2) [2](#same) [3](#same-1) [4](#setext-one) [5](#here) [6](#) [7](a.md#same) [8](b.md#zzz)\n"
        "[9](#same-2)\n[10](a.md#nowhere)\n"
    )

    assert find("check_links", text) == [
        ("broken anchor", 13, "no heading here is called #same-2"),
        ("broken anchor", 14, "no heading here is called #nowhere"),
    ]


def test_http_is_reported_where_it_matters(find):
    text = (
        "http://acme.org/x\nhttps://acme.org/x\nhttp://localhost:8080/ http://broker:4222 http://127.0.0.1/ "
        "http://example.com/ http://10.0.0.7/ http://nas.local/\nhttp://plain.org\n"
    )

    assert find("check_links", text) == [
        ("http link", 1, "http:// is not encrypted; elsewhere it has https://"),
        ("http link", 4, "http:// is not encrypted"),
    ]


def test_a_link_that_comes_again_is_a_note_with_its_lines(find):
    text = "https://a.org/x\n\n[y](https://a.org/x)\n\nhttps://a.org/z [w](#w) [w](#w)\n\n# w\n"

    assert find("check_links", text) == [("duplicate link", 1, "linked 2 times (line 1, 3)")]


def test_an_undefined_reference_is_a_link_without_target(find):
    assert find("check_links", "[a][b] and [c][d]\n\n[b]: https://b.org\n") == [
        ("malformed link", 1, "the link has no target")
    ]


def test_sources_are_the_addresses_the_document_cites(checker):
    text = "https://a.org [A](https://a.org) [B](https://b.org) [C](http://c.org) [D](d.md)"
    page = checker.page_of(None, text)

    assert checker.sources_of(page) == [("https://a.org", "A"), ("https://b.org", "B")]


# -- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "Our system has 3 agents.\n\nAll four agents answer.",
        "The 3 busy agents wait. These four busy agents do not.",
        "It runs three agents. The 4 agents share a log.",
        "It runs three busy\nagents. The\n4 busy agents share a log.",
    ],
)
def test_a_whole_that_is_counted_twice_must_agree(find, text):
    assert kinds(find("check_numbers", text)) == ["count"]


@pytest.mark.parametrize(
    "text",
    [
        "Our system has 3 agents. All three agents answer.",  # the same number
        "Another 3 agents start. About four agents wait.",  # neither is the whole
        "The test with 10 sessions took 3 runs, that with 50 sessions 9 runs.",
        "The 3 seconds pass. All 5 seconds pass.",  # a measure
        "The system has 300 agents. All 400 agents answer.",  # large numbers are of experiments
        "It has 3 agents. The two others wait. All 4 critics agree.",
    ],
)
def test_numbers_of_different_things_are_left_in_peace(find, text):
    assert find("check_numbers", text) == []


def test_the_finding_tells_both_numbers_and_their_lines(find):
    assert find("check_numbers", "Our system has 3 agents.\n\nAll four agents answer.") == [
        ("count", 3, "agents: 3 (line 1) but four (line 3); are they the same agents?")
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Satisfaction is 120 %.", ["percentage"]),
        ("Satisfaction is 120 percent of all.", ["percentage"]),
        ("Satisfaction is 100 %.", []),
        ("Output grew by 150 %.", []),
        ("It is 250 % faster.", []),
        ("CPU use is 180 %.", []),
    ],
)
def test_a_share_is_at_most_all(find, text, expected):
    assert kinds(find("check_numbers", text)) == expected


def test_a_unit_is_written_one_way(find):
    assert find("check_numbers", "It takes 5 ms.\nIt took 7ms, 20 MB and 30 MB.") == [
        ("unit", 2, "ms is written in two ways: “5 ms” (line 1) and “7ms” (line 2)")
    ]


TABLE = "| part | size | share |\n|---|--:|--:|\n| a | 1,200 | 33.3 % |\n| b | 300 | 33.3 % |\n| c | 1 | 33.3 % |\n"


@pytest.mark.parametrize(
    ("total", "expected"),
    [
        ("| **Total** | 1,501 | 100.0 % |", []),  # 99.9 %: what rounding may do
        ("| Total | 1,502 | 99.9 % |", [("sum", 6, "size: the rows add up to 1,501, the total says 1,502")]),
        ("| Sum | 1501 | 99.0 % |", [("sum", 6, "share: the rows add up to 99.9, the total says 99.0 %")]),
        ("| Total | none | n/a |", []),
        ("| Total |", []),
        ("| d | 7 | 7 % |", []),
    ],
)
def test_a_total_is_the_sum_of_its_rows(find, total, expected):
    assert find("check_numbers", TABLE + total + "\n") == expected


def test_a_column_of_mixed_units_or_negative_numbers_is_understood(find):
    mixed = "| a | b |\n|---|---|\n| x | 5 ms |\n| y | 1 s |\n| Total | 7 ms |\n"
    signed = "| a | b |\n|---|---|\n| x | $5 |\n| y | -$2 |\n| Total | $4 |\n"

    assert find("check_numbers", mixed) == []
    assert find("check_numbers", signed) == [("sum", 5, "b: the rows add up to 3, the total says $4")]


# -- claims -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Studies show that users love it.", "unnamed authority"),
        ("It is well known that logs win.", "unnamed authority"),
        ("It is the fastest gateway.", "superlative"),
        ("Wrapped as it is, it is the\nfastest gateway.", "superlative"),
        ("This is a state-of-the-art design.", "superlative"),
        ("It is the most reliable way.", "superlative"),
        ("Delivery is guaranteed.", "certainty"),
        ("It is 3x faster than before.", "comparison"),
        ("It is 10 times cheaper.", "comparison"),
        ("About 40 % of the users leave.", "percentage"),
    ],
)
def test_a_claim_needs_a_source(find, text, kind):
    assert kinds(find("check_claims", text)) == [kind]


@pytest.mark.parametrize(
    "text",
    [
        "Studies show it (see [the survey](https://a.org)).",
        "About 40 % of the users leave (Smith 2020).",
        "About 40 % of the users leave [12].",
        "About 40 % of the users leave, according\nto a survey of ours.",
        "About 40 % of the users leave, as REPORT.md says.",
        "Measured on two machines: 40 % less.",
        "It is the fastest gateway. The benchmark is in docs/numbers.md.",
        "See https://a.org for the study. It is the fastest gateway.",
        "The most recent run and the most common case pass, with 100 % coverage.",
        "| part | share |\n|---|---|\n| a | 40 % |\n",
        "`guaranteed`\n\n```\n40 % is the best\n```\n",
    ],
)
def test_a_claim_with_a_source_nearby_or_no_claim_is_left_in_peace(find, text):
    assert find("check_claims", text) == []


def test_a_source_three_sentences_away_is_not_nearby(find):
    text = "It is the fastest gateway. Rain fell. Snow fell. See https://a.org for more."

    assert find("check_claims", text) == [("superlative", 1, "“the fastest” has no source nearby")]


def test_a_sentence_is_reported_once_and_quoted_whole(checker):
    page = checker.page_of(None, "Yes. It is `really` the fastest, and 40 % cheaper. No.")
    found = checker.findings_of(page, "check_claims")

    assert [finding["quote"] for finding in found] == ["It is `really` the fastest, and 40 % cheaper."]


# -- report -----------------------------------------------------------------------------------------------------------


def test_the_report_says_what_was_looked_at_and_the_worst_first(checker):
    text = "https://a.org and https://a.org\n\n[x](#none) [y](b.md)\n"
    page = checker.page_of({"document": {"name": "a.md", "text": text}}, None)
    report = checker.report(page, {check: checker.findings_of(page, check) for check in checker.CHECKS})

    assert report == (
        "**a.md**: 4 links (1 to files I cannot see), 0 numbers; findings: 2\n\n"
        "- Links: 1 broken anchor, 1 duplicate link\n"
        "  - line 3: no heading here is called #none\n"
        "  - line 1: linked 2 times (line 1)\n"
        "- Numbers: nothing to complain about\n"
        "- Claims: nothing to complain about\n"
    )
