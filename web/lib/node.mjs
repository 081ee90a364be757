// A node's widgets, and what it keeps with the workflow.

// Larger values are not kept in the workflow; they come back when the node runs again.
const MOST_KEPT = 150_000;

/** Keep a value with the workflow, as a property of a node, unless it is too large. */
export function keep(node, property, value) {
    if (JSON.stringify(value).length <= MOST_KEPT) node.properties[property] = value;
    else delete node.properties[property];
}

/** A widget of a node by its name. */
export function widgetOf(node, name) {
    return node.widgets?.find((one) => one.name === name);
}

/** Set a widget's value as if the user had typed it. */
export function setWidget(node, name, value) {
    const widget = widgetOf(node, name);
    if (!widget) return false;
    widget.value = value;
    widget.callback?.(value);
    node.graph?.setDirtyCanvas?.(true, true);
    return true;
}

/** Whether an input of a node is fed by a link, so that its widget says nothing. */
export function isLinked(node, name) {
    return (node.inputs ?? []).some((slot) => (slot.widget?.name ?? slot.name) === name && slot.link != null);
}
