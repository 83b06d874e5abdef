"""Notebooks that run in the process of a test, where PyTorch is there already."""

import ast

import nbformat
from IPython.display import display


def run_notebook(path, **parameters):
    """What papermill does with a notebook, in this process: its cells, with `parameters` after the
    cell that is tagged so, and what they show. Returns what was shown.
    """
    names, shown, found = {"__name__": "__main__", "display": display}, [], False
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type != "code":
            continue
        tree = ast.parse(cell.source)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, path.name, "exec"), names)
        if last:
            shown.append(eval(compile(ast.Expression(last.value), path.name, "eval"), names))
            getattr(shown[-1], "_repr_html_", shown[-1].__repr__)()
        if "parameters" in cell.metadata.get("tags", []):
            found = True
            names |= parameters
    assert found, "no cell has the tag `parameters`"
    return shown
