"""How a report looks: by day, by night and on paper."""

from __future__ import annotations

__all__ = ["STYLE"]

STYLE = """
:root {
  color-scheme: light dark;
  --ground: #f6f7f9; --card: #ffffff; --line: #e3e6eb; --text: #1a1f29; --muted: #626c7d;
  --good: #1f9d63; --fair: #d99a1c; --poor: #d64545;
  --s0: #2f6fde; --s1: #e0662b; --s2: #1f9d7a; --s3: #e3a70b; --s4: #cf5c9c; --s5: #6a4fc4;
  --s6: #3fa7c9; --s7: #98a1b0;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #0e1218; --card: #161b24; --line: #272f3c; --text: #e6eaf1; --muted: #939eb1;
    --good: #4cc38a; --fair: #e8b85c; --poor: #f4706b;
    --s0: #5c9bf8; --s1: #f58b55; --s2: #3fc79d; --s3: #f0c34a; --s4: #ea86bd; --s5: #a18af2;
    --s6: #6ccbe8; --s7: #6d7789;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--ground); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
}
main { max-width: 1080px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -.01em; }
h2 { font-size: 18px; margin: 0 0 4px; }
p { margin: 0 0 14px; }
.muted, .note, footer { color: var(--muted); }
.note { font-size: 13.5px; }
code, .id { font: 13px/1.5 ui-monospace, "Cascadia Mono", Menlo, "DejaVu Sans Mono", monospace; }
section {
  background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 20px 22px; margin-top: 18px; overflow-x: auto;
}
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 14px;
  margin-top: 26px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 14px 16px; }
.card b { display: block; font-size: 22px; line-height: 1.35; font-weight: 650;
  letter-spacing: -.02em; white-space: nowrap; font-variant-numeric: tabular-nums; }
.card span { color: var(--muted); font-size: 13.5px; }
.card.good b { color: var(--good); } .card.poor b { color: var(--poor); }
svg { display: block; width: 100%; height: auto; margin-top: 10px; }
.tick { fill: var(--muted); font-size: 12px; } .middle { text-anchor: middle; }
.end { text-anchor: end; } .grid { stroke: var(--line); }
.good { fill: var(--good); } .fair { fill: var(--fair); } .poor { fill: var(--poor); }
.there { fill: var(--good); opacity: .75; } .lost { fill: var(--poor); }
.s0 { fill: var(--s0); background: var(--s0); } .s1 { fill: var(--s1); background: var(--s1); }
.s2 { fill: var(--s2); background: var(--s2); } .s3 { fill: var(--s3); background: var(--s3); }
.s4 { fill: var(--s4); background: var(--s4); } .s5 { fill: var(--s5); background: var(--s5); }
.s6 { fill: var(--s6); background: var(--s6); } .s7 { fill: var(--s7); background: var(--s7); }
table { width: 100%; border-collapse: collapse; margin-top: 10px; }
table.narrow { max-width: 420px; }
th { text-align: left; font-size: 13px; font-weight: 600; color: var(--muted); }
th, td { padding: 7px 14px 7px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child td { border-bottom: 0; }
td:last-child, th:last-child { padding-right: 0; }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.nowrap { white-space: nowrap; } .wide { width: 40%; overflow-wrap: anywhere; }
td { overflow-wrap: anywhere; }
.type { position: relative; padding-left: 20px; min-width: 150px; }
.swatch { position: absolute; left: 0; top: 13px; width: 11px; height: 11px; border-radius: 3px; }
.bar { display: block; height: 9px; border-radius: 4px; margin-top: 7px; min-width: 2px; }
.loss { color: var(--poor); font-weight: 600; }
footer { margin-top: 26px; font-size: 13px; }
@media (max-width: 700px) {
  main { padding: 26px 12px 40px; }
  section { padding: 16px; }
  svg { min-width: 600px; }
  .id { display: inline-block; min-width: 130px; }
  .wide { display: none; }
}
@media print {
  :root { color-scheme: light; }
  main { max-width: none; padding: 0; }
  section, .card { break-inside: avoid; }
}
"""
