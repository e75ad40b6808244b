"""The page's modules as one script."""

from __future__ import annotations

import pytest

from redvsblue_telemetry.collector.http.joining import JoinError, join
from redvsblue_telemetry.collector.http.static import MODULES


def test_module_stands_behind_those_that_it_imports_and_only_once() -> None:
    modules = {
        "app.js": 'import { show } from "./views/a.js";\nimport { two as double } from "./b.js";\n'
        "show(double);\n",
        "b.js": "const hidden = 1;\nexport const two = hidden + 1;\n",
        "views/a.js": 'import * as b from "../b.js";\nexport async function show(n) {\n'
        "  return n + b.two;\n}\nexport class A {}\n",
        "views/unused.js": "export const unused = 1;\n",
    }

    assert join(modules, "app.js") == (
        "// b.js\nconst $b = (() => {\nconst hidden = 1;\nconst two = hidden + 1;\n"
        "return { two };\n})();\n"
        "// views/a.js\nconst $views_a = (() => {\nconst b = $b;\nasync function show(n) {\n"
        "  return n + b.two;\n}\nclass A {}\nreturn { show, A };\n})();\n"
        "// app.js\nconst $app = (() => {\nconst { show } = $views_a;\n"
        "const { two: double } = $b;\n"
        "show(double);\nreturn {  };\n})();\n"
    )


@pytest.mark.parametrize(
    ("text", "trouble"),
    [
        ('import { a } from "./none.js";', "there is no module none.js"),
        ('import { a } from "./app.js";', "modules import each other: app.js"),
        ('import { a, b } from "./b.js";', "app.js imports b, which b.js doesn't export"),
        ('import { c as a } from "./b.js";', "app.js imports c, which b.js doesn't export"),
        ('import "./b.js";', 'app.js has an unknown form: import "./b.js";'),
        ('import a from "./b.js";', "unknown form: import a"),
        ("const b = import(`./${name}.js`);", "unknown form: import"),
        ("const here = import.meta.url;", "unknown form: import.meta"),
        ("export let count = 0;", "unknown form: export let count"),
        ("export default 1;", "unknown form: export default"),
        ("const a = 1;\nexport { a };", "unknown form: export { a }"),
        ('export * from "./b.js";', "unknown form: export *"),
    ],
)
def test_form_that_would_mean_something_else_is_refused(text: str, trouble: str) -> None:
    with pytest.raises(JoinError) as refused:
        join({"app.js": text, "b.js": "export const a = 1, b = 2;\n"}, "app.js")
    assert trouble in str(refused.value)


def test_page_needs_all_of_its_modules() -> None:
    script = join(MODULES, "app.js")
    assert len(MODULES) > 30
    assert [name for name in MODULES if f"// {name}\n" not in script] == []
