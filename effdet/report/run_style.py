"""The style sheet of the reports; what other pages use too is in `page_style.py`."""

from effdet.report.page_style import PAGE_STYLE

_COLORS = ("--s0", "--s1", "--s2", "--s3", "--problem", "--s5", "--note", "--dim")  # of lines and marks, by number
_KINDS = {  # colors of boxes over images, of the rim of their texts, and on the page in light and in dark
    "classification": ("#d08bff", "#5c1f96", "#8a4fc4", "#c18cf0"),
    "localization": ("#ff9a3c", "#8f4300", "#d9771a", "#f0a458"),
    "both": ("#ff6ad5", "#8d1268", "#c2479b", "#ee86cb"),
    "duplicate": ("#6f9bff", "#1d3f9c", "#3c6fd6", "#82a9f5"),
    "background": ("#ff3b52", "#a30d20", "#c6303e", "#ff7b86"),
    "missed": ("#ffd21f", "#6b5200", "#b58a00", "#e9c64b"),
}

_PAGE = """
:root { --s5: #1795a8; } @media (prefers-color-scheme: dark) { :root { --s5: #4fc3d4; } }
html { scroll-behavior: smooth; scroll-padding-top: 56px; } body { overflow-wrap: anywhere; }
header { margin-bottom: 14px; } .small { font-size: 13px; } code { font-size: .92em; } h4 { margin: 0 0 4px;
  font-size: 14px; }
nav { position: sticky; top: 0; z-index: 2; display: flex; gap: 4px 18px; overflow-x: auto; margin: 0 -20px 16px;
  padding: 9px 20px; background: var(--ground); border-bottom: 1px solid var(--line); font-size: 14px; white-space:
    nowrap; }
nav a { color: var(--dim); text-decoration: none; } nav a:hover { color: var(--ink); }
a { color: var(--s0); } :focus-visible { outline: 2px solid var(--s0); outline-offset: 2px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 14px; margin-bottom: 14px; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 18px 13px; }
.tile span, .tile small { display: block; color: var(--dim); font-size: 14px; } .tile small { font-size: 13px;
  min-height: 1.5em; }
.tile b { display: block; font-size: 31px; line-height: 1.25; font-weight: 650; letter-spacing: -.02em;
  font-variant-numeric: tabular-nums; } .tile:first-child b { color: var(--s0); }
.says { margin: 6px 0 0; padding-left: 19px; } .says li { margin: 5px 0; } .says li::marker { color: var(--s0); }
.note { margin-top: 0; border-left: 4px solid var(--note); font-size: 14px; }
.facts { columns: 290px 3; column-gap: 34px; margin-top: 10px; } .facts > div { break-inside: avoid; padding-bottom:
  14px; }
dl { display: grid; grid-template-columns: minmax(90px, max-content) 1fr; gap: 2px 14px; margin: 0; font-size: 14px; }
dt { color: var(--dim); } dd { margin: 0; min-width: 0; }
th, td { white-space: nowrap; } .text { text-align: left; } td.dim { margin: 0; }
table.metrics { width: 100%; } table.metrics th:first-child { padding-right: 30px; } table.metrics td.track, th.track
  { width: 34%; min-width: 150px; }
td.text.dim { white-space: normal; } .track { display: block; width: 100%; height: 14px; overflow: visible; }
td.track, th.track { display: table-cell; height: auto; }
.rail { fill: var(--track); } .span { opacity: .38; } .plot { position: relative; margin-top: 6px; container-type:
  inline-size; }
.charts { margin-bottom: 14px; align-items: start; } .charts .card { height: 100%; } .three { grid-template-columns:
  repeat(auto-fit, minmax(min(100%, 330px), 1fr)); }
.plot svg { display: block; width: 100%; height: auto; touch-action: pan-y; }
.plot text, .matrix text { fill: var(--ink); font-size: 12.5px; } .plot .tick { fill: var(--dim);
  font-variant-numeric: tabular-nums; }
@container (max-width: 400px) { .plot text { font-size: 16.5px; } }
.plot text.name, .matrix text.name { fill: var(--dim); } .grid { stroke: var(--line); } .axis { stroke: var(--dim);
  stroke-opacity: .55; fill: none; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; vector-effect: non-scaling-stroke; }
.thin { stroke-width: 1.4; } .dashed { stroke-dasharray: 5 4; } .pale { opacity: .45; } .ideal { stroke: var(--dim);
  stroke-width: 1.4; }
.ring { fill: none; stroke: var(--ink); stroke-width: 1.6; } .cursor { stroke: var(--dim); stroke-dasharray: 2 3; }
.plot circle:not(.ring):not(.dot) { fill: var(--ink); stroke: var(--card); pointer-events: none; }
.with-own .curve:not(.own) { opacity: .35; } .bar rect, rect.bar { fill: var(--s0); opacity: .8; }
i.over { background: var(--problem); opacity: .45; } i.under { background: var(--s2); }
rect.over { fill: var(--problem); opacity: .32; } rect.under { fill: var(--s2); }
.tip { position: absolute; top: 14px; z-index: 1; padding: 5px 10px; border: 1px solid var(--line); border-radius:
  7px;
  background: var(--card); font-size: 13px; white-space: pre; pointer-events: none; box-shadow: 0 2px 10px rgb(0 0 0 /
    .14);
  max-width: 100%; overflow: hidden; text-overflow: ellipsis; }
.tools { display: flex; flex-wrap: wrap; align-items: center; gap: 8px 12px; margin: 6px 0 10px; font-size: 14px; }
select, input[type=search] { font: inherit; font-size: 14px; color: var(--ink); background: var(--card); max-width:
  100%;
  border: 1px solid var(--line); border-radius: 7px; padding: 5px 9px; } select { max-width: 260px; }
.chips { display: flex; flex-wrap: wrap; gap: 6px; }
.chip { font: inherit; font-size: 14px; color: var(--ink); background: none; border: 1px solid var(--line);
  border-radius: 99px;
  padding: 3px 12px; cursor: pointer; } .chip b { font-weight: 500; color: var(--dim); }
.chip[aria-pressed=true] { background: var(--ink); border-color: var(--ink); color: var(--card); }
.chip[aria-pressed=true] b { color: inherit; }
.chip i { display: inline-block; width: 9px; height: 9px; border-radius: 50%; margin-right: 6px; }
.shows { display: flex; gap: 12px; color: var(--dim); } .shows input { vertical-align: -1px; }
.errors { margin-top: 10px; } .errors .row { display: grid; grid-template: "name bar points count" / 190px 1fr 52px
  52px; gap: 2px 14px;
  align-items: center; padding: 4px 0; } .errors span { grid-area: name; } .errors b { grid-area: points; } .errors em
    { grid-area: count; }
.errors small { display: block; color: var(--dim); font-size: 13px; } .errors .rail { grid-area: bar; background:
  var(--track); border-radius: 3px; }
.errors i { display: block; height: 15px; border-radius: 3px; min-width: 2px; }
.errors b, .errors em { text-align: right; font-weight: 500; font-style: normal; font-variant-numeric: tabular-nums; }
.errors em, .errors .head > * { color: var(--dim); font-size: 13px; font-weight: 400; }
.confusion { display: flex; flex-wrap: wrap; gap: 10px 44px; margin-top: 12px; }
.confusion > * { flex: 0 1 auto; min-width: 0; max-width: 100%; } .confusion > :first-child { flex-shrink: 0; }
.confusion > :last-child:not(:first-child) { flex: 1 1 330px; }
.matrix { display: block; } .matrix.fit {
    max-width: 100%; height: auto; }
.matrix .frame { fill: var(--track); } .matrix .right { fill: var(--s0); } .matrix .wrong { fill: var(--problem); }
.matrix .number { font-size: 13.5px; font-variant-numeric: tabular-nums; pointer-events: none; }
.matrix .long { font-size: 11px; }
.matrix .light {
  fill: var(--card); }
.matrix text.other { fill: var(--dim); font-style: italic; } .matrix text.fine { font-size: 11px; } .pairs {
  font-size: 14px; }
.tall { contain: content; max-height: 620px; overflow: auto; margin-top: 8px; }
.rows { font-size: 14px; margin: 0; width: 100%; }
.rows thead th { position: sticky; top: 0; z-index: 1; background: var(--card); padding: 0 12px 0 0; box-shadow: 0 1px
  var(--line); }
.rows tbody th { position: sticky; left: 0; background: var(--card); max-width: 260px; overflow: hidden;
  text-overflow: ellipsis;
  font-weight: 500; } .rows td, .rows tbody th { padding: 4px 12px 4px 0; } .rows thead th:first-child { left: 0;
    z-index: 2; }
.rows button { font: inherit; color: var(--dim); background: none; border: 0; padding: 5px 0; cursor: pointer; }
.rows button:hover { color: var(--ink); } .rows button { position: relative; } .rows button::after { content:
  "\\2195"; position: absolute; left: 100%; opacity: 0; }
.rows button:hover::after { opacity: .5; }
[aria-sort=ascending] button::after { content: "\\2191"; opacity: 1; color: var(--s0); }
[aria-sort=descending] button::after { content: "\\2193"; opacity: 1; color: var(--s0); }
td.bar { min-width: 92px; background: linear-gradient(90deg, color-mix(in srgb, var(--s0) 26%, transparent) var(--f),
  transparent 0)
  0 50% / calc(100% - 12px) 18px no-repeat; }
.gallery .open > * { aspect-ratio: 4 / 3; object-fit: contain; }
.pictures { grid-template-columns: repeat(auto-fill, minmax(min(100%, 265px), 1fr)); } .bars.small { font-size: 13px;
  margin-top: 4px; }
figure .open { display: block; width: 100%; padding: 0; border: 0; background: none; cursor: zoom-in; border-radius:
  6px; }
.open img { display: block; width: 100%; max-height: 340px; object-fit: contain; border-radius: 6px; background:
  var(--track); }
.b { fill: none; vector-effect: non-scaling-stroke; stroke-width: 2.2; pointer-events: all; } .b.truth { stroke:
  #35c3f3; stroke-width: 1.3; stroke-dasharray: 4 3; }
.b.right { stroke: #4be07c; stroke-width: 1.3; } .no-truth .b.truth, .no-right .b.right { display: none; }
text.b { fill: #fff; stroke-width: .3em; vector-effect: none; paint-order: stroke; stroke-linejoin: round;
  font-weight: 600;
  pointer-events: none; font-family: system-ui, sans-serif; } .blank { fill: var(--track); } .none { fill: var(--dim);
    }
.legend i[class^=line-] { width: 16px; height: 0; border-top: 3px solid; border-radius: 0; vertical-align: 4px; }
.legend i.line-truth { border-top: 2px dashed #35c3f3; } .legend i.line-right { border-top: 2px solid #3ecf6d; }
dialog { width: min(1100px, 96vw); max-width: none; max-height: 96vh; padding: 10px; border: 1px solid var(--line);
  border-radius: 10px;
  background: var(--card); color: var(--ink); } dialog::backdrop { background: rgb(0 0 0 / .65); }
.large svg, .large img { display: block; width: 100%; max-height: 82vh; object-fit: contain; border-radius: 6px; }
dialog .row { display: flex; gap: 8px; align-items: center; margin-top: 8px; } dialog p { flex: 1; margin: 0;
  font-size: 14px; }
dialog button { font: inherit; color: var(--ink); background: none; border: 1px solid var(--line); border-radius: 7px;
  padding: 3px 13px; cursor: pointer; }
.key { list-style: none; margin: 8px 0 0; padding: 0; font-size: 14px; } .key li { margin: 3px 0; } .key i, .sides th
  i, .pairs th i {
  display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 5px; }
table.sides { width: 100%; table-layout: fixed; } .sides th:first-child { width: 136px; } td.side small { font-size:
  12.5px; } .zero { fill: var(--dim); opacity: .6; }
.pairs td.track { min-width: 170px; width: 34%; } .pairs small { display: block; text-align: center; }
.wide { width: 100%; } .higher, .lower { font-weight: 600; }
.higher { color: var(--clean); } .lower { color: var(--problem); }
[hidden] { display: none !important; }
@media (max-width: 600px) { nav { margin: 0 -12px 14px; padding: 9px 12px; } .tiles { grid-template-columns: 1fr 1fr;
  gap: 8px; }
  .tile { padding: 9px 13px; } .tile b { font-size: 25px; }
  .pictures { grid-template-columns: 1fr; } .errors .row { grid-template: "name points count" "bar bar bar" / 1fr 48px
    48px; }
  td.side { min-width: 0; } td.side small { display: block; } .sides th:first-child { width: 104px; }
  table { font-size: 14px; } .tools { font-size: 14px; }
  table.metrics, .metrics tbody { display: block; } .metrics tr:first-child { display: none; }
  .metrics tr { display: grid; grid-template-columns: 104px 42px 1fr auto; align-items: center; gap: 0 8px; padding:
    3px 0; } .metrics tr > :nth-child(4) { width: 92px; }
  .metrics th, .metrics td, table.metrics th:first-child, table.metrics td.track { padding: 0; min-width: 0; width:
    auto; }
  table.metrics td.text { grid-column: 1 / -1; font-size: 12.5px; }
  .rows tbody th { max-width: 130px; } .tall { max-height: 75vh; } }
@media print { nav, .tools { display: none; } .tall { max-height: none; } .card { break-inside: avoid; } }
"""


def _colored() -> str:
    """The rules of the colors by number and of the kinds of errors."""
    rules = [
        f"path.c{number} {{ stroke: var({name}); }} rect.c{number}, circle.c{number} {{ fill: var({name}); }} "
        f"i.c{number} {{ background: var({name}); }}"
        for number, name in enumerate(_COLORS)
    ]
    dark = []
    for kind, (image, deep, light, night) in _KINDS.items():
        rules.append(
            f"rect.k-{kind} {{ stroke: {image}; }} text.k-{kind} {{ stroke: {deep}; }} "
            f"i.k-{kind} {{ background: {light}; }} .legend i.line-{kind} {{ border-color: {light}; }}"
        )
        dark.append(f"i.k-{kind} {{ background: {night}; }} .legend i.line-{kind} {{ border-color: {night}; }}")
    rules.append("rect.k-missed { stroke-dasharray: 7 4; } .legend i.line-missed { border-top-style: dashed; }")
    return "\n".join([*rules, f"@media (prefers-color-scheme: dark) {{ {' '.join(dark)} }}"])


RUN_STYLE = f"{PAGE_STYLE}{_PAGE}{_colored()}\n"
