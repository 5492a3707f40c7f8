"""Reads dashboards by Grafana's own model and writes them again: what a field's name or type is wrong for, is lost or changed.

Arguments: the files. Prints each loss; exit code 1 where there is one.
"""

import json
import re
import sys

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

# The model leaves these to the data source's plugin, or they are newer than it.
UNKNOWN = re.compile(
    r"/annotations/list\[\d+\]/(target/.*|useValueForTime|titleFormat|textFormat|tagKeys)"
    r"|/templating/list\[\d+\]/definition"
    r"|/panels\[\d+\]/options/(namePlacement|sizing)"
)


def losses(before, after, path=""):
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            inner = f"{path}/{key}"
            if key in after:
                yield from losses(value, after[key], inner)
            # What is empty says the same where it is absent.
            elif value not in ([], {}, None, False, "") and not UNKNOWN.fullmatch(inner):
                yield f"{inner} is unknown: {json.dumps(value)[:100]}"
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (one, other) in enumerate(zip(before, after)):
            yield from losses(one, other, f"{path}[{index}]")
    elif before != after:
        yield f"{path} becomes {json.dumps(after)[:100]}"


register_default_plugins()
lost = False
for name in sys.argv[1:]:
    with open(name, encoding="utf-8") as file:
        model = json.load(file)
    for loss in losses(model, json.loads(JSONEncoder().encode(Dashboard.from_json(model)))):
        print(f"{name}: {loss}")
        lost = True
sys.exit(lost)
