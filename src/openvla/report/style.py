"""The look of a report: one style sheet, light or dark as the reader's system asks."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --paper: #fcfcfb; --card: #fff; --ink: #22262a; --faint: #6f767d; --rule: #e4e5e3;
  --s0: #3d6fa5; --s1: #d5852b; --s2: #4a8f74; --s3: #96568f; --s4: #b0514a; --s5: #7a7f45; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16181b; --card: #1d2023; --ink: #e3e5e6; --faint: #939a9f; --rule: #303438;
    --s0: #6c9fd4; --s1: #e2a05a; --s2: #72b89b; --s3: #c084b8; --s4: #d9837b; --s5: #adb26c; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.55 system-ui, sans-serif; }
main { max-width: 860px; margin: 0 auto; padding: 56px 28px 72px; }
h1 { font-size: 27px; line-height: 1.25; font-weight: 600; letter-spacing: -.01em; margin: 0 0 6px; }
h2 { font-size: 16px; font-weight: 600; margin: 52px 0 4px; }
p { margin: 0 0 14px; max-width: 68ch; }
.faint, .note, figcaption, th, dt { color: var(--faint); }
.note { font-size: 13.5px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(210px, 1fr)); gap: 14px; margin: 28px 0 0; }
.card { max-width: 340px; background: var(--card); border: 1px solid var(--rule); border-radius: 8px;
  padding: 16px 18px 14px; }
.card strong { display: block; font-size: 36px; font-weight: 600; line-height: 1.2; letter-spacing: -.02em; }
.card small { display: block; font-size: 13px; color: var(--faint); }
.key::before { content: ""; display: inline-block; width: 9px; height: 9px; border-radius: 2px; margin-right: 8px;
  background: var(--series); }
svg { display: block; width: 100%; height: auto; margin-top: 10px; font-size: 12.5px; overflow: visible; }
svg .ink { fill: var(--ink); font-variant-numeric: tabular-nums; }
svg .faint { fill: var(--faint); font-size: 11.5px; }
svg .rule { stroke: var(--rule); fill: none; }
svg .whisker { stroke: var(--ink); stroke-width: 1.2; fill: none; opacity: .75; }
svg .budget { stroke: var(--ink); stroke-dasharray: 3 3; fill: none; opacity: .75; }
svg .curve { stroke: var(--series); stroke-width: 1.6; stroke-linejoin: round; fill: none; }
svg .held { stroke-dasharray: 5 4; }
svg .dots circle { opacity: .45; }
.s0 { fill: var(--s0); --series: var(--s0); } .s1 { fill: var(--s1); --series: var(--s1); }
.s2 { fill: var(--s2); --series: var(--s2); } .s3 { fill: var(--s3); --series: var(--s3); }
.s4 { fill: var(--s4); --series: var(--s4); } .s5 { fill: var(--s5); --series: var(--s5); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; margin-top: 10px; }
th, td { text-align: right; padding: 6px 0 6px 16px; border-bottom: 1px solid var(--rule); white-space: nowrap;
  font-variant-numeric: tabular-nums; }
th { font-weight: 500; } th:first-child, td:first-child, .words { text-align: left; } td:first-child, th:first-child
  { padding-left: 0; }
.words { white-space: normal; min-width: 16ch; }
.films { display: grid; grid-template-columns: repeat(auto-fill, minmax(170px, 1fr)); gap: 18px 14px;
  margin-top: 14px; }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(350px, 1fr)); gap: 18px 22px; }
.curves svg { font-size: 22px; } .curves svg .faint { font-size: 20px; }
figure { margin: 0; } figcaption { font-size: 12.5px; line-height: 1.4; margin-top: 5px; }
figcaption b { color: var(--ink); font-weight: 500; }
video { width: 100%; display: block; border-radius: 6px; background: var(--rule); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 3px 18px; font-size: 13px; margin: 10px 0 0; }
dd { margin: 0; overflow-wrap: anywhere; }
"""
