"""The style sheet that all HTML pages have in common: light and dark, wide and narrow."""

PAGE_STYLE = """
:root { --ground: #f5f6f8; --card: #fff; --ink: #1c2330; --dim: #616b7c; --line: #dfe3ea;
  --problem: #c6303e; --problem-ground: #fdecee; --note: #96690b; --clean: #1c7a47; --clean-ground: #e5f5ec;
  --s0: #2f6fcb; --s1: #e08a2e; --s2: #3a9d6c; --s3: #8d7bb8; --track: #edf0f4; }
@media (prefers-color-scheme: dark) { :root { --ground: #12151b; --card: #1b2029; --ink: #e4e8ef; --dim: #98a3b5;
  --line: #2d3441; --problem: #ff7b86; --problem-ground: #3a1c22; --note: #e0b04c; --clean: #62cf94;
  --clean-ground: #16301f; --s0: #5f9bee; --s1: #e9a052; --s2: #5dbb8b; --s3: #ab9ad4; --track: #262c37; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 24px 20px 60px; }
header { margin-bottom: 28px; } header p { margin: 6px 0 0; overflow-wrap: anywhere; color: var(--dim); }
h1 { font-size: 28px; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 20px; margin: 34px 0 12px; }
h3 { font-size: 16px; line-height: 1.4; margin: 0; overflow-wrap: anywhere; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 16px 18px;
  margin-bottom: 14px; min-width: 0; }
.dim { color: var(--dim); margin: 4px 0 0; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; margin-top: 8px; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 22px 4px 0; text-align: right; } th { font-weight: 500; color: var(--dim); }
th:first-child { text-align: left; color: var(--ink); } tr + tr { border-top: 1px solid var(--line); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 14px; }
.charts .card { margin: 0; } .charts .bars + h3 { margin-top: 24px; }
.bars { display: grid; grid-template-columns: minmax(70px, max-content) 1fr max-content; gap: 5px 12px;
  align-items: center; margin-top: 10px; font-size: 14px; }
.bars span { max-width: 160px; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.bars b { font-weight: 500; text-align: right; font-variant-numeric: tabular-nums; }
.bars svg { display: block; width: 100%; height: 13px; background: var(--track); border-radius: 3px; }
.s0 { fill: var(--s0); background: var(--s0); } .s1 { fill: var(--s1); background: var(--s1); }
.s2 { fill: var(--s2); background: var(--s2); } .s3 { fill: var(--s3); background: var(--s3); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 6px 0 0; color: var(--dim); font-size: 14px; }
.legend i { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 6px; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 250px), 1fr)); gap: 12px;
  margin-top: 14px; align-items: start; }
figure { margin: 0; min-width: 0; } figure svg { display: block; width: 100%; max-height: 340px; border-radius: 6px;
  background: var(--track); }
figcaption { font-size: 13px; color: var(--dim); margin-top: 4px; overflow-wrap: anywhere; }
.nothing { display: grid; place-items: center; min-height: 84px; border: 1px dashed var(--line); border-radius: 6px;
  color: var(--dim); }
details { margin-top: 10px; } summary { cursor: pointer; color: var(--dim); }
@media (max-width: 600px) { main { padding: 18px 12px 40px; } .card { padding: 13px 13px; } h1 { font-size: 23px; }
  .pictures { grid-template-columns: 1fr 1fr; gap: 8px; } th, td { padding-right: 14px; }
  .bars span { max-width: 130px; } }
"""
