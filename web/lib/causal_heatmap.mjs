// The interactive heat map on "Causal Heatmap".
import { api } from "../../../scripts/api.js";
import { parse } from "./heatmap_model.mjs";
import { HeatmapView } from "./heatmap_view.mjs";
import { isLinked, keep, setWidget } from "./node.mjs";
import { t } from "./texts.mjs";

const EDIT = "DiffQuickFix_Edit";
const STATE = "diff_quickfix_heatmap";
const DATA = "diff_quickfix_heatmap_data";

/** All nodes that a node's inputs come from, at any distance. */
function upstream(node, found = new Set()) {
    (node.inputs ?? []).forEach((slot, place) => {
        const source = slot.link == null ? null : node.getInputNode?.(place);
        if (!source || found.has(source)) return;
        found.add(source);
        upstream(source, found);
    });
    return found;
}

/** The edit nodes of the same graph that share a source with this node, or stand behind it. */
function connectedEdits(node) {
    const sources = upstream(node);
    return (node.graph?.nodes ?? node.graph?._nodes ?? []).filter((one) => {
        if (one.comfyClass !== EDIT) return false;
        const its = upstream(one);
        return its.has(node) || [...its].some((source) => sources.has(source));
    });
}

/** Set the layer on the connected edit nodes; returns what happened, for people. */
function sendLayer(node, site, layer, kind) {
    if (layer === null || kind !== "self_attn") {
        return t("{site} is no self-attention layer of the text encoder; Diff-QuickFix edits only those.", { site });
    }
    const edits = connectedEdits(node);
    if (!edits.length) return t("No Diff-QuickFix Edit here shares a model loader with this trace; connect one first.");
    const free = edits.filter((edit) => !isLinked(edit, "layer"));
    if (!free.length) return t("The layer of Diff-QuickFix Edit is fed by a link; disconnect it to set the layer from here.");
    free.forEach((edit) => setWidget(edit, "layer", layer));
    return t("Diff-QuickFix Edit now edits layer {layer}.", { layer });
}

/** The view of a node. */
export function make(node) {
    const view = new HeatmapView({
        keep: (state) => { node.properties[STATE] = state; },
        send: (site, layer, kind) => sendLayer(node, site, layer, kind),
        pictureUrl: (file) => api.apiURL(`/view?${new URLSearchParams(file)}`),
    });
    const display = (payload) => {
        const why = typeof payload?.refused === "string" ? payload.refused : t("The trace could not be read; run again.");
        view.show(parse(payload), why);
    };
    return {
        root: view.root,
        show({ [STATE]: [payload] }) {
            keep(node, DATA, payload);
            display(payload);
        },
        restore() {
            view.adopt(node.properties?.[STATE]);
            if (node.properties?.[DATA]) display(node.properties[DATA]);
        },
        look: (scale) => view.scaled(scale),
        dispose: () => view.dispose(),
    };
}
