// Files of a heat map: the whole map, whatever part of it is in view, and its numbers.
import { download, element } from "./dom.mjs";
import { draw, layout } from "./heatmap_draw.mjs";
import { toCsv } from "./heatmap_model.mjs";
import { canvasPen, svgPen } from "./heatmap_pens.mjs";

/** @typedef {import("./heatmap_draw.mjs").Layout} Layout */
/** @typedef {import("./heatmap_draw.mjs").Theme} Theme */
/** @typedef {import("./heatmap_payload.mjs").Model} Model */
/** @typedef {import("./heatmap_payload.mjs").State} State */
/** @typedef {import("./heatmap_pens.mjs").Pen} Pen */

const DENSITY = 2;

/** @type {(pen: Pen, model: Model, state: State, place: Layout, theme: Theme) => void} */
function drawWhole(pen, model, state, place, theme) {
    pen.fill(0, 0, place.width, place.height, theme.paper);
    draw(pen, model, state, place, theme, { focus: null, pinned: state.pinned });
}

/** @type {(model: Model, state: State, width: number, theme: Theme) => void} */
export function savePng(model, state, width, theme) {
    const place = layout(model, state, width);
    const size = { width: Math.ceil(DENSITY * place.width), height: Math.ceil(DENSITY * place.height) };
    const canvas = element("canvas", size);
    const context = canvas.getContext("2d");
    if (!context) return;
    context.scale(DENSITY, DENSITY);
    drawWhole(canvasPen(context), model, state, place, theme);
    canvas.toBlob((blob) => blob && download(blob, "causal-heatmap.png"));
}

/** @type {(model: Model, state: State, width: number, theme: Theme) => void} */
export function saveSvg(model, state, width, theme) {
    const place = layout(model, state, width);
    const pen = svgPen();
    drawWhole(pen, model, state, place, theme);
    download(new Blob([pen.finish(place.width, place.height)], { type: "image/svg+xml" }), "causal-heatmap.svg");
}

/** @param {Model} model */
export function saveCsv(model) {
    download(new Blob([toCsv(model)], { type: "text/csv" }), "causal-heatmap.csv");
}
