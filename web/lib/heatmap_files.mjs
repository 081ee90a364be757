// Files of a heat map: the whole map, whatever part of it is in view, and its numbers.
import { download, element } from "./dom.mjs";
import { OUTLINE, draw, drawCell, layout } from "./heatmap_draw.mjs";
import { extent, toCsv } from "./heatmap_model.mjs";
import { canvasPen, svgPen } from "./heatmap_pens.mjs";
import { t } from "./texts.mjs";

/** @typedef {import("./heatmap_draw.mjs").Theme} Theme */
/** @typedef {import("./heatmap_payload.mjs").Model} Model */
/** @typedef {import("./heatmap_payload.mjs").State} State */
/** @typedef {import("./heatmap_pens.mjs").Pen} Pen */

const DENSITY = 2;

// On paper, whatever the page's palette is.
/** @type {Theme} */
const PAPER = { paper: "#ffffff", ink: "#1a1a1a", faint: "#777777", veil: "rgba(255,255,255,0.62)", accent: "#1e9bff" };
const EDGE = 10;
const TITLE = 46;
const KEY = 30;
const LETTERS_WIDE = 6;

/**
 * A pen that draws lower and further to the right.
 * @type {(pen: Pen, right: number, down: number) => Pen}
 */
const moved = (pen, right, down) => ({
    fill: (x, y, w, h, ink) => pen.fill(x + right, y + down, w, h, ink),
    frame: (x, y, w, h, ink, thick) => pen.frame(x + right, y + down, w, h, ink, thick),
    stroke: (x1, y1, x2, y2, ink) => pen.stroke(x1 + right, y1 + down, x2 + right, y2 + down, ink),
    text: (text, x, y, theme, style) => pen.text(text, x + right, y + down, theme, style),
});

/** @type {(pen: Pen, model: Model, state: State, width: number) => {width: number, height: number}} */
function drawWhole(pen, model, state, width) {
    const place = layout(model, state, width);
    const lines = [
        `${t(state.value)} (${model.score})`,
        t('"{subject}" in "{prompt}"{more}; {runs} runs a cell, {controls} controls', {
            subject: model.subject, prompt: model.prompt, more: model.prompts > 1 ? ` +${model.prompts - 1}` : "", runs: model.runs, controls: model.controls,
        }),
    ];
    const size = {
        width: Math.max(place.width, LETTERS_WIDE * Math.max(...lines.map((one) => one.length))) + 2 * EDGE, height: place.height + TITLE + KEY + EDGE,
    };
    pen.fill(0, 0, size.width, size.height, PAPER.paper);
    pen.text(lines[0] ?? "", EDGE, 20, PAPER, { bold: true, size: 14 });
    pen.text(lines[1] ?? "", EDGE, 38, PAPER);
    draw(moved(pen, EDGE, TITLE), model, state, place, PAPER, { focus: null, pinned: state.pinned });
    const key = moved(pen, EDGE, TITLE + place.height);
    drawCell(key, [4, 2, 26, 16], 0, true, extent(model, state.value), PAPER);
    key.text(t("not told from the control"), 36, 14, PAPER);
    const right = 60 + LETTERS_WIDE * t("not told from the control").length;
    key.frame(right, 2, 26, 15, OUTLINE, 2);
    key.text(t("strongest"), right + 32, 14, PAPER);
    return size;
}

/** @type {(model: Model, state: State, width: number) => void} */
export function savePng(model, state, width) {
    // Drawn twice: what is drawn says how large it is.
    const size = drawWhole(svgPen(), model, state, width);
    const canvas = element("canvas", { width: Math.ceil(DENSITY * size.width), height: Math.ceil(DENSITY * size.height) });
    const context = canvas.getContext("2d");
    if (!context) return;
    context.scale(DENSITY, DENSITY);
    drawWhole(canvasPen(context), model, state, width);
    canvas.toBlob((blob) => blob && download(blob, "causal-heatmap.png"));
}

/** @type {(model: Model, state: State, width: number) => void} */
export function saveSvg(model, state, width) {
    const pen = svgPen();
    const size = drawWhole(pen, model, state, width);
    download(new Blob([pen.finish(size.width, size.height)], { type: "image/svg+xml" }), "causal-heatmap.svg");
}

/** @param {Model} model */
export function saveCsv(model) {
    download(new Blob([toCsv(model)], { type: "text/csv" }), "causal-heatmap.csv");
}
