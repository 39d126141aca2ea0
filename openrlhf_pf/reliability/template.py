"""The template of report.html: one file without anything to fetch, for phones and desks, light and dark.

``page`` fills it in. A block with ``words(...)`` explains the terms that its text is the first to use. ``STYLE`` and
``filled`` serve the page on preference pairs, too.
"""

from typing import Any

from openrlhf_pf.reliability import svg


def filled(page: str, **values: Any) -> str:
    """A page of this style with its values, escaped where they are not markup, and the colours of both schemes."""
    from jinja2 import Environment
    from markupsafe import Markup

    colours = {"light": Markup(svg.variables(False)), "dark": Markup(svg.variables(True))}
    return Environment(autoescape=True).from_string(page).render(**colours, **values)


STYLE = """
:root { color-scheme: light dark; {{ light }} --shade: #0004; }
@media (prefers-color-scheme: dark) { :root { {{ dark }} --shade: #fff4; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--ink); font: 1rem/1.55 system-ui, sans-serif;
       overflow-wrap: break-word; }
header, main, footer { max-width: 72rem; margin: 0 auto; padding: 0 1rem; }
header { padding-top: 2rem; } main { padding-bottom: 2rem; } footer { padding-bottom: 3rem; }
h1 { font-size: clamp(1.7rem, 1.3rem + 2vw, 2.5rem); line-height: 1.15; margin: 0 0 .75rem; letter-spacing: -.015em; }
h2 { font-size: 1.35rem; line-height: 1.25; margin: 2.75rem 0 .75rem; letter-spacing: -.01em; }
h3 { font-size: 1rem; line-height: 1.35; margin: 0 0 .25rem; }
p, ul, dl { margin: 0 0 .75rem; } header p, .text { max-width: 44rem; }
code { font: .92em ui-monospace, monospace; }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; border-radius: 4px; }

.cards { display: grid; gap: 1rem; grid-template-columns: minmax(0, 1fr); }
.card { background: var(--card); border: 1px solid var(--rule); border-top: 4px solid var(--c0); border-radius: 10px;
        padding: 1rem 1.1rem; }
.card.open { border-top-color: var(--c4); } .card.bad { border-top-color: var(--c1); }
.card h3 { color: var(--muted); font-weight: 600; }
.card :last-child { margin-bottom: 0; }
.short { font-size: 1.45rem; line-height: 1.2; font-weight: 700; margin-bottom: .6rem; letter-spacing: -.01em; }
.rest { color: var(--muted); font-size: .92rem; }
.meter { position: relative; height: .6rem; margin: .9rem .35rem .3rem; border-radius: 1rem; background: var(--rule); }
.meter span { position: absolute; top: 0; bottom: 0; background: var(--c0); }
.meter .guess { left: 50%; width: 2px; top: -.25rem; bottom: -.25rem; background: var(--muted); }
.meter .range { opacity: .45; border-radius: 1rem; }
.meter .dot { width: .9rem; height: .9rem; margin: -.15rem 0 0 -.45rem; border-radius: 1rem;
              border: 2px solid var(--card); }
.scale { display: flex; justify-content: space-between; font-size: .8rem; color: var(--muted); margin-bottom: .6rem; }

.words { border-top: 1px solid var(--rule); padding-top: .6rem; margin-top: .8rem; font-size: .86rem;
         line-height: 1.45; color: var(--muted); max-width: 44rem; }
.words div { margin-bottom: .3rem; } .words dt, .words dd { display: inline; margin: 0; }
.words dt { color: var(--ink); font-weight: 600; } .words dt::after { content: ": "; }
.notes { background: var(--card); border: 1px solid var(--rule); border-left: 4px solid var(--c4); border-radius: 10px;
         padding: .8rem 1.1rem .8rem 2rem; }
li { margin-bottom: .35rem; }

.figures { display: grid; gap: 1rem; grid-template-columns: minmax(0, 1fr); align-items: start; }
figure, .panel { margin: 0; background: var(--card); border: 1px solid var(--rule); border-radius: 10px;
                 padding: .9rem 0 0; min-width: 0; overflow: hidden; }
figure h3, figcaption, .panel h3, .panel p, .panel .words { padding-left: 1.1rem; padding-right: 1.1rem; }
figcaption { padding-bottom: 1rem; font-size: .92rem; color: var(--muted); }
figcaption .words { padding-left: 0; padding-right: 0; margin-bottom: 0; }
figure svg { display: block; width: 100%; max-width: 27rem; margin: .25rem auto .5rem; stroke-linejoin: round;
             font-family: system-ui, sans-serif; }
.of { color: var(--muted); font-weight: 400; }

.scroll { overflow-x: auto; background: linear-gradient(to right, var(--card) 30%, transparent) left,
  linear-gradient(to left, var(--card) 30%, transparent) right,
  linear-gradient(to right, var(--shade), transparent) left, linear-gradient(to left, var(--shade), transparent) right;
  background-repeat: no-repeat; background-size: 3rem 100%, 3rem 100%, .6rem 100%, .6rem 100%;
  background-attachment: local, local, scroll, scroll; }
.scroll:focus-visible { outline-offset: -3px; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; line-height: 1.35;
        font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: .6rem 1.1rem; color: var(--muted); }
th, td { padding: .45rem .6rem; text-align: right; vertical-align: top; border-top: 1px solid var(--rule); }
th { font-weight: 600; } thead th { border-top: 0; vertical-align: bottom; color: var(--muted); }
th:first-child { text-align: left; padding-left: 1.1rem; } th:last-child, td:last-child { padding-right: 1.1rem; }
.panel .hint { padding-top: .6rem; border-top: 1px solid var(--rule); }
td { white-space: nowrap; } small { display: block; font-size: .8rem; font-weight: 400; color: var(--muted); }
.flat small { display: inline; margin-left: .4rem; }
.wide th:first-child { position: sticky; left: 0; background: var(--card); border-right: 1px solid var(--rule);
                       padding-right: .8rem; }
.wide th { white-space: nowrap; }
tr.best th:first-child { box-shadow: inset 4px 0 var(--c0); } tr.best td, tr.best th { font-weight: 700; }
.tag { display: inline-block; font-size: .75rem; font-weight: 600; color: var(--accent);
       border: 1px solid currentColor; border-radius: 1rem; padding: 0 .5rem; }

details { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; margin: 0 0 .75rem;
          overflow: hidden; }
summary { cursor: pointer; font-weight: 600; padding: .75rem 1.1rem; }
summary:focus-visible { outline-offset: -3px; }
details > :not(summary, .scroll) { margin-left: 1.1rem; margin-right: 1.1rem; }
.hint { font-size: .88rem; color: var(--muted); }
.meanings { columns: 22rem; column-gap: 2rem; } .meanings dt { font-weight: 600; break-after: avoid; }
.meanings dd { margin: 0 0 .5rem; color: var(--muted); break-inside: avoid; }
@media (max-width: 30rem) {
  .panel th, .panel td { padding-left: .3rem; padding-right: .3rem; }
  .panel th:first-child { padding-left: .8rem; overflow-wrap: anywhere; }
  .panel th:last-child, .panel td:last-child { padding-right: .8rem; }
}
@media (min-width: 54rem) {
  .cards { grid-template-columns: minmax(0, 1.1fr) minmax(0, 1.4fr) minmax(0, .8fr); }
  .figures { grid-template-columns: repeat(2, minmax(0, 1fr)); }
}
"""

