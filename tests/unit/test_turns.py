"""What LISA is asked, in every layout, and what stays the same from turn to turn."""

import pytest
from sightline_ensemble import hint
from sightline_ensemble.dialogue import SILENT, Dialogue, compose
from sightline_ensemble.errors import RequestError
from sightline_ensemble.parameters import Options

HISTORY = (("user", "Is it good?"), ("assistant", "No, it is not."))


def test_a_question_alone_is_unaltered():
    found = compose(" q ", [], ())
    assert found == Dialogue((("user", " q "),), 1, " q ") and found.opening == found.turns


def test_experts_stand_before_the_first_question_in_every_layout():
    assert compose("Why?", ["A.", "B."], ()).turns == (("user", "A. B. Why?"),)
    for layout in ("v1", "v2"):
        found = compose("Why?", ["A.", "B."], (), layout)
        assert found.turns == (("user", "A. B."), ("user", "Why?")) and found.first == 2 and found.asked == "A. B.\nWhy?"
    assert compose("Why?", [], (), "v1").turns == (("user", "Why?"),)
    assert compose("Why?", [], (), "v2").turns == (("user", SILENT), ("user", "Why?"))


@pytest.mark.parametrize("layout", ["v0", "v1", "v2"])
def test_a_later_turn_begins_as_the_first_did(layout):
    first = compose("Is it good?", ["A."], (), layout)
    later = compose("Why?", ["A."], HISTORY, layout)
    assert later.opening == first.turns and later.turns[-1] == ("user", "Why?") and later.asked.split() == ["A.", "Why?"]


def test_experts_are_not_said_twice():
    """Whether the client kept its own question, or the prompt that the report told it."""
    first = compose("Is it good?", ["A."], ())
    kept = compose("Why?", ["A."], (("user", first.asked), ("assistant", "Yes.")))
    assert kept.opening == first.turns


def test_a_dialogue_may_begin_with_an_answer():
    found = compose("Why?", ["A."], (("assistant", "Hello."),))
    assert found.turns == (("assistant", "Hello."), ("user", "A. Why?")) and found.first == 2


def test_it_survives_the_wire():
    found = compose("Wo ist der Riß? \u2192", ["A."], HISTORY, "v2")
    assert Dialogue.read(found.write()) == found


def test_what_experts_say():
    part = "The part is at the top left of the image."
    assert hint.experts("A cell", part, "H.", "E") == ["A cell.", part, "H.", "E."]
    assert hint.experts(None, part, "H.", None) == [part, "H."]
    assert hint.experts(None, part, None, None) == [] == hint.experts("", None, None, " ")


def test_options_are_read_and_handed_on():
    assert Options.read("") == Options("v0", "none") and not Options().parameters
    found = Options.read('{"prompt_layout": "v2", "augment": "flips", "temperature": 1}')
    assert found.parameters == {"prompt_layout": "v2", "augment": "flips"}
    with pytest.raises(RequestError, match="INVALID_ARGUMENT: prompt_layout: 'v9', expected one of v0, v1, v2"):
        Options.read('{"prompt_layout": "v9"}')
    with pytest.raises(RequestError, match="INVALID_ARGUMENT: augment: 'True', expected one of none, flips, rotations"):
        Options.read('{"augment": true}')
