"""Packs hold what was put in; a list holds what fits; links are those that the page's script makes."""

from __future__ import annotations

import json
import math
import random
import re
import zlib

import pytest
from markupsafe import Markup

from harness.report.page import pack
from harness.report.page.lists import Card, CardList, fill, key_of, link


@pytest.mark.parametrize(
    "value",
    [[], {"a": [1, 2.5, None, True, "x"]}, "</script><!-- ]]>", "\ud800 \u2028 \x00 é", [[["deep"]] * 3], 10**12],
)
def test_what_is_packed_comes_out_again(value: object) -> None:
    assert pack.decode(pack.encode(value)) == value


def test_what_json_does_not_have_is_null() -> None:
    assert pack.decode(pack.encode({"a": (math.nan, [math.inf, -math.inf], 1.0)})) == {"a": [None, [None, None], 1.0]}


def test_a_pack_is_a_script_that_is_none() -> None:
    element = pack.pack('x"><b>', ["</script>"])
    found = re.fullmatch(
        r'<script type="application/octet-stream" class="pack" id="([^"<>]*)">([A-Za-z0-9+/=]+)</script>\n', element
    )
    assert found is not None
    assert found[1] == "x&#34;&gt;&lt;b&gt;"
    assert pack.decode(found[2]) == ["</script>"]
    assert pack.bytes_of(Markup("é")) == 2


def test_raw_deflate_is_what_browsers_call_deflate_raw() -> None:
    """``DecompressionStream('deflate-raw')`` takes no zlib header."""
    import base64

    data = base64.b64decode(pack.encode("a" * 1000))
    assert zlib.decompress(data, wbits=-15) == json.dumps("a" * 1000).encode()
    with pytest.raises(zlib.error):
        zlib.decompress(data)


@pytest.mark.parametrize("room", [0, 100, 1_000, 50_000, 10**9])
def test_what_fits_fits(room: int) -> None:
    chance = random.Random(room)
    items = [[index, f"{chance.getrandbits(1600):0400x}"] for index in range(1000)]
    kept = pack.fitting(items, room)
    assert kept == items[: len(kept)]
    assert len(kept) in range(1001)
    assert not kept or len(pack.pack("n", kept)) <= room
    if room == 50_000:  # and little room is left
        assert len(pack.pack("n", items[: len(kept) + 25])) > room
    assert (len(kept) == 1000) == (room == 10**9)


def test_items_that_are_not_needed_are_not_made() -> None:
    made = []

    def items() -> object:
        for index in range(10_000):
            made.append(index)
            yield [f"{random.Random(index).getrandbits(256):064x}"]

    kept = pack.fitting(items(), 10_000)  # type: ignore[arg-type]
    assert 0 < len(kept) <= len(made) < len(kept) + 33


def test_links_are_those_of_the_script() -> None:
    assert link("flips", {}) == "flips"
    assert link("flips", {"category": "", "id": "a"}) == "flips?id=a"
    assert link("flips", {"move": "refusal → compliance", "top riser": "a&b=c#d/e"}) == (
        "flips?move=refusal%20%E2%86%92%20compliance&top%20riser=a%26b%3Dc%23d%2Fe"
    )
    assert link("x", {"id": "-_.!~*'()"}) == "x?id=-_.!~*'()"  # as encodeURIComponent leaves them
    assert link("x", {"id": "\ud800"}) == "x?id=%5Cud800"


def test_a_key_is_short_and_can_be_stored() -> None:
    assert key_of("plain") == "plain"
    assert len(key_of("x" * 10**6)) == 200
    key_of("\ud800").encode("utf-8")


def _list(name: str, number: int, size: int, first: int = 2) -> CardList:
    chance = random.Random(name)

    def drawer(index: int) -> Card:
        return Card(f"{name}-{index}", ("c",), lambda: Markup(f"{chance.getrandbits(4 * size):0{size}x}"))

    cards = [drawer(index) for index in range(number)]
    return CardList(name, 0, "thing", ("corpus",), cards, number, ("tables/a.parquet",), {}, first)


def packed(markup: Markup) -> dict[str, dict[str, object]]:
    return {name: pack.decode(text) for name, text in re.findall(r'id="([^"]*)">([^<]*)<', markup)}


def test_lists_share_the_room_and_count_what_is_left() -> None:
    lists = [_list("few", 5, 100), _list("many", 500, 400), _list("more", 500, 400)]
    found = fill(lists, 60_000)
    assert len(found) <= 60_000
    assert len(found) > 45_000
    packs = packed(found)
    assert len(packs["cards-few-0"]["cards"]) == 5  # type: ignore[arg-type]
    assert packs["cards-few-0"]["more"] == ""
    kept = len(packs["cards-many-0"]["cards"])  # type: ignore[arg-type]
    assert 0 < kept < 500
    assert packs["cards-many-0"]["more"] == f"{500 - kept} more things not in this page: see tables/a.parquet."
    assert abs(kept - len(packs["cards-more-0"]["cards"])) < 40  # type: ignore[arg-type]


def test_a_full_page_keeps_the_cards_that_stand_in_it() -> None:
    packs = packed(fill([_list("many", 50, 400, first=3)], 0))
    assert [card[0] for card in packs["cards-many-0"]["cards"]] == ["many-0", "many-1", "many-2"]  # type: ignore[attr-defined]
