from __future__ import annotations

from openvla.report.page import document, section, table


def test_a_page_fetches_nothing_and_escapes_what_it_is_told():
    page = document("a < b", ["it's <i>plain</i>"], [section("One & two", "", "<p>x</p>")])
    assert "<title>a &lt; b</title>" in page
    assert "it&#x27;s &lt;i&gt;plain&lt;/i&gt;" in page
    assert "<h2>One &amp; two</h2><p>x</p>" in page
    assert "http" not in page


def test_words_stand_left_in_a_table():
    assert table(["n", "said"], [(1, "<go>")], ["said"]) == (
        '<div class="wide"><table><thead><tr><th>n</th><th class="words">said</th></tr></thead>'
        '<tbody><tr><td>1</td><td class="words">&lt;go&gt;</td></tr></tbody></table></div>'
    )
