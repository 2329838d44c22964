"""The style sheet of the page of `check_page.py`; what other pages use too is in `page_style.py`."""

from effdet.report.page_style import PAGE_STYLE

STYLE = (
    PAGE_STYLE
    + """header p.verdict { display: inline-block; margin: 10px 0 4px; padding: 3px 13px; border-radius: 99px;
  font-weight: 600; }
.verdict.problem { color: var(--problem); background: var(--problem-ground); }
.verdict.clean { color: var(--clean); background: var(--clean-ground); }
.finding { border-left: 4px solid var(--note); } .finding.problem { border-left-color: var(--problem); }
.finding h3 b { display: inline-block; margin-left: 5px; padding: 0 9px; border-radius: 99px; font-size: 14px;
  color: var(--card); background: var(--note); } .finding.problem h3 b { background: var(--problem); }
.split { display: inline-block; margin-left: 9px; padding: 0 8px; border: 1px solid var(--line); border-radius: 6px;
  color: var(--dim); font-size: 13px; font-weight: 400; }
.group.n2 { grid-column: span 2; display: grid; grid-template-columns: 1fr 1fr; gap: 4px; }
rect.o, rect.m, circle.m { fill: none; vector-effect: non-scaling-stroke; }
rect.o { stroke: #35c3f3; stroke-opacity: .85; stroke-width: 1; }
rect.m { stroke: #ff2d46; stroke-width: 2.5; } circle.m { stroke: #ff2d46; stroke-width: 2.5; }
figure svg svg { max-height: none; border-radius: 0; }
figure text { fill: #fff; stroke: #b30d22; stroke-width: .35em; paint-order: stroke; stroke-linejoin: round;
  font-weight: 600; }
ul { margin: 8px 0 0; padding-left: 20px; font-size: 14px; overflow-wrap: anywhere; columns: 20em; column-gap: 30px; }
"""
)
