import pytest

from utils.evaluation.protocols import plan_labels


@pytest.mark.parametrize(
    ("available", "headline", "also", "kinds", "read", "is_made"),
    [
        (["full"], "full", [], ("full",), ("full",), False),
        (["full"], "eroded", [], ("eroded",), ("full",), True),
        (["full"], "full", ["eroded"], ("full", "eroded"), ("full",), True),
        (["full"], "eroded", ["full"], ("full", "eroded"), ("full",), True),
        (["full", "eroded"], "full", ["full"], ("full",), ("full",), False),
        (["full", "eroded"], "full", ["eroded"], ("full", "eroded"), ("full", "eroded"), False),
        (["full", "eroded"], "eroded", [], ("eroded",), ("eroded",), False),
        (
            ["full", "eroded"],
            "eroded",
            ["full"],
            ("full", "eroded"),
            ("eroded", "full"),
            False,
        ),
        (["eroded"], "eroded", ["full"], ("eroded",), ("eroded",), False),
    ],
)
def test_what_is_scored_on_and_what_is_read(available, headline, also, kinds, read, is_made):
    plan = plan_labels(available, headline, also)
    assert (plan.headline, plan.kinds, plan.read) == (headline, kinds, read)
    assert plan.is_made == is_made


def test_the_words_say_where_eroded_labels_come_from():
    made, own = plan_labels(["full"], "eroded"), plan_labels(["full", "eroded"], "eroded")
    assert made.phrase("eroded") == "eroded, computed from the full ones with a disc of 3 px"
    assert own.phrase("eroded") == "eroded, as published with the data set"
    assert made.phrase("full") == own.phrase("full") == "full"
