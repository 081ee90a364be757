"""The templates on the page: no node covers another, whatever size the page gives it."""

import pytest
import templates

BOXES = """window.app.graph._nodes.map((node) => {
    const [width, height] = node.flags.collapsed ? [80, 0] : node.size;
    return [node.title, node.pos[0], node.pos[1] - 30, node.pos[0] + width, node.pos[1] + height];
})"""


@pytest.mark.parametrize("name", templates.shapes_templates())
def test_no_node_of_a_template_covers_another(page, name):
    graph = templates.read(name)
    page.load(graph)
    page.rest(0.5)
    boxes = page.run(BOXES)
    assert len(boxes) == len(graph["nodes"])
    for place, (title, left, top, right, bottom) in enumerate(boxes):
        for other, *box in boxes[place + 1 :]:
            apart = right <= box[0] or box[2] <= left or bottom <= box[1] or box[3] <= top
            assert apart, f"{title} and {other}"
    assert not page.own_complaints()
