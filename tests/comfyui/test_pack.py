import subprocess
import sys

from diff_quickfix.demo_model.studies.server import PACK


def test_importing_the_pack_imports_nothing_heavy():
    code = (
        "import importlib.util, sys; s = importlib.util.spec_from_file_location('p', sys.argv[1] + '/__init__.py', "
        "submodule_search_locations=[sys.argv[1]]); m = importlib.util.module_from_spec(s); sys.modules['p'] = m; "
        "s.loader.exec_module(m); print(*{n.split('.')[0] for n in sys.modules})"
    )
    command = [sys.executable, "-c", code, str(PACK)]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert "p" in loaded
    assert not {"torch", "transformers", "numpy", "diffusers", "safetensors", "comfy"} & set(loaded)


def test_nodes_import_neither_training_nor_plotting_libraries(nodes):
    assert nodes
    ours = {name for name in sys.modules if name.startswith("pack_under_test.")}
    assert "pack_under_test.nodes.edit" in ours
    assert not {"pack_under_test.demo_model.training.train", "pack_under_test.demo_model.pipeline"} & ours


def test_every_node_and_socket_says_what_it_is(nodes):
    for name, node in nodes.items():
        schema = node.GET_SCHEMA()
        assert name.startswith("DiffQuickFix_") and schema.description and schema.category.startswith("Diff-QuickFix/")
        for socket in (*schema.inputs, *schema.outputs):
            assert socket.tooltip, f"{name}: {socket.id} has no tooltip"
        for box in (one for one in schema.inputs if getattr(one, "multiline", False)):
            # All that the classic renderer says of an empty box.
            assert box.placeholder.startswith(f"{box.id}: ") and len(box.placeholder) < 90, f"{name}: {box.id}"
        assert (PACK / "web" / "docs" / f"{name}.md").is_file()
