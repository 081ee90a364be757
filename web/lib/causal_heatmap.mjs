// The interactive heat map on "Causal Heatmap".
import { api } from "../../../scripts/api.js";
import { askedFor, askedNow, changedInputs, isAwaited, isStrange, noteQueued } from "./asked.mjs";
import { entriesOf, fieldsOf } from "./data.mjs";
import { setLayer } from "./edit_layer.mjs";
import { parse } from "./heatmap_payload.mjs";
import { HeatmapView } from "./heatmap_view.mjs";
import { keep, madeBefore } from "./node.mjs";
import { t } from "./texts.mjs";

const STATE = "diff_quickfix_heatmap";
const DATA = "diff_quickfix_heatmap_data";
const ASKED = "diff_quickfix_heatmap_asked";

/** @type {(value: unknown) => string | null} */
const textOf = (value) => (typeof value === "string" ? value : null);

/**
 * The view of a node.
 * @param {ComfyNode} node
 */
export function make(node) {
    const asked = () => fieldsOf(node.properties[ASKED]);
    const models = () => {
        const now = askedNow(node).model;
        return { made: asked() ? textOf(asked()?.model) : now, now };
    };
    const view = new HeatmapView({
        keep: (state) => { node.properties[STATE] = state; },
        setLayer: (traced) => setLayer(node, traced, models()),
        pictureUrl: (file) => api.apiURL(`/view?${new URLSearchParams(file)}`),
    });
    /** @param {unknown} payload */
    const display = (payload) => {
        view.show(parse(payload), textOf(fieldsOf(payload)?.refused) ?? t("The trace could not be read; run again."));
    };
    /** What is said below a trace that is not whole. */
    let running = "";
    return {
        root: view.root,
        queued: () => noteQueued(node),
        /** @type {(outputs: NonNullable<RunOutputs>, live: boolean) => void} */
        show(outputs, live) {
            if (isStrange(node, outputs, live)) return;
            running = "";
            const [payload] = entriesOf(outputs[STATE]);
            // The page gives a result again when its workflow comes back into view.
            if (live || JSON.stringify(payload) !== JSON.stringify(node.properties[DATA])) node.properties[ASKED] = askedFor(node);
            keep(node, DATA, payload);
            display(payload);
        },
        restore() {
            view.adopt(node.properties[STATE]);
            if (node.properties[DATA]) display(node.properties[DATA]);
        },
        /** @param {number} scale */
        look(scale) {
            view.scaled(scale);
            const inputs = changedInputs(asked(), askedNow(node));
            view.setStale(running || (inputs ? madeBefore(node, inputs) : ""));
        },
        /** @param {unknown} payload */
        traced(payload) {
            if (!isAwaited(node)) return;
            if (payload === null && !running) return;
            running = payload === null ? t("Cancelled: a part alone was traced. Run again to go on.") : t("Being traced: cells without a color are still to come.");
            if (payload !== null) view.show(parse(payload), "");
        },
        /** @param {string} sentence */
        refuse(sentence) {
            if (!isAwaited(node)) return;
            running = "";
            delete node.properties[DATA];
            node.properties[ASKED] = askedFor(node);
            view.show(null, sentence);
        },
        dispose: () => view.dispose(),
    };
}
