"""The page: its numbers are the record's, its text is escaped, it loads nothing, nothing is left out."""

import base64
import hashlib
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from sprig.core.types import Certificate, Claim, GroupRow, Measures
from sprig.report import render_html
from sprig.report.numbers import exact


class Page(HTMLParser):
    """The parts of a page that the tests ask for, read by a parser that knows nothing of the writer."""

    VOID = ("meta", "link", "br", "wbr", "img", "hr", "input")

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.raw: dict[str, str] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("script", "style"):
            self.raw[self.open[-1]] = self.raw.get(self.open[-1], "") + data
            if self.open[-1] == "script" and data.lstrip().startswith("{"):
                self.raw["records"] = data
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))

    def having(self, tag: str, **attrs: str) -> list[dict[str, str | None]]:
        return [
            a for t, a in self.tags if t == tag and all(a.get(k) == v for k, v in attrs.items())
        ]


def read(record) -> Page:
    page = Page(render_html(record))
    assert page.open == [], "every element is closed"
    return page


@pytest.mark.parametrize("count", [1, 3, 60])
def test_numbers_in_page_equal_numbers_in_record(record_of, count):
    record = record_of(count)
    page = read(record)
    values = {a["value"] for a in page.having("data")}
    wanted = []
    for measures in (record.before, record.after):
        wanted += [measures.macs, measures.params, measures.bytes, *measures.quality.values()]
        wanted += [latency["median"] for latency in measures.latency_ms.values()]
    for point in record.curve:
        wanted += [
            point.fraction,
            point.macs,
            point.params,
            point.predicted,
            *point.measured.values(),
        ]
    wanted += [claim.value for claim in record.certificate.claims]
    assert {exact(v) for v in wanted} <= values
    assert {v for v in values if float(v) not in set(map(float, wanted))} == {
        "0.0001",
        "300000000",
    }  # tolerances
    assert "4.109 G" in page.text
    assert "2.046 G" in page.text
    assert "49.8%" in page.text  # 2,046,112,345 of 4,109,464,576
    assert "−0.4 points" in page.text  # 97.13% after 97.51%
    assert "1.59× faster" in page.text  # 31.42 to 19.81 ms
    assert "30.9 to 33.1" in page.text


def test_changing_the_record_changes_the_page(record_of):
    record = record_of(3)
    after = replace(record.after, macs=1_234_567_890)
    assert 'value="1234567890"' not in render_html(record)
    assert 'value="1234567890"' in render_html(replace(record, after=after))


@pytest.mark.parametrize("count", [3, 60])
def test_every_group_appears_with_its_numbers(record_of, count):
    record = record_of(count)
    page = read(record)
    text = page.text
    sent = json.loads(page.raw["records"])["groups"]
    assert [g["name"] for g in sent] == [row.name for row in record.groups]
    for row, group in zip(record.groups, sent, strict=True):
        assert row.name in text
        assert f"{len(row.kept)} / {row.size}" in text
        bits = "".join(f"{int(digit, 16):04b}" for digit in group["units"])[: row.size]
        assert tuple(i for i, bit in enumerate(bits) if bit == "1") == row.kept
        if row.errors:
            at = group["at"].index(len(row.kept))
            assert group["errors"][at] == pytest.approx(row.errors[len(row.kept)], rel=5e-3)
            assert group["floor"][at] == pytest.approx(row.floor[len(row.kept)], rel=5e-3)
    free = [row for row in record.groups if row.errors]
    assert len(page.having("button", **{"class": "card"})) == len(free)


def test_stripes_are_the_units_that_stay(record_of):
    record = record_of(12)
    drawn = [a["d"] for a in Page(render_html(record)).having("path", **{"class": "units"})][
        1:
    ]  # first: legend
    assert len(drawn) == len(record.groups)
    for row, d in zip(record.groups, drawn, strict=True):
        at, found = 0, []
        for move, length in re.findall(r"m(-?\d+) \d+h(\d+)", d):
            at += int(move)
            found += range(at, at + int(length))
            at += int(length)
        assert tuple(found) == row.kept


