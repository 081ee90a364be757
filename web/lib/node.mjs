// A node's widgets, and what it keeps with the workflow.
import { t } from "./texts.mjs";

// Larger values are not kept in the workflow; they come back when the node runs again.
const MOST_KEPT = 150_000;

/**
 * Keep a value with the workflow, as a property of a node, unless it is too large.
 * @param {ComfyNode} node
 * @param {string} property
 * @param {unknown} value
 */
export function keep(node, property, value) {
    if (JSON.stringify(value).length <= MOST_KEPT) node.properties[property] = value;
    else delete node.properties[property];
}

/**
 * A widget of a node by its name.
 * @param {ComfyNode} node
 * @param {string} name
 */
export function widgetOf(node, name) {
    return node.widgets?.find((one) => one.name === name);
}

/**
 * What the page calls an input or a widget of a node.
 * @param {ComfyNode} node
 * @param {string} name
 */
export function labelOf(node, name) {
    const slot = node.inputs?.find((one) => one.name === name);
    return widgetOf(node, name)?.label || slot?.label || slot?.localized_name || name;
}

/**
 * That what a node shows was made before something was changed.
 * @param {ComfyNode} node
 * @param {string[]} names of its inputs and widgets; none where they are not known
 */
export function madeBefore(node, names) {
    if (!names.length) return t("Made with other settings; run again.");
    return t("Made before you changed {names}; run again.", { names: [...new Set(names)].map((name) => labelOf(node, name)).join(", ") });
}

/**
 * Set a widget's value as if the user had typed it; returns whether there is such a widget.
 * @param {ComfyNode} node
 * @param {string} name
 * @param {unknown} value
 */
export function setWidget(node, name, value) {
    const widget = widgetOf(node, name);
    if (!widget) return false;
    widget.value = value;
    widget.callback?.(value);
    node.graph?.setDirtyCanvas?.(true, true);
    return true;
}
