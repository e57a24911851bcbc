"""The page of a tuning study: sound HTML whatever the texts are, right numbers, and small."""

from __future__ import annotations

import random
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from hwsearch.report.landscape import (
    Evaluation,
    Landscape,
    explained,
    landscapes_html,
    shown_seconds,
    write_landscapes,
)

VOID = {"meta"}


class Reader(HTMLParser):
    """Counts elements, collects text, and fails on tags that do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.counts: dict[str, int] = {}
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    for element in ("script", "img", "link", "iframe"):
        assert element not in reader.counts
    links = [value or "" for name, value in reader.attributes if name in ("href", "src")]
    assert all(value.startswith("#") for value in links)
    assert not [name for name, _ in reader.attributes if name.startswith("on")]
    assert "nan" not in page and "inf" not in page
    return reader


def study(*evaluations: Evaluation, **change: Any) -> Landscape:
    values: dict[str, Any] = {
        "kernel": "attention_forward", "gpu": "l4", "key": "bf16, heads of 64", "source": "measured",
        "workload": "fixed:512x64", "evaluations": evaluations,
    }  # fmt: skip
    return Landscape(**values | change)


def of(seconds: float | None = None, failure: str | None = None, **configuration: Any) -> Evaluation:
    return Evaluation(configuration, seconds, failure)


def some(count: int) -> tuple[Evaluation, ...]:
    """`rows` decides the time, `warps` hardly does; every seventh fails."""
    draw = random.Random(0)
    found = []
    for number in range(count):
        rows, warps, stages = draw.choice((32, 64, 128)), draw.choice((4, 8)), draw.randrange(1, 200)
        configuration = {"rows": rows, "warps": warps, "stages": stages, "split": draw.random() < 0.5}
        seconds = 1e-4 * rows / 32 * (1 + 0.05 * draw.random())
        if number % 7 == 6:
            found.append(Evaluation(configuration, failure=f"out of shared memory {number % 3}"))
        else:
            found.append(Evaluation(configuration, seconds))
    return tuple(found)


def test_it_tells_what_matters() -> None:
    evaluations = some(300)
    best = min((e for e in evaluations if e.seconds), key=lambda e: e.seconds or 0)
    default = of(2e-4, rows=64, warps=4, stages=2, split=True)
    page = landscapes_html(
        [
            study(
                *evaluations,
                winner=best,
                default=default,
                alternatives=(default,),
                versions={"triton": "3.6.0"},
            )
        ]
    )
    reader = read(page)
    assert "300 configurations, 42 of which failed" in reader.text and "measured" in reader.text
    assert "triton 3.6.0" in reader.text and "fixed:512x64" in reader.text
    assert f"{2e-4 / (best.seconds or 1):.3f}x" in reader.text
    assert "out of shared memory 0" in reader.text
    captions = re.findall(r"<figcaption>(\w+): explains (\d+) %", page)
    assert captions[0][0] == "rows" and int(captions[0][1]) > 95
    assert {name for name, _ in captions} == {"rows", "warps", "stages", "split"}
    assert all(int(share) < 60 for name, share in captions if name != "rows")
    # Two plots and a panel for each parameter; no table of contents for one study.
    assert reader.counts["svg"] == 2 + 4 and "ol" not in reader.counts


def test_hostile_texts_stay_text() -> None:
    evil = "'><script>alert(1)</script><b onclick=x>\"&"
    evaluations = (
        Evaluation({evil: evil, "rows": 1}, 1e-3),
        Evaluation({evil: "b", "rows": 1}, 2e-3),
        Evaluation({evil: "c"}, failure=evil),
    )
    page = landscapes_html(
        [study(*evaluations, kernel=evil, gpu=evil, key=evil, source=evil, workload=evil,
               versions={evil: evil}, winner=evaluations[0], default=evaluations[2])] * 2
    )  # fmt: skip
    reader = read(page)
    assert "b" not in reader.counts or reader.counts["b"] == 2  # the two words that are bold
    assert reader.text.count("<script>alert(1)</script>") > 10


@pytest.mark.parametrize(
    "evaluations",
    [(), (of(failure="crashed", rows=1),), (of(1e-3, rows=1),), (of(1e-3), of(1e-3))],
    ids=["none", "no success", "one", "without parameters, all alike"],
)
def test_hardly_anything_is_drawn_too(evaluations: tuple[Evaluation, ...]) -> None:
    reader = read(landscapes_html([study(*evaluations, default=of(failure="does not fit", rows=2))]))
    assert f"{len(evaluations)} configurations" in reader.text and "failed: does not fit" in reader.text


def test_values_of_several_types_and_parameters_that_some_lack() -> None:
    evaluations = (
        of(1e-3, one_pass=True, rows=64, rotate="load"), of(2e-3, one_pass=False, dq_rows=32, rotate=1),
        of(3e-3, one_pass=False, dq_rows=64, rotate="scratch"),
    )  # fmt: skip
    reader = read(landscapes_html([study(*evaluations)]))
    assert "The same everywhere: rows 64" in reader.text


def test_five_thousand_evaluations_are_a_small_page(tmp_path: Path) -> None:
    path = tmp_path / "landscape.html"
    write_landscapes(path, [study(*some(5000))])
    assert path.stat().st_size < 300_000
    read(path.read_text(encoding="utf-8"))


def test_several_studies_have_a_table_of_contents() -> None:
    page = landscapes_html([study(of(1e-3, rows=1), key="first"), study(of(1e-3, rows=1), key="second")])
    reader = read(page)
    targets = [value for name, value in reader.attributes if name == "href"]
    ids = [f"#{value}" for name, value in reader.attributes if name == "id"]
    assert targets == ids and len(ids) == 2


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_times_that_are_none_are_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="positive number"):
        of(seconds, rows=1)
    with pytest.raises(ValueError, match="seconds or a failure"):
        of(rows=1)


def test_shares_and_units() -> None:
    assert explained([[1.0, 1.0], [2.0, 2.0]]) == pytest.approx(1)
    assert explained([[1.0, 2.0], [2.0, 1.0]]) == pytest.approx(0)
    assert explained([[1.0], [1.0]]) == 0
    assert [shown_seconds(s) for s in (2.0, 0.0123456, 1.5e-6)] == ["2 s", "12.35 ms", "1.5 µs"]