def test_reasons_of_untouchable_groups_are_told(record_of):
    record = record_of(20)
    page = read(record)
    reasons = {row.reason for row in record.groups if row.reason}
    assert len(reasons) == 2
    for reason in reasons:
        assert reason in page.text
        rows = [row for row in record.groups if row.reason == reason]
        assert len(page.having("li", **{"class": "fixed", "title": reason})) == len(rows)


def test_text_is_escaped_everywhere(record_of, certificate_of):
    evil = '</script><script>alert("x")</script><img src=x onerror=alert(1)>\'&amp;'
    record = record_of(3)
    row = replace(record.groups[0], name=evil)
    fixed = GroupRow(evil, 4, (0, 1, 2, 3), evil, 0.0)
    claim = Claim(evil, evil, False, 1.0, 2.0, evil, evil, {evil: evil})
    certificate = replace(
        certificate_of(), claims=(claim,), hashes={evil: evil}, versions={evil: evil}
    )
    measures = replace(record.after, quality={evil: 0.5}, latency_ms={evil: {"median": 1.0}})
    record = replace(
        record,
        title=evil,
        config={evil: evil, "model": f"torchvision:{evil}"},
        plan=replace(record.plan, method=evil),
        certificate=certificate,
        before=measures,
        after=measures,
        groups=(row, *record.groups[1:], fixed),
        curve=tuple(replace(p, measured={evil: 0.25}) for p in record.curve),
        log=({"stage": evil, evil: evil, "epoch": 1}, {"stage": evil, evil: evil, "epoch": 2}),
    )
    text = render_html(record)
    page = read(record)
    assert evil in page.text
    assert page.having("img") == []
    assert len(page.having("script")) == 2
    assert "<script>alert" not in text
    assert "make_model()" in page.text  # a spec that is no name never gets into the snippet
    assert json.loads(page.raw["records"])["groups"][0]["name"] == evil


def test_page_loads_nothing(record_of):
    text = render_html(record_of(12))
    page = Page(text)
    assert "http://" not in text
    assert "https://" not in text
    for tag, attrs in page.tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "image", "use")
        assert not {"src", "srcset", "data", "action", "xlink:href", "poster"} & set(attrs)
        assert (attrs.get("href") or "#").startswith("#")
    assert "@import" not in page.raw["style"]
    assert "url(" not in page.raw["style"]
    for word in ("fetch(", "XMLHttpRequest", "import(", "WebSocket", "innerHTML", "eval("):
        assert word not in page.raw["script"]


