"""The stock server takes the pack in."""


def test_the_server_offers_the_packs_nodes(server):
    offered = server.get_json("/object_info")
    ours = {name: node for name, node in offered.items() if name.startswith("DiffQuickFix_")}
    assert {"DiffQuickFix_Edit", "DiffQuickFix_LoadShapesDemo"} <= ours.keys()
    for name, node in ours.items():
        assert node["category"].startswith("Diff-QuickFix/"), name
        assert node["python_module"] == "custom_nodes.diff-quickfix", name


def test_the_server_imported_the_pack_without_complaint(server):
    # One line of the start-up summary is the pack's; ComfyUI's own optional nodes may fail (they want OpenGL).
    log = server.log.read_text(errors="replace").splitlines()
    lines = [line for line in log if " seconds" in line and line.rstrip().endswith("custom_nodes/diff-quickfix")]
    assert len(lines) == 1, lines
    assert "IMPORT FAILED" not in lines[0]


def test_the_server_serves_help_pages_and_scripts(server):
    scripts = [path for path in server.get_json("/extensions") if "diff-quickfix" in path]
    assert scripts
    for path in scripts:
        assert server.get(path)
    assert server.get("/extensions/diff-quickfix/docs/DiffQuickFix_Edit.md")
