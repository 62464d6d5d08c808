"""The style of the page that `pgbackup windows --html` writes."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f7f7f5; --card: #ffffff; --ink: #1b1c1e; --soft: #62656b; --line: #dcdcd8;
  --wal: #3f7fbf; --track: #ececea; --gap: #c8372d; --backup: #1d5c2f; --lost: #c8372d;
  --point: #8a5a00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #131416; --card: #1c1e21; --ink: #e6e6e3; --soft: #9b9fa6; --line: #34373c;
    --wal: #4d8fd1; --track: #292c30; --gap: #f0695e; --backup: #6fc98a; --lost: #f0695e;
    --point: #e0a83e;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem; max-width: 76rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif;
}
h1 { font-size: 1.35rem; margin: 0; }
h2 { font-size: 1rem; margin: 0 0 .75rem; }
p { margin: .25rem 0 0; color: var(--soft); }
section {
  margin-top: 1rem; padding: 1rem 1.25rem; background: var(--card);
  border: 1px solid var(--line); border-radius: 8px;
}
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: 1rem;
  margin: 1rem 0 0; }
dl div { padding: .75rem 1.25rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; }
dt { color: var(--soft); font-size: .85rem; }
dd { margin: 0; font-size: 1.15rem; font-variant-numeric: tabular-nums; }
dd.bad { color: var(--gap); }
.chart { display: grid; grid-template-columns: max-content 1fr; column-gap: 1rem; }
.name { padding-top: .1rem; white-space: nowrap; font-variant-numeric: tabular-nums; }
.lane { position: relative; height: 3.1rem; margin-bottom: .5rem; }
.track { position: absolute; inset: 0 0 auto 0; height: 1.5rem; background: var(--track);
  border-radius: 4px; overflow: hidden; }
.track span { position: absolute; top: 0; bottom: 0; min-width: 2px; }
.wal { background: var(--wal); }
.gap { background: repeating-linear-gradient(135deg, var(--gap) 0 4px, var(--card) 4px 7px);
  min-width: 5px !important; }
.mark { position: absolute; top: 1.7rem; width: 3px; height: .8rem; margin-left: -1.5px;
  border-radius: 1.5px; background: var(--backup); }
.dense .mark { width: 1.5px; margin-left: -.75px; }
.lane .mark.lost { background: none; border: 1.5px solid var(--lost); width: 5px;
  margin-left: -2.5px; }
.lane .mark.point { top: 2.55rem; width: .5rem; height: .5rem; margin-left: -.25rem;
  border-radius: 0; background: var(--point); transform: rotate(45deg); }
.axis { position: relative; height: 1.6rem; border-top: 1px solid var(--line); color: var(--soft);
  font-size: .8rem; }
.axis span { position: absolute; top: .3rem; transform: translateX(-50%); white-space: nowrap; }
.axis span::before { content: ""; position: absolute; top: -.3rem; left: 50%; height: .3rem;
  border-left: 1px solid var(--soft); }
.axis span.first { transform: none; } .axis span.first::before { left: 0; }
.axis span.last { transform: translateX(-100%); } .axis span.last::before { left: 100%; }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin-top: .75rem;
  color: var(--soft); font-size: .85rem; }
.legend i { display: inline-block; width: 1.2rem; height: .8rem; margin-right: .4rem;
  vertical-align: -.05rem; border-radius: 2px; }
.legend i.tick { width: 3px; margin-left: .4rem; background: var(--backup); }
.legend i.lost { width: 5px; margin-left: .4rem; border: 1.5px solid var(--lost); }
.legend i.diamond { width: .5rem; height: .5rem; margin-left: .3rem; border-radius: 0;
  background: var(--point); transform: rotate(45deg); vertical-align: .1rem; }
.scroll { overflow: auto; max-height: 28rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem;
  font-variant-numeric: tabular-nums; }
th { position: sticky; top: 0; background: var(--card); color: var(--soft); font-weight: 600;
  text-align: left; }
th, td { padding: .3rem 1rem .3rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
td.bad { color: var(--gap); }
@media (max-width: 40rem) { body { padding: .75rem; } .chart { grid-template-columns: 1fr; } }
"""
