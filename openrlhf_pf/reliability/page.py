"""The template of report.html: one file without anything to fetch, readable on a phone."""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Is the reward model right?</title>
<style>
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; color: #1d1d1f; background: #fff;
       font: 16px/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: .6rem 0 0; } h3 + p { margin-top: 0; }
figure { margin: 0 0 1.5rem; } figcaption { margin-top: .5rem; }
figure div { overflow-x: auto; } figure img { max-width: 100%; height: auto; display: block; }
figure img.wide { max-width: none; width: 100%; min-width: 44rem; }
.verdict { border-left: .4rem solid #0072B2; background: #eef5fa; padding: .6rem 1rem; border-radius: .3rem; }
.verdict.open { border-color: #E69F00; background: #fdf6e7; }
.verdict strong { font-size: 1.1rem; }
.scroll { overflow-x: auto; border: 1px solid #ddd; border-radius: .3rem; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #eee; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff; }
td small { color: #666; display: block; }
tr.best td { background: #eef5fa; font-weight: 600; }
dt { font-weight: 600; } dd { margin: 0 0 .4rem 1rem; }
li { margin-bottom: .3rem; }
</style>
</head>
<body>
<h1>Is the reward model right?</h1>
{% for line in opening %}<p class="opening">{{ line }}</p>
{% endfor %}
<p>{{ samples }}. Each response has a <em>reward</em>, what the reward model thinks of it, and a <em>true score</em>,
what it is worth. Reinforcement learning trains on rewards, so it should train on those responses whose rewards can be
relied on. A <em>strategy</em> says which of a prompt's responses those are.</p>

{% if together %}<h2>All checkpoints together</h2>
<div class="verdict{% if not together.decided %} open{% endif %}"><p>{{ together.text }}</p></div>
{% endif %}
{% for a in answers %}{% if answers | length > 1 %}<h2>{{ a.name }}</h2>{% endif %}
<div class="verdict{% if not a.decided %} open{% endif %}">
{% for question, short, long in a.questions %}<h3>{{ question }}</h3><p><strong>{{ short }}.</strong> {{ long }}</p>
{% endfor %}{% for line in a.remarks %}<p>{{ line }}</p>{% endfor %}
</div>
{% endfor %}
{% for line in sentences %}<p>{{ line }}</p>
{% endfor %}
{% if warnings %}<h2>What to keep in mind</h2>
<ul>{% for line in warnings %}<li>{{ line }}</li>{% endfor %}</ul>{% endif %}

<h2>The paper's R² of each strategy</h2>
<p>Responses are cut into {{ settings.bins }} groups of similar reward, as many in each; R² says how well a straight
line describes the groups' mean score by their mean reward (1 is perfect). Small numbers are
{{ "%.0f" | format(100 * settings.level) }}% intervals over prompts.</p>
<div class="scroll"><table>
<tr><th>strategy</th><th>k</th>{% for c in checkpoints %}<th>{{ c.name }}</th>{% endfor %}</tr>
{% for row in r2_rows %}<tr{% if row.best %} class="best"{% endif %}><td>{{ row.label }}</td><td>{{ row.keep }}</td>
{% for cell in row.cells %}<td>{{ cell.value }}{% if cell.interval %}<small>{{ cell.interval }}</small>{% endif %}</td>
{% endfor %}</tr>{% endfor %}
</table></div>

{% for figure in figures %}<h2>{{ figure.title }}</h2>
<figure><div><img{% if figure.wide %} class="wide"{% endif %} alt="{{ figure.title }}"
src="data:image/png;base64,{{ figure.data }}"></div>
<figcaption>{{ figure.caption }}</figcaption></figure>
{% endfor %}

{% for c in checkpoints %}<h2>Every metric{% if checkpoints | length > 1 %}: {{ c.name }}{% endif %}</h2>
<div class="scroll"><table>
<tr><th>strategy</th>{% for title in titles %}<th>{{ title }}</th>{% endfor %}</tr>
{% for row in c.rows %}<tr{% if row.best %} class="best"{% endif %}><td>{{ row.label }}</td>
{% for cell in row.cells %}<td>{{ cell.value }}{% if cell.interval %}<small>{{ cell.interval }}</small>{% endif %}</td>
{% endfor %}</tr>{% endfor %}
</table></div>
{% endfor %}
<h2>What the metrics mean</h2>
<dl>{% for title, meaning in glossary %}<dt>{{ title }}</dt><dd>{{ meaning }}</dd>{% endfor %}</dl>
<p>Precision and recall belong to the threshold with the largest F1, which moves from one resampling to the next, so
their intervals are rough. All numbers describe the responses that a strategy would keep, each weighed by how often it
would train.</p>
<h2>Settings</h2>
<p>{{ settings_line }}</p>
</body>
</html>
"""
