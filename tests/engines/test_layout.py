"""Sharing a prefix loses nothing and repeats nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.engines.layout import Group, Row, share

tokens = st.lists(st.integers(0, 2), min_size=1, max_size=6).map(tuple)


@st.composite
def rows(draw: st.DrawFn) -> list[Row]:
    prompt = draw(tokens)
    return [Row(prompt + draw(tokens), len(prompt)) for _ in range(draw(st.integers(1, 4)))]


def sequence(group: Group, number: int) -> tuple[int, ...]:
    return group.prefix + group.branches[number]


def test_by_hand() -> None:
    group = share([Row((1, 2, 3, 4, 9), 2), Row((1, 2, 3, 5, 6, 9), 2)])
    assert group.prefix == (1, 2, 3), "the responses' common opening is shared too"
    assert group.branches == ((4,), (5, 6)), "the last token of a sequence is only predicted"
    assert group.ids == (1, 2, 3, 4, 5, 6)
    assert group.positions == (0, 1, 2, 3, 3, 4)
    assert group.needed == (1, 2, 3, 4, 5), "the prompt's first token predicts nothing that is scored"
    assert group.reads == ((0, 1, 2), (0, 1, 3, 4))
    assert group.places() == [(0, 1), (0, 2), (0, 3), (1, 3), (1, 4)]
    assert (group.tokens, group.longest) == (6, 6)


def test_apart_nothing_is_shared() -> None:
    group = share([Row((1, 2, 3), 1), Row((1, 2, 4), 1)], apart=True)
    assert (group.prefix, group.branches) == ((), ((1, 2), (1, 2)))
    assert group.places() == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert group.reads == ((0, 1), (2, 3))


def test_a_scored_token_needs_one_before_it() -> None:
    for start in (0, 3):
        with pytest.raises(AssertionError, match="predicted by one before it"):
            Row((1, 2, 3), start)


def test_nothing_in_common_and_everything_in_common() -> None:
    apart = share([Row((1, 2), 1), Row((3, 4), 1)])
    assert (apart.prefix, apart.branches, apart.places()) == ((), ((1,), (3,)), [(0, 0), (1, 0)])
    same = share([Row((1, 2, 3), 1), Row((1, 2, 4), 1)])
    assert (same.prefix, same.branches, same.reads) == ((1, 2), ((), ()), ((0, 1), (0, 1)))
    inside = share([Row((1, 2, 3), 1), Row((1, 2, 3, 4, 5), 1)])
    assert (inside.prefix, inside.branches) == ((1, 2), ((), (3, 4)))
    assert inside.places() == [(0, 0), (0, 1), (1, 2), (1, 3)]


@given(rows())
def test_every_scored_token_is_predicted_by_the_token_before_it(given_rows: list[Row]) -> None:
    group = share(given_rows)
    places = group.places()
    for number, row in enumerate(given_rows):
        assert sequence(group, number) == row.ids[:-1]
        assert len(group.reads[number]) == len(row.scored)
        for offset, read in enumerate(group.reads[number]):
            line, position = places[read]
            assert position == row.start - 1 + offset
            assert sequence(group, line)[: position + 1] == row.ids[: position + 1], "the same context"
            assert group.ids[group.needed[read]] == row.ids[position]
            assert group.positions[group.needed[read]] == position


@given(rows())
def test_the_prefix_is_the_longest_one(given_rows: list[Row]) -> None:
    group = share(given_rows)
    following = {sequence(group, n)[len(group.prefix) : len(group.prefix) + 1] for n in range(len(given_rows))}
    assert len(given_rows) == 1 or len(following) > 1 or following == {()}
    assert len(set(group.needed)) == len(group.needed)
