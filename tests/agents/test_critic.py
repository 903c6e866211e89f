"""Critic: the measures of reading, what it makes of an outline, and what it advises."""

from __future__ import annotations

import pytest

# "the com-mit-tee con-sid-ered the pro-pos-al" 11, "it re-jec-ted the rec-om-men-da-tion" 10 syllables; 9 words
HARD = "The committee considered the proposal. It rejected the recommendation."


@pytest.fixture
def critic(program):
    return program("critic")


@pytest.fixture
def read(critic):
    """Split a text into sentences as the handler does."""
    return lambda text: list(critic.sentences_of(critic.prose(text)))


@pytest.fixture
def outlined(critic):
    """Make an outline of (level, title, words) sections and (score, position, line, text) key sentences."""
    return lambda sections, keys=(): critic.Outline(list(sections), list(keys))


# -- measures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "count"),
    [("the", 1), ("made", 1), ("table", 2), ("whole", 1), ("walked", 1), ("wanted", 2), ("agree", 2), ("boxes", 2),
     ("makes", 1), ("committee", 3), ("recommendation", 5), ("rhythm", 1), ("x", 1)],
)  # fmt: skip
def test_syllables(critic, word, count):
    assert critic.syllables(word) == count


def test_the_grade_is_flesch_kincaid(critic, read):
    """0.39 * 9/2 + 11.8 * 21/9 - 15.59 = 13.7; 206.835 - 1.015 * 9/2 - 84.6 * 21/9 = 4.9."""
    facts = critic.measure(read(HARD))

    assert (facts["words"], facts["sentences"], facts["grade"], facts["ease"]) == (9, 2, 13.7, 5)


@pytest.mark.parametrize(
    "text", ["我们的系统很好。它很快。", "هذا نص عربي قصير. وهذه جملة.", "Der Hund schläft. Die Katze frisst."]
)
def test_other_languages_get_no_grade(critic, read, text):
    facts = critic.measure(read(text))

    assert (facts["grade"], facts["passive"], facts["sentences"]) == (None, None, 2)


def test_sentences_know_their_line_length_and_paragraph(read):
    text = (
        "# Title\n\nOne two three. Four\nfive, approx. Six. Dr. Who!\n\n- item seven\n- **item** [eight](http://a.b)\n"
    )
    found = read(text)

    assert [tuple(sentence) for sentence in found] == [
        ("One two three.", 3, 3, 1),
        ("Four five, approx. Six.", 3, 4, 1),
        ("Dr. Who!", 4, 2, 1),
        ("item seven", 6, 2, 2),
        ("item eight", 7, 2, 3),
    ]


def test_code_tables_and_headings_are_not_read(read):
    text = "# Big Title\n\n```\nint x;\n```\n| a | b |\n|---|---|\n\nOnly this.\n\n~~~\nnot this"

    assert [sentence.text for sentence in read(text)] == ["Only this."]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("The log is written by the agent.", 1),
        ("It was never closed, and it has been quickly made.", 1),
        ("The agent writes the log. It is indeed old. They are hundred years old.", 0),
        ("The log is kept. The key was lost. We are here and it is open.", 2),
    ],
)
def test_passive_sentences_are_counted(critic, read, text, count):
    assert critic.measure(read(text))["passive"] == count


def test_lengths_are_sorted_into_four_groups(critic, read):
    text = " ".join(" ".join(["Word"] * size) + "." for size in (1, 10, 11, 20, 21, 30, 31, 60))
    facts = critic.measure(read(text))

    assert (facts["lengths"], facts["long"], facts["longest"], facts["mean"]) == ([2, 2, 2, 2], 2, 60, 23.0)


# -- the outline ------------------------------------------------------------------------------------------------------

KEY = {"score": 2.5, "position": 0.25, "line": 7, "text": "So it is.", "section": "One"}


def run_with(data):
    """The outliner's run, with parts around the outline."""
    other = {"type": "data", "name": "progress", "data": {"headings": [], "key_sentences": []}}
    return {"parts": [{"type": "text", "text": "x"}, {"type": "data", "name": "outline", "data": data}, other]}


def test_the_outline_is_taken_from_the_run(critic):
    found = critic.outline_from(
        run_with({"headings": [{"level": 1, "title": "One", "words": 5}], "key_sentences": [KEY]})
    )

    assert found == ([(1, "One", 5)], [(2.5, 0.25, 7, "So it is.")])


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"parts": None},
        {"parts": []},
        run_with(None),
        run_with([]),
        run_with({"headings": []}),
        run_with({"headings": [{"level": "x", "title": "a", "words": 1}], "key_sentences": []}),
        run_with({"headings": "abc", "key_sentences": []}),
    ],
)
def test_what_is_no_outline_is_not_taken_for_one(critic, other):
    assert critic.outline_from(other) is None


def test_sections_are_added_up_on_the_highest_level_that_has_several(critic, outlined):
    sections = [(0, "", 3), (1, "Title", 5), (2, "A", 10), (3, "A1", 20), (2, "B", 7)]

    assert critic.chapters(outlined(sections)) == [("Title", 5, 5), ("A", 30, 10), ("B", 7, 7)]
    assert critic.chapters(outlined([])) == []


