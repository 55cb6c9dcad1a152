"""The style of the report, in addition to the common one (`ui/html.py`)."""

STYLE = """
header p { overflow-wrap: anywhere }
.verdict { margin: 1.5rem 0 0; padding: .75rem 1rem; background: var(--panel); border-radius: .5rem;
  border-left: .3rem solid var(--soft) }
.is-good { border-color: var(--good) } .is-bad { border-color: var(--bad) } .is-warn { border-color: var(--warn) }
.verdict .all { margin: 0; overflow-wrap: anywhere } .warn { color: var(--warn) } .soft { color: var(--soft) }
.verdict .text p, .why p { color: var(--ink); overflow-wrap: anywhere; margin: .35rem 0 }
.hint { border-radius: .25rem } .hint b { color: var(--good); font-weight: 600 }
.why { margin-bottom: .5rem; padding-bottom: .5rem; border-bottom: 1px solid var(--line) }
.why p:first-child { font-weight: 600 }
pre { margin: .5rem 0; font: .8125rem/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; tab-size: 4 }
pre.line { margin: 0; padding-left: 1rem } details > pre { padding: .75rem; background: var(--panel);
  border-radius: .5rem; max-height: 34rem; overflow-y: auto }
details { margin: .5rem 0 } summary { cursor: pointer; overflow-wrap: anywhere; font-weight: 600 }
summary span { font-weight: 400; color: var(--soft) }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; margin: .5rem 0; font-size: .875rem }
dt { color: var(--soft) } dd { margin: 0; overflow-wrap: anywhere; min-width: 0 }
footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: .5rem; font-size: .875rem }
.rows { display: grid; grid-template-columns: max-content 1fr; gap: 2px .75rem; align-items: center;
  font-size: .8125rem; margin: .5rem 0 }
.rows .name { max-width: 14rem; text-align: right; overflow-wrap: anywhere; line-height: 1.2;
  font-variant-numeric: tabular-nums }
.track { position: relative; height: 1rem; min-width: 0; background: var(--panel); border-radius: 2px;
  overflow: hidden }
.track i { position: absolute; top: 0; bottom: 0; min-width: 2px; border-radius: 2px }
.track i.mark { width: 4px; min-width: 4px; margin-left: -2px; border-radius: 0; z-index: 1 }
.axis { display: flex; justify-content: space-between; color: var(--soft); font-size: .75rem }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1rem; font-size: .8125rem; color: var(--soft); margin: .5rem 0 }
.legend b { display: inline-block; width: .75rem; height: .75rem; border-radius: 2px; margin-right: .35rem;
  vertical-align: -1px }
.c-start { background: var(--s0); opacity: .35 } .c-run { background: var(--s1) } .c-good { background: var(--good) }
.c-bad { background: var(--bad) } .c-warn { background: var(--warn) } .c-end { background: var(--s0) }
.c-unseen { background: repeating-linear-gradient(45deg, var(--bad) 0 2px, transparent 2px 4px) }
.track i.c-unseen { width: 10px; margin-left: -10px } .c-lost { background: var(--s3) }
.k0 { background: var(--s0) } .k1 { background: var(--s1) } .k2 { background: var(--s2) } .k3 { background: var(--s3) }
.k4 { background: var(--s4) } .k5 { background: var(--good) } .k6 { background: var(--warn) }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1rem }
.charts figure { margin: 0; min-width: 0 } figure b { font-weight: 600 }
svg.curve { height: 7rem; overflow: hidden } svg.curve polyline { fill: none; stroke-width: 1.5;
  vector-effect: non-scaling-stroke; stroke-linejoin: round }
h3 { font-size: 1rem; margin: 1.25rem 0 .25rem }
@media (max-width: 40rem) { .rows { column-gap: .5rem } .rows .name { max-width: 7rem }
  dl { grid-template-columns: minmax(0, max-content) minmax(0, 1fr) } dt { max-width: 7rem; overflow-wrap: anywhere } }
@media print { details > pre { max-height: none } body { max-width: none } }
"""
