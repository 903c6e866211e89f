"""Outliner: what it takes for a heading, a sentence and a key sentence. Expectations were worked out by hand."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def outliner(program):
    return program("outliner")


@pytest.fixture
def outline(outliner):
    """Outline a text as the handler does."""

    def build(text, name="a.md"):
        return outliner.build_outline(*outliner.document_of({"document": {"name": name, "text": text}}, None))

    return build


def titles(outline):
    return [(heading["level"], heading["title"]) for heading in outline["headings"]]


# -- the document -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "text", "expected"),
    [
        ({"document": {"name": "a.md", "text": "x"}}, "look", ("a.md", "x")),
        ({"document": {"text": ""}}, "look", ("the document", "")),
        ({"document": {"name": "a.md", "text": 5}}, "look", ("the message", "look")),
        ({"document": "x"}, "look", ("the message", "look")),
        (["document"], None, ("the message", "")),
        (None, "a\r\nb\rc\x00\ufeff", ("the message", "a\nb\nc\ufeff")),
        (None, "\ufeffx\ud800", ("the message", "x?")),
    ],
)
def test_the_document_is_the_data_or_else_the_message(outliner, data, text, expected):
    assert outliner.document_of(data, text) == expected


# -- headings ---------------------------------------------------------------------------------------------------------


def test_markdown_headings_have_levels_lines_and_their_own_words(outline):
    found = outline("Opening words.\n\n# One #\n\nTwo words.\n\n### Deep\n\nAnother\n=======\nx y z\n")

    assert titles(found) == [(0, ""), (1, "One"), (3, "Deep"), (1, "Another")]
    assert [heading["line"] for heading in found["headings"]] == [1, 3, 7, 9]
    assert [heading["words"] for heading in found["headings"]] == [2, 2, 0, 3]
    assert (found["format"], found["inferred"], found["words"]) == ("markdown", False, 7)


def test_code_tables_front_matter_and_hashtags_are_no_headings(outline):
    text = (
        "---\ntitle: x\n---\n# Real\n\n```sh\n# comment\n```\n\n#tag here\n\n    # indented\n\n| # | b |\n|---|---|\n"
    )

    assert titles(outline(text)) == [(1, "Real")]


@pytest.mark.parametrize("text", ["---\n\n# A\n\nOnly a rule above.\n", "# A\n\nOne.\n\n---\n\nTwo.\n\n---\n"])
def test_a_rule_is_no_front_matter(outline, text):
    found = outline(text)

    assert (titles(found), found["words"] > 1) == ([(1, "A")], True)


def test_inline_markup_is_not_shown(outline):
    found = outline("# The **bold** [link](http://a.b/c)\n\nSee <https://x.org> and *this* `code_here` now.\n")

    assert titles(found) == [(1, "The bold link")]
    assert found["key_sentences"][0]["text"] == "See https://x.org and this `code_here` now."


def test_plain_text_gets_its_headings_from_numbers_capitals_and_lone_lines(outline):
    text = (
        "INTRODUCTION\nWe begin with some words about it.\n\n1.2 Scope of work\n\nIt is narrow, and it is short.\n\n"
        "The Long Way Home\n\nthey walked. It rained.\n\nTo buy:\n\n- Milk\n- Eggs\n\n1. first thing\n2. second thing\n"
    )

    found = titles(outline(text, "a.txt"))

    assert found == [(1, "INTRODUCTION"), (2, "1.2 Scope of work"), (1, "The Long Way Home")]


def test_a_numbered_paragraph_and_an_indented_line_are_no_headings(outline):
    text = "4. Redistribution. You may copy. And so\non for many lines.\n\n   Centred Title\n\nSome text follows it.\n"

    assert titles(outline(text, "a.txt")) == [(0, "")]


def test_prose_without_headings_is_divided_by_how_its_parts_begin(outline):
    found = outline("\n\n".join(f"Part {word} begins here. And it goes on." for word in "abcdef"), "a.txt")

    assert found["inferred"] is True
    assert titles(found) == [(1, "Part a begins here."), (1, "Part c begins here."), (1, "Part e begins here.")]
    assert [heading["words"] for heading in found["headings"]] == [16, 16, 16]
    assert [heading["line"] for heading in found["headings"]] == [1, 5, 9]


def test_a_paragraph_in_capitals_has_no_heading(outline):
    text = "THE SOFTWARE COMES\nAS IT IS, WITHOUT WARRANTY.\n\nIT MAY FAIL.\n\nAND SO ON.\n"

    assert titles(outline(text, "LICENSE")) == [(0, "")]


def test_only_headings_of_the_document_are_not_inferred(outline):
    assert outline("# A\n\nText.")["inferred"] is False
    assert outline("Text.", "a.md")["inferred"] is True
    assert outline("INTRODUCTION\nText.\n\nMore.", "a.txt")["inferred"] is True


def test_code_is_outlined_by_definitions_and_read_by_comments(outline):
    text = (
        '"""Keeps the log in order."""\n\nimport os\n\nclass Log:\n    """One log of one session."""\n\n'
        "    async def append(self, x=1):\n        # Nothing is lost here.\n        return x\n"
    )
    found = outline(text, "log.py")

    assert found["format"] == "code"
    assert titles(found) == [(0, ""), (1, "Log"), (2, "append")]
    assert [heading["words"] for heading in found["headings"]] == [5, 5, 4]


# -- sentences --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sentences",
    [
        ["Dr. Smith met Prof. Jones, e.g. in Bonn.", "They talked."],
        ["See Fig. 3 and no. 4 for it.", "It costs 3.5 euros."],
        ["J. R. R. Tolkien wrote it.", "The U.S. Army read it."],
        ["He lives in the U.S.", "The rest is known."],
        ["Read https://a.org/x.html?q=1.2 first!", "Why?", "Because…"],
        ['She said "no."', "He left (in the rain.)", "End."],
        ["Wait... then go.", "Done."],
        ["我们的系统很好。", "它很快\uff01", "真的吗\uff1f"],
        ["هل هذا صحيح؟", "نعم هذا صحيح."],
        ["यह अच्छा है।", "वह भी।"],
        ["no full stop at all"],
    ],
)
def test_sentences_end_where_a_reader_ends_them(outliner, sentences):
    glue = "" if sentences[0].endswith("。") else " "
    found = [outliner.clean(text) for _, text in outliner.sentences_of(glue.join(sentences))]

    assert found == sentences


def test_list_items_are_sentences_of_their_own(outline):
    found = outline("Things:\n- first thing here\n- second thing\n  goes on\n3. third\n")

    assert found["sentences"] == 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("我们的系统 is good", 7),
        ("See [the wire](#wire) at https://example.org/a/b.c?d=1, or <http://x.y>.", 7),
        ("It's a well-known fact: 3.5 ms.", 7),
    ],
)
def test_words_are_counted_as_a_reader_would(outliner, text, words):
    assert outliner.count_words(text) == words


# -- key sentences ----------------------------------------------------------------------------------------------------

STORY = """# Tea

