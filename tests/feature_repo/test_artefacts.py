"""Five artefacts of one declaration: SQL, Feast schema, contract, packed layout, page; one digest in all of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from events.sources import SOURCES
from feature_repo.compile import compile_table
from feature_repo.contracts import contract
from feature_repo.docs import compiled
from feature_repo.families import declare
from feature_repo.feast_views import feast_objects
from feature_repo.materialize import described, layout_of_table
from feature_repo.pages import table_page

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ibis.*"),
    pytest.mark.filterwarnings("ignore:On demand feature view is an experimental feature:RuntimeWarning"),
]


def in_sql(source):
    """`table:feature` → digest, as compiled SQL has it beside each column."""
    found = {}
    for table in declare(source).tables:
        texts = [compile_table(table, source)] if table.stored else compiled(table, source).values()
        for name, digest in re.findall(r'AS "(?:user_title:)?(\w+)" /\* (\w{16}) \*/', "\n".join(texts)):
            found[f"{table.name}:{name}"] = digest
    return found


def in_feast(source):
    views = feast_objects(declare(source), Path("/nowhere"))
    found = {f"{v.name}:{f.name}": f.tags["digest"] for v in views.views for f in v.features}
    for view in views.on_demand:
        lineage = json.loads(view.tags["features"])
        found |= {f"{view.name}:{name}": tags["digest"] for name, tags in lineage.items()}
    return found


def in_contracts(source):
    made = (contract(table) for table in declare(source).stored)
    return {f"{c.table}:{column.name}": column.digest for c in made for column in c.columns[3:]}


def in_layouts(source):
    found = {}
    for table in declare(source).tables:
        layout = layout_of_table(table) if table.stored else described(table)
        found |= {f"{table.name}:{n}": d for n, d in zip(layout.features, layout.digests, strict=True)}
    return found


def in_pages(source):
    """As a person reads it: the digest under the feature's own heading."""
    found = {}
    for table in declare(source).tables:
        page = table_page(source.name, table, {}, None, {})
        for feature, entry in re.findall(r'<details id="(\w+)"(.*?)</details>', page, re.DOTALL):
            (digest,) = re.findall(r"<dt>digest</dt><dd><code>(\w+)</code>", entry)
            found[f"{table.name}:{feature}"] = digest
    return found


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES.values(), ids=lambda source: source.name)
def test_all_five_artefacts_of_every_feature_carry_its_digest(source):
    declared = declare(source)
    every = {f"{t.name}:{f.name}": f.digest for t in declared.tables for f in t.features}
    stored = {f"{t.name}:{f.name}" for t in declared.stored for f in t.features}
    session = {f"{t.name}:{f.name}" for t in declared.tables for f in t.features if t.of_sessions}
    assert in_layouts(source) == every
    assert in_pages(source) == every
    assert in_contracts(source) == {
        name: every[name] for name in stored
    }  # rows that pass a gate are stored ones
    beside_feast = {name: digest for name, digest in every.items() if name not in session}
    assert in_feast(source) == in_sql(source) == beside_feast  # sessions are read from plays, by no view


PRINT = r"""
import hashlib, json, re, warnings
warnings.simplefilter("ignore")
from pathlib import Path
from events.sources import SOURCES
from feature_repo.compile import compile_table
from feature_repo.contracts import contract
from feature_repo.docs import site
from feature_repo.families import declare
from feature_repo.feast_views import feast_objects
from feature_repo.materialize import layout_of_table
from validations.contracts import contract_to_dict

def digest(*parts):
    return hashlib.sha256("".join(parts).encode()).hexdigest()

made = {}
for source in SOURCES.values():
    declared = declare(source)
    feast = feast_objects(declared, Path("/nowhere"))
    # Feast stamps an object with the moment it was made, which is not ours to declare.
    protos = [re.sub(r"(created|last_updated)_timestamp {[^}]*}", "", str(item.to_proto())) for item in feast.all()]
    made[source.name] = {
        "sql": digest(*(compile_table(t, source) for t in declared.stored)),
        "feast": digest(*protos),
        "contracts": digest(*(json.dumps(contract_to_dict(contract(t))) for t in declared.stored)),
        "layouts": digest(*(layout_of_table(t).to_json() for t in declared.stored)),
    }
made["movielens"]["pages"] = digest(*(k + v for k, v in site(declare(SOURCES["movielens"]), {}, {}).items()))
print(json.dumps(made))
"""


@pytest.mark.slow
def test_every_process_makes_the_same_bytes():
    made = [
        subprocess.run(
            [sys.executable, "-c", PRINT], cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, check=True,
        ).stdout.splitlines()[-1]
        for seed in ("1", "2")
    ]  # fmt: skip
    assert set(json.loads(made[0])["movielens"]) == {"sql", "feast", "contracts", "layouts", "pages"}
    assert made[0] == made[1]