def test_a_section_that_outweighs_the_others_is_named(critic, outlined):
    found = critic.structure(outlined([(2, "A", 60), (2, "B", 20), (2, "C", 20)]), 100)

    assert [(seen, todo) for _, seen, todo in found] == [
        (
            "“A” holds 60% of the text, 3.0 times the median section",
            "Make “A” (60 words) lighter: give its parts headings.",
        )
    ]


def test_a_skipped_level_and_a_late_message_are_named(critic, outlined):
    keys = [(1.0, 0.3, 40, "A."), (9.0, 0.75, 90, "The point.")]
    found = critic.structure(outlined([(1, "A", 40), (3, "B", 30), (1, "C", 30)], keys), 100)

    assert [seen for _, seen, _ in found] == [
        "“B” skips a level below “A”",
        "the key sentences begin after 30% of the text, the strongest comes after 75%",
    ]
    assert found[1][2] == "Say at the start what line 90 says: “The point.”"


@pytest.mark.parametrize("levels", [(1, 2, 3), (0, 2, 2), (0, 3, 3), (3, 1, 2)])
def test_a_level_is_only_skipped_downwards_and_below_a_heading(critic, outlined, levels):
    assert critic.structure(outlined([(level, "x", 30) for level in levels]), 90) == []


@pytest.mark.parametrize(
    ("first", "strongest", "late"), [(0.25, 0.5, False), (0.26, 0.5, True), (0.1, 0.51, True), (0.0, 0.0, False)]
)
def test_the_message_is_late_beyond_the_middle_or_the_first_quarter(critic, outlined, first, strongest, late):
    keys = [(1.0, first, 1, "A."), (2.0, strongest, 9, "B.")]

    assert bool(critic.structure(outlined([], keys), 100)) is late


def test_a_long_text_without_headings_is_told_where_to_put_them(critic, outlined):
    keys = [(1.0, 0.0, line, "A.") for line in (1, 20, 40, 60, 80)]
    found = critic.structure(outlined([(0, "", 400)], keys), 400)

    assert [todo for _, _, todo in found] == ["Add headings, for instance above line 20, 40, 60."]


def test_a_balanced_document_is_left_in_peace(critic, outlined):
    assert critic.structure(outlined([(1, "A", 30), (1, "B", 35), (1, "C", 35)], [(1.0, 0.1, 1, "A.")]), 100) == []


# -- advice and report ------------------------------------------------------------------------------------------------

LONG_SENTENCE = (
    "The gateway reads the log from the position that the client sends with its request, "
    "and it writes every event to every client that is connected at that moment, while the broker does nothing at all."
)


def test_a_long_sentence_is_split_near_its_middle(critic, read):
    """15 words before the first comma, 14 to the second, 7 after it: the cut nearest the middle is ", and"."""
    advice = [told for _, told in critic.advice_on(read(LONG_SENTENCE))]

    assert "Split the sentence of 36 words in line 1 at “, and it writes every event …”." not in advice
    assert "Split the sentence of 36 words in line 1 at “, and it writes every …”." in advice


def test_a_semicolon_is_a_better_place_than_a_comma(critic, read):
    text = "It goes on and on and on like it; then more words come along, yes it is a long one that has to be cut."

    assert any(told.endswith("at “; then more words come …”.") for _, told in critic.advice_on(read(text)))


def test_the_passive_that_is_shown_is_that_of_the_longest_sentence(critic, read):
    text = "It was made. The second line of this little text was written by nobody in particular."
    advice = [told for _, told in critic.advice_on(read(text))]

    assert "Say in line 1 who acts, instead of “was written”." in advice


def test_the_longest_sentence_comes_first_among_the_suggestions(critic, read):
    sentences = read("word " * 60 + "ends here. " + "A short one follows. " * 3)
    report = critic.report("a.md", critic.measure(sentences), sentences, None)

    assert "\n1. Split the sentence of 62 words in line 1 in two.\n2. " in report


def test_an_enumeration_is_better_a_list(critic, read):
    text = "We have " + " · ".join(f"thing number {n} of them" for n in range(6)) + "."

    assert any(
        told.startswith("Make a list of the sentence of 32 words in line 1: “·”")
        for _, told in critic.advice_on(read(text))
    )


@pytest.mark.parametrize(
    "text",
    [
        HARD + " " + LONG_SENTENCE,
        "word " * 20,
        "One. Two. Three. " * 10,
        "我们的系统很好。它很快。" * 10,
        "- a b c d e f g\n" * 5,
    ],
)
def test_there_are_always_three_suggestions(critic, read, text):
    sentences = read(text)
    report = critic.report("a.md", critic.measure(sentences), sentences, None)

    numbered = report.split("### Three suggestions\n\n")[1].splitlines()
    assert [line[:3] for line in numbered] == ["1. ", "2. ", "3. "]
    assert len(set(numbered)) == 3
    assert "not judged: no outline" in report


@pytest.mark.parametrize("text", ["", "Hi.", "```\n" + "code " * 50 + "\n```"])
def test_what_is_too_short_is_not_judged(critic, read, text):
    sentences = read(text)

    assert "too short to judge" in critic.report("a.md", critic.measure(sentences), sentences, None)