The kettle is old. Tea leaves need hot water, and the water must be fresh. My aunt came by. She wore a hat.

## Brewing

Fresh hot water makes the tea leaves open. The weather was mild. It was. Tea leaves need hot water, and the water must
be fresh. A bird sang outside.
"""


def test_the_central_sentence_is_found_and_its_repetition_is_not(outline):
    found = outline(STORY)["key_sentences"]

    texts = [key["text"] for key in found]
    assert texts.count("Tea leaves need hot water, and the water must be fresh.") == 1
    assert not {"It was.", "She wore a hat.", "The weather was mild."} & set(texts)


def test_key_sentences_tell_where_they_stand(outline):
    """STORY has 23 + 29 words; the key sentence follows the 4 words of "The kettle is old."."""
    key = next(key for key in outline(STORY)["key_sentences"] if key["text"].startswith("Tea leaves"))

    assert (key["line"], key["section"], key["position"]) == (3, "Tea", round(4 / 52, 3))


def test_key_sentences_are_few_and_in_order(outline):
    found = outline("\n\n".join(f"Sentence {n} speaks about broker number {n * 7}." for n in range(200)))[
        "key_sentences"
    ]

    assert len(found) == 7
    assert [key["line"] for key in found] == sorted(key["line"] for key in found)


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ("The broker keeps the order of events", "It keeps the order of those events"),
        ("The broker must keep the order here", "The broker does keep the order here"),
        ("The broker keeps the order of events.", "The broker keeps the order of events?"),
        ("The broker keeps the order of events", "The broker keeps order"),
        ("The broker keeps the order of events", "The 17 4.5 + 12,000 = / 99 [3] 0x"),
    ],
)
def test_a_sentence_that_stands_alone_is_better(outliner, better, worse):
    forms = [outliner.form(text, outliner.count_words(text), False, 0.5) for text in (better, worse)]

    assert forms[0] > forms[1]


def test_the_opening_of_a_paragraph_and_of_the_document_count_more(outliner):
    def form(opens, position):
        return outliner.form("The broker keeps the order of all events", 8, opens, position)

    assert [form(False, 0.5), form(True, 0.5), form(False, 0.05)] == [1.0, 1.15, 1.2]


def test_key_sentences_come_from_several_sections(outline):
    """Six sentences on one theme allow two: the second from the other section, where scores are alike."""
    first, second = (
        "\n".join(f"The {word} broker keeps events in order." for word in words)
        for words in (("old", "new", "red"), ("big", "wet", "dry"))
    )
    found = outline(f"# One\n\n{first}\n\n# Two\n\n{second}\n")

    assert [key["section"] for key in found["key_sentences"]] == ["One", "Two"]


# -- size and report --------------------------------------------------------------------------------------------------


def test_a_document_of_headings_stays_small_enough_for_an_event(outline, outliner):
    found = outline("".join(f"# {'long title ' * 40}{n}\n\ntext\n\n" for n in range(2000)))

    assert (found["sections"], len(found["headings"])) == (2000, 400)
    assert len(json.dumps(found)) < 200_000
    assert "… and 1,970 more sections" in outliner.report(found)


def test_the_report_shows_the_upper_levels_of_a_long_document(outline, outliner):
    text = "".join(f"# Chapter {n}\n\n## Part {n}a\n\n## Part {n}b\n\nText.\n\n" for n in range(12))
    shown = outliner.report(outline(text))

    assert "- Chapter 11 · 0 words" in shown
    assert "Part" not in shown.split("### Key")[0]
    assert "… and 24 more sections" in shown


def test_the_report_is_read_as_markdown(outline, outliner):
    report = outliner.report(outline("# Tea\n\nHot water opens the tea leaves.\n\n## Cups\n"))

    assert report == (
        "**a.md**: 6 words, 2 sections\n\n### Outline\n\n- Tea · 6 words\n  - Cups · 0 words\n\n"
        "### Key sentences\n\n1. Hot water opens the tea leaves. *(Tea, line 3)*\n"
    )


@pytest.mark.parametrize("text", ["", " \n\t\n", "\x00\x00", "***\n---\n", "```\nonly code\n```\n"])
def test_nothing_to_outline_is_no_error(outline, text):
    found = outline(text)

    assert (found["headings"], found["key_sentences"], found["words"]) == ([], [], 0)
