// The heat map's "edit this layer": which Diff-QuickFix Edits it sets, and why it sets none.
import { app } from "../../../scripts/app.js";
import { modelContent } from "./asked.mjs";
import { setWidget } from "./node.mjs";
import { t } from "./texts.mjs";
import { allPlaces, isFed } from "./wires.mjs";

const EDIT = "DiffQuickFix_Edit";

/** @typedef {{made: string | null, now: string | null}} TracedModel the model that a trace was made with, and the one connected now */

/** @type {(node: ComfyNode) => boolean} */
const isEdit = ({ comfyClass }) => comfyClass === EDIT;

/** @returns {ComfyNode[]} */
function selectedEdits() {
    return /** @type {ComfyNode[]} */ ([...app.canvas?.selectedItems ?? []]).filter(isEdit);
}

/**
 * The edits of a workflow that take their CLIP from a model, in every place where they stand.
 * @param {ComfyNode} node
 * @param {string} model
 */
function editsOf(node, model) {
    /** @type {Map<ComfyNode, boolean>} */
    const found = new Map();
    for (const place of allPlaces(node)) {
        if (isEdit(place.node)) found.set(place.node, (found.get(place.node) ?? true) && modelContent(place) === model);
    }
    return [...found].filter(([, same]) => same).map(([edit]) => edit);
}

/**
 * Set the layer of a site on the selected edits, or else on those of the trace's model; returns what happened, for people.
 * @param {ComfyNode} node the heat map
 * @param {{site: string, layer: number | null, kind: string}} traced
 * @param {TracedModel} model
 */
export function setLayer(node, { site, layer, kind }, { made, now }) {
    if (layer === null || kind !== "self_attn") {
        return t("{site} is no self-attention layer of the text encoder; Diff-QuickFix edits only those.", { site });
    }
    const selected = selectedEdits();
    if (!selected.length && made === null) {
        return t("Which model this trace is of is not known here; select the Diff-QuickFix Edit to set and press again.");
    }
    const edits = selected.length || made === null ? selected : editsOf(node, made);
    if (!edits.length && made !== now) {
        return t("This trace was made with another model than the one connected now; run again, or select the Diff-QuickFix Edit to set.");
    }
    if (!edits.length) {
        return t("No Diff-QuickFix Edit here takes its CLIP from the model of this trace; connect one, or select the one to set.");
    }
    const free = edits.filter((edit) => !isFed(edit, "layer"));
    if (!free.length) return t("The layer of Diff-QuickFix Edit is fed by a link; disconnect it to set the layer from here.");
    free.forEach((edit) => setWidget(edit, "layer", layer));
    return t("Diff-QuickFix Edit {edits} now edits layer {layer}.", { layer, edits: free.map(({ id }) => `#${id}`).join(", ") });
}