def test_policy_allows_exactly_the_script_of_the_page(record_of):
    text = render_html(record_of(3))
    policy = Page(text).having("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    script = text.rsplit("<script>", 1)[1].rsplit("</script>", 1)[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_links_lead_somewhere_and_ids_are_unique(record_of, certificate_of):
    for record in (
        record_of(5),
        record_of(5, certificate=None, curve=(), log=(), groups=(), plan=None),
    ):
        page = read(record)
        ids = [a["id"] for _, a in page.tags if a.get("id")]
        assert len(ids) == len(set(ids))
        assert {a["href"][1:] for a in page.having("a")} <= set(ids)


def test_failing_claims_are_visible(record_of, certificate_of):
    page = read(record_of(5, certificate=certificate_of(True)))
    assert "Certificate does not hold." in page.text
    assert "1 of the 3 claims of its certificate does not hold" in page.text
    assert len(page.having("li", **{"class": "fail"})) == 1
    assert len(page.having("li", **{"class": "pass"})) == 2
    assert "✗ fails" in page.text
    assert (
        page.text.count("300,000,001") == 2
    )  # at the top and in the certificate, told from its tolerance
    assert "Certificate holds." not in page.text
    whole = read(record_of(5))
    assert "Certificate holds." in whole.text
    assert "✗" not in whole.text


def test_without_certificate_nothing_is_claimed(record_of):
    page = read(record_of(5, certificate=None))
    assert "there is no certificate" in page.text
    assert "Certificate holds" not in page.text
    empty = read(record_of(5, certificate=Certificate((), {}, {}, 0)))
    assert "its certificate makes no claim" in empty.text
    assert "Certificate holds" not in empty.text


def test_without_latency_quality_log_or_curve(record_of):
    record = record_of(
        5, log=(), curve=(), before=Measures(100, 50, 200), after=Measures(60, 40, 160)
    )
    page = read(record)
    assert "Latency was not measured." in page.text
    assert "Neither accuracy nor agreement was measured." in page.text
    assert "it was not tested on data" in page.text
    assert not page.having("section", id="budgets")
    assert not page.having("section", id="log")


def test_a_run_that_changed_nothing_says_so(record_of):
    record = record_of(5)
    assert "Nothing was cut" in read(replace(record, after=record.before)).text


def test_values_that_are_not_finite_are_said_in_words(record_of, certificate_of):
    nan, inf = math.nan, math.inf
    record = record_of(6)
    row = replace(
        record.groups[0],
        errors=tuple([1.0, nan, inf] * 30)[: record.groups[0].size + 1],
        floor=(nan,) * 65,
    )
    claims = (Claim("a", "b", False, nan, inf, "", ""), *certificate_of().claims)
    record = replace(
        record,
        certificate=replace(certificate_of(), claims=claims),
        before=replace(
            record.before, quality={"accuracy": nan}, latency_ms={"1": {"median": nan, "low": inf}}
        ),
        after=replace(
            record.after, quality={"accuracy": inf}, latency_ms={"1": {"median": 2.0, "high": nan}}
        ),
        groups=(row, *record.groups[1:]),
        curve=tuple(replace(p, predicted=nan, measured={"accuracy": inf}) for p in record.curve[:9])
        + record.curve[9:],
        log=({"epoch": 1, "loss": nan}, {"epoch": 2, "loss": inf}, {"epoch": 3, "loss": 0.5}),
    )
    text = render_html(record)
    page = Page(text)
    assert "not finite" in page.text
    for tag, attrs in page.tags:
        for key, value in attrs.items():
            assert not re.search(r"(?i)\b(nan|inf|infinity)\b", value or ""), (tag, key, value)
    assert not re.search(r"(?i)\b(nan|inf|infinity)\b", page.text)
    json.loads(page.raw["records"], parse_constant=lambda word: pytest.fail(word))


def test_long_and_foreign_names(record_of):
    name = "编码器.блок_" + "très_long." * 20 + "🌱"
    record = record_of(4)
    record = replace(
        record, title=name, groups=(replace(record.groups[0], name=name), *record.groups[1:])
    )
    page = read(record)
    assert page.text.count(name) >= 3
    assert len(page.having("wbr")) > 20  # so that it can break on a narrow screen


def test_page_stays_light(record_of):
    assert len(render_html(record_of(37)).encode()) < 400_000
    assert len(render_html(record_of(150)).encode()) < 800_000


def test_drawings_are_named_and_described(record_of):
    text = render_html(record_of(8))
    named = r"(<title>[^<]+</title><desc>[^<]+</desc>)?"
    charts = re.findall(r'<svg class="(?:chart[^"]*|profile)" role="img">' + named, text)
    assert len(charts) > 8
    assert all(charts)


def test_log_keeps_its_ends_and_says_what_it_left_out(record_of):
    log = tuple({"step": i, "loss": 1 / (i + 1)} for i in range(500))
    page = read(record_of(3, log=log))
    assert "440 in the middle left out" in page.text
    rows = re.search(r'<section id="log">.*?</section>', render_html(record_of(3, log=log)), re.S)[
        0
    ]
    assert rows.count("<tr>") == 61
    assert ">499</td>" in rows


def test_snippet_names_the_constructor(record_of):
    record = record_of(3)
    cases = {
        "torchvision:resnet50": "model=torchvision.models.resnet50()",
        "timm:efficientnet_lite0": 'model=timm.create_model("efficientnet_lite0")',
        "mynet.zoo:build": "from mynet.zoo import build",
        "no spec": "make_model",
    }
    for spec, wanted in cases.items():
        assert wanted in read(replace(record, config={"model": spec})).text