PAGE = (
    """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Is the reward model right?</title>
<style>"""
    + STYLE
    + """</style>
</head>
<body>
{%- macro words() %}{% set found = glossary.new_in(*varargs) %}{% if found %}
<dl class="words">{% for term, meaning in found %}<div><dt>{{ term }}</dt><dd>{{ meaning }}.</dd></div>
{% endfor %}</dl>{% endif %}{% endmacro %}
{%- macro value(cell) %}<td>{{ cell.value }}{% if cell.interval %}<small>{{ cell.interval }}</small>{% endif %}</td>
{%- endmacro %}
{%- macro box(label, wide=True) %}<div class="scroll{% if wide %} wide{% endif %}" tabindex="0" role="region"
 aria-label="{{ label }}">{{ caller() }}</div>{% endmacro %}
{%- macro pictures(kinds) %}{% for f in figures if f.kind in kinds %}
<figure data-block><h3>{{ f.title }}{% if f.of %}<span class="of"> · {{ f.of }}</span>{% endif %}</h3>
{{ f.svg }}
<figcaption>{{ f.caption }}{{ words(f.title, f.caption) }}</figcaption></figure>
{% endfor %}{% endmacro %}
<header data-block>
<h1>Is the reward model right?</h1>
<p>A <strong>policy</strong>, the model that is trained, has answered prompts several times. Each response has a
<strong>reward</strong>, what the reward model thinks of it, and a <strong>true score</strong>, what it is worth.
Training follows the rewards; a <strong>filter</strong> lets only some of the responses train, those whose rewards can
be relied on.</p>
{% for line in opening %}<p class="opening">{{ line }}</p>
{% endfor %}
{{ words(*opening) }}
</header>
<main>
{% if together %}<h2>All checkpoints together</h2>
<section class="card {{ together.state }}" data-block><p>{{ together.text }}</p>{{ words(together.text) }}</section>
{% endif %}
{% for a in answers %}<h2>{{ a.name if answers | length > 1 else "Three answers" }}</h2>
<div class="cards">
{% for q in a.questions %}<section class="card {{ q.state }}" data-block>
<h3>{{ q.question }}</h3><p class="short">{{ q.short }}.</p>
{% if loop.first and a.meter %}<div class="meter" role="img" aria-label="{{ a.meter.label }}">
<span class="range" style="left: {{ a.meter.low }}%; width: {{ a.meter.width }}%"></span><span class="guess"></span>
<span class="dot" style="left: {{ a.meter.at }}%"></span></div>
<div class="scale" aria-hidden="true"><span>0%</span><span>guessing</span><span>100%</span></div>
{% endif %}<p>{{ q.first }}</p>{% for line in q.rest %}<p class="rest">{{ line }}</p>{% endfor %}
{{ words(q.question, q.short, q.first, *q.rest) }}</section>
{% endfor %}</div>
{% endfor %}
{% if warnings %}<h2>What to keep in mind</h2>
<div data-block class="text"><ul class="notes">{% for line in warnings %}<li>{{ line }}</li>{% endfor %}</ul>
{{ words(*warnings) }}</div>{% endif %}

<h2>The filters compared</h2>
<div class="figures">
{% for c in checkpoints %}<div class="panel" data-block>
<h3>Filters by gain{% if checkpoints | length > 1 %}<span class="of"> · {{ c.name }}</span>{% endif %}</h3>
{% call box("Filters by gain, " ~ c.name, False) %}<table>
<thead><tr><th scope="col">filter</th><th scope="col">k</th><th scope="col">gain</th>
<th scope="col">pairs right</th></tr></thead><tbody>
{% for row in c.ranked %}<tr{% if row.best %} class="best"{% endif %}><th scope="row">{{ row.label }}
{%- if row.best %} <span class="tag">recommended</span>{% endif %}<small>{{ row.meaning }}</small></th>
<td>{{ row.keep }}</td>{% for cell in row.cells %}{{ value(cell) }}{% endfor %}</tr>
{% endfor %}</tbody></table>{% endcall %}
<p class="hint">Small numbers are {{ level }} intervals. k is how many responses of a prompt train; pairs right is the
share of pairs of them in which the better response has the higher reward.</p>
{{ words("gain interval", "k = 1") }}</div>
{% set told = glossary.new_in(*c.names) %}{% endfor %}
{{ pictures(["gains"]) }}</div>

{% if curves %}<h2>What it costs: fewer or more responses</h2>
<div data-block><p class="text">Drawing a response costs generation; training on it costs a forward and a backward
pass. The gain for other numbers of either, from the same samples.
{% for line in curve_notes %}{{ line }} {% endfor %}</p>
{{ words("N", "k = 1") }}</div>
<div class="figures">{{ pictures(["keep", "samples"]) }}</div>
<details style="margin-top: 1rem"><summary>The numbers of these curves</summary>
{% for c in curves %}{% call box("Gain by responses drawn and trained, " ~ c.name) %}<table class="flat">
<caption>{% if curves | length > 1 %}{{ c.name }}. {% endif %}Small numbers are {{ level }} intervals.</caption>
<thead><tr><th scope="col">filter</th><th scope="col">drawn (N)</th><th scope="col">trained (k)</th>
<th scope="col">gain</th></tr></thead><tbody>
{% for row in c.rows %}<tr><th scope="row">{{ row.label }}</th><td>{{ row.drawn }}</td><td>{{ row.trained }}</td>
{{ value(row.cell) }}</tr>
{% endfor %}</tbody></table>{% endcall %}{% endfor %}</details>
{% endif %}

<h2>Where rewards and true scores agree</h2>
<div data-block class="text">{% for line in sentences %}<p>{{ line }}</p>
{% endfor %}{{ words(*sentences) }}</div>
<div class="figures">{{ pictures(["reliability", "rank", "histogram", "calibration", "drift"]) }}</div>

{% if validation %}<h2>Could it have been found?</h2>
<div data-block class="text"><p>Reward models whose flaw is known have judged as many responses to as many prompts as
there are here. How often does the same analysis say what it says of very many prompts: is the ranking within a prompt
right, which of its ends is wrong, and which filter is best?</p>{% for line in found %}<p>{{ line }}</p>{% endfor %}
{{ words(*found) }}</div>
<div class="panel">{% call box("What would be found of planted reward models", False) %}<table>
<thead><tr><th scope="col">planted reward model</th><th scope="col">ranking</th><th scope="col">ends</th>
<th scope="col">filter</th></tr></thead><tbody>
{% for world, meaning, cells in validation %}<tr><th scope="row">{{ world }}<small>{{ meaning }}</small></th>
{% for cell in cells %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table>{% endcall %}</div>
{% endif %}

<h2>Everything else</h2>
<details data-block><summary>The paper's R² of each filter</summary>
<p>The responses are cut into {{ settings.bins }} groups of similar reward, as many in each. Below 0, the line falls:
higher rewards have lower scores. Small numbers are {{ level }} intervals.</p>
{{ words("R²", "interval") }}
{% call box("R² of each filter") %}<table>
<thead><tr><th scope="col">filter</th><th scope="col">k</th>
{%- for c in checkpoints %}<th scope="col">{{ c.name }}</th>{% endfor %}</tr></thead><tbody>
{% for row in r2_rows %}<tr{% if row.best %} class="best"{% endif %}><th scope="row">{{ row.label }}</th>
<td>{{ row.keep }}</td>{% for cell in row.cells %}{{ value(cell) }}{% endfor %}</tr>
{% endfor %}</tbody></table>{% endcall %}</details>
{% if ranks %}<details data-block><summary>Which ranks of a prompt should train</summary>
<p>Rank 1 is the highest reward of a prompt. Weights that were chosen from these prompts look better on them than they
are; on other prompts means: chosen without a fifth of the prompts, judged on that fifth. J is signal to noise.</p>
{% for c in ranks %}{% call box("Weights of the ranks, " ~ c.name) %}<table>
<caption>{% if ranks | length > 1 %}{{ c.name }}. {% endif %}Small numbers are {{ level }} intervals.</caption>
<thead><tr><th scope="col">rule</th>{% for i in range(c.n) %}<th scope="col">{{ i + 1 }}</th>{% endfor %}
<th scope="col">J, same prompts</th><th scope="col">J, other prompts</th></tr></thead><tbody>
{% for row in c.rows %}<tr><th scope="row">{{ row.title }}</th>{% for w in row.weights %}<td>{{ w }}</td>{% endfor %}
{% for cell in row.cells %}{{ value(cell) }}{% endfor %}</tr>
{% endfor %}</tbody></table>{% endcall %}{% endfor %}</details>
{% endif %}
<details data-block><summary>What every metric means</summary>
<dl class="meanings">{% for title, meaning in meanings %}<dt>{{ title }}</dt><dd>{{ meaning }}</dd>{% endfor %}</dl>
{{ words(*meaning_texts) }}
<p>Precision and recall belong to the threshold with the largest F1, which moves from one resampling to the next, so
their intervals are rough. All numbers describe the responses that a filter would keep, each weighed by how often it
would train.</p></details>
{% for c in checkpoints %}<details data-block>
<summary>Every metric of each filter{% if checkpoints | length > 1 %}: {{ c.name }}{% endif %}</summary>
<p class="hint">{{ titles | length }} columns: scroll sideways, or select the table and use the arrow keys.</p>
{% call box("Every metric, " ~ c.name) %}<table>
<thead><tr><th scope="col">filter</th>{% for title in titles %}<th scope="col">{{ title }}</th>{% endfor %}</tr>
</thead><tbody>{% for row in c.rows %}<tr{% if row.best %} class="best"{% endif %}><th scope="row">{{ row.label }}</th>
{% for cell in row.cells %}{{ value(cell) }}{% endfor %}</tr>
{% endfor %}</tbody></table>{% endcall %}</details>
{% endfor %}
</main>
<footer data-block><h2>Settings</h2>
<p class="text">{{ settings_line }}</p>{{ words(settings_line) }}</footer>
</body>
</html>
"""
)
