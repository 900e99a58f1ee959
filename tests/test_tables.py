"""What is written reads back equal; a file is there whole or not at all."""

import numpy as np
import pytest

from harness import tables
from harness.domain import Completion, DroppedRow, FinishReason, Label, PairScore, Reading, ResponseScore
from harness.errors import RecordError
from harness.protocols import FirstTokens

HOSTILE = "<script>\x00\x1b[31m\u202e\u2028\ud7ff 😀 " + "x" * 1000


def test_completions_and_readings(tmp_path):
    completions = [
        Completion("a", 0, HOSTILE, 7, FinishReason.STOP, "theft"),
        Completion("a", 1, "", 0, FinishReason.LENGTH),
    ]
    readings = [Reading(Label.REFUSAL, HOSTILE), Reading(Label.DEGENERATE, "empty")]
    tables.write_completions(tmp_path / "c.parquet", completions)
    tables.write_readings(tmp_path / "l.parquet", completions, readings)
    assert tables.read_completions(tmp_path / "c.parquet") == completions
    assert tables.read_readings(tmp_path / "l.parquet") == readings


def test_scores_keep_every_bit(tmp_path):
    values = (-1.0 / 3.0, -1e-300, -700.123456789012345)
    scores = [
        PairScore("a", ResponseScore(values), ResponseScore((-0.5,)), True, "x"),
        PairScore("b", ResponseScore((-1.0,)), ResponseScore(())),
        PairScore("c", ResponseScore((-1.0, -2.0), (" naïve", "\u202e\x00")), ResponseScore((-0.5,), ("",))),
    ]
    tables.write_scores(tmp_path / "s.parquet", scores)
    assert tables.read_scores(tmp_path / "s.parquet") == scores


def test_scores_without_texts_of_tokens(tmp_path):
    """As tables were before these were kept, and as they are where a server tokenises."""
    scores = [PairScore("a", ResponseScore((-1.0,)), ResponseScore((-0.5,)))]
    tables.write_scores(tmp_path / "s.parquet", scores)
    assert tables.read_scores(tmp_path / "s.parquet") == scores
    frame = tables.read_frame(tmp_path / "s.parquet").drop(columns=["chosen_pieces", "rejected_pieces"])
    frame.to_parquet(tmp_path / "old.parquet", index=False)
    assert tables.read_scores(tmp_path / "old.parquet") == scores


def test_texts_of_other_tokens_are_refused():
    with pytest.raises(ValueError, match="1 log-probabilities, and texts of 2 tokens"):
        ResponseScore((-1.0,), ("a", "b"))


def test_first_tokens(tmp_path):
    tokens = FirstTokens(
        pair_ids=("a", "b"),
        log_probs=np.log(np.array([[0.5, 0.5], [0.1, 0.9]], dtype=np.float32)),
        chosen=np.array([0, 1]),
        rejected=np.array([1, 0]),
        directions=np.array([[1.0, -1.0]], dtype=np.float32),
        direction_of=np.array([0, 0]),
        vocabulary=(" Yes", "\u2581No"),
    )
    tables.write_first_tokens(tmp_path / "f.safetensors", tokens)
    back = tables.read_first_tokens(tmp_path / "f.safetensors")
    assert (back.pair_ids, back.vocabulary) == (tokens.pair_ids, tokens.vocabulary)
    for name in ("log_probs", "chosen", "rejected", "directions", "direction_of"):
        assert np.array_equal(getattr(back, name), getattr(tokens, name))
        assert getattr(back, name).dtype == getattr(tokens, name).dtype


def test_rows_are_a_column_per_field(tmp_path):
    tables.write_rows(tmp_path / "p.parquet", [DroppedRow(3, "empty", "an empty 'prompt'")])
    assert tables.read_frame(tmp_path / "p.parquet").to_dict("records") == [
        {"row": 3, "kind": "empty", "reason": "an empty 'prompt'"}
    ]
    with pytest.raises(ValueError, match="no rows"):
        tables.write_rows(tmp_path / "none.parquet", [])


def test_missing_and_damaged_tables(tmp_path):
    with pytest.raises(RecordError, match="no table"):
        tables.read_frame(tmp_path / "none.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(RecordError, match="is damaged"):
        tables.read_frame(tmp_path / "bad.parquet")
    with pytest.raises(RecordError, match="missing or damaged"):
        tables.read_first_tokens(tmp_path / "bad.parquet")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_write_that_breaks_leaves_nothing(tmp_path, error):
    target = tmp_path / "sub" / "t.txt"

    def half(path):
        path.write_text("half")
        raise error("broken off")

    with pytest.raises(error):
        tables.write_atomically(target, half)
    assert list((tmp_path / "sub").iterdir()) == []


def test_a_write_that_breaks_leaves_the_old_file(tmp_path):
    target = tmp_path / "t.txt"
    target.write_text("old")

    def half(path):
        path.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        tables.write_atomically(target, half)
    assert target.read_text() == "old"
