"""Saved workflows go on working: what they rely on of each node is written down, and only ever appended to."""

import object_info


def test_no_change_breaks_a_saved_workflow(nodes):
    wrong = object_info.breaks(object_info.read(), object_info.described(nodes.values()))
    assert not wrong, "saved workflows would break:\n" + "\n".join(wrong)


def test_what_is_written_down_is_what_the_nodes_are(nodes):
    found, written = object_info.described(nodes.values()), object_info.read()
    changed = sorted(name for name in found.keys() | written.keys() if found.get(name) != written.get(name))
    assert not changed, f"{', '.join(changed)}: where no saved workflow breaks, run: {object_info.COMMAND}"
    assert len(found) >= 26
