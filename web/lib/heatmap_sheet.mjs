// The heat map's canvases: its cells, and over them the labels of rows and columns, which stay in view when it is scrolled.
import { element } from "./dom.mjs";
import { draw, farLayout, hit, layout } from "./heatmap_draw.mjs";
import { canvasPen } from "./heatmap_pens.mjs";
import { t, term } from "./texts.mjs";

/** @typedef {import("./heatmap_draw.mjs").Layout} Layout */
/** @typedef {import("./heatmap_draw.mjs").Part} Part */
/** @typedef {import("./heatmap_payload.mjs").Cell} Cell */
/** @typedef {import("./heatmap_payload.mjs").Model} Model */
/**
 * What is shown: a trace with what is chosen on it, the cell under the pointer or the keys, and the type's size where the
 * graph's canvas is zoomed far out.
 * @typedef {object} Shown
 * @property {Model | null} model
 * @property {import("./heatmap_payload.mjs").State} state
 * @property {Cell | null} focus
 * @property {number | null} far
 */

const HELP = term(
    "Heat map of a causal trace. Arrow keys move, Home and End go to the ends of a row, Enter pins a cell, c copies its " +
    "site, f folds its kind, plus and minus zoom, Escape unpins.");
// Over the rows' labels, kinds' names may reach into the cells.
const OVERHANG = 110;
const NARROWEST = 220;

/** @param {Element} node */
function themeOf(node) {
    const css = getComputedStyle(node);
    /** @type {(name: string, otherwise: string) => string} */
    const color = (name, otherwise) => css.getPropertyValue(name).trim() || otherwise;
    return {
        paper: color("--comfy-input-bg", "#222"), ink: color("--input-text", "#ddd"),
        faint: color("--descrip-text", "#999"), veil: "rgba(128,128,128,0.62)", accent: "#1e9bff",
    };
}

/** @param {import("./dom.mjs").Style} style */
const layer = (style) => element("canvas", {
    "aria-hidden": "true", style: { gridArea: "1 / 1", alignSelf: "start", justifySelf: "start", ...style },
});

/** The canvases of one heat map. */
export class Sheet {
    /**
     * @param {Shown} shown read whenever something is drawn
     * @param {import("./dom.mjs").Listeners} heard the pointer's and the keys' listeners
     */
    constructor(shown, heard) {
        this.shown = shown;
        const label = { position: "sticky", pointerEvents: "none" };
        this.canvas = layer({});
        this.labels = { rows: layer({ ...label, left: "0" }), columns: layer({ ...label, top: "0" }) };
        this.corner = element("div", {
            style: { gridArea: "1 / 1", ...label, top: "0", left: "0", background: "var(--comfy-input-bg)" },
        });
        const grid = element("div", { style: { display: "grid", justifyContent: "start", alignContent: "start", width: "max-content" } },
            this.canvas, this.labels.rows, this.labels.columns, this.corner);
        this.root = element("div", {
            tabindex: "0", role: "application", "aria-roledescription": t("heat map"), "aria-label": t(HELP), class: "diff-quickfix-heatmap",
            style: { flex: "1 1 120px", overflow: "auto", minHeight: "120px", margin: "2px", outlineOffset: "0" }, on: heard,
        }, grid);
    }

    width() {
        return Math.max(NARROWEST, this.root.clientWidth - 4);
    }

    /**
     * Where everything stands on the screen.
     * @param {Model} model
     */
    place(model) {
        const { state, far } = this.shown;
        return far ? farLayout(model, state, this.width(), this.root.clientHeight - 4) : layout(model, state, this.width(), this.root.clientHeight - 4);
    }

    paint() {
        const { model, far } = this.shown;
        const place = model && this.root.isConnected ? this.place(model) : null;
        const { width = 0, height = 0, left = 0, head = 0 } = place ?? {};
        this.paintOn(this.canvas, place, width, height, far ? ["cells"] : ["cells", "bar"]);
        this.paintOn(this.labels.rows, place, left && left + OVERHANG, height, ["rows"], left);
        this.paintOn(this.labels.columns, place, width, head, ["columns"]);
        Object.assign(this.corner.style, { width: `${left}px`, height: `${head}px` });
    }

    /**
     * Paint parts of the map on a canvas of some size, the paper under them as wide as `paper`.
     * @param {HTMLCanvasElement} canvas
     * @param {Layout | null} place
     * @param {number} width
     * @param {number} height
     * @param {Part[]} parts
     */
    paintOn(canvas, place, width, height, parts, paper = width) {
        const dense = Math.min(2, Math.max(1, devicePixelRatio));
        Object.assign(canvas, { width: Math.ceil(width * dense), height: Math.ceil(height * dense) });
        Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
        const { model, state, focus } = this.shown;
        const context = canvas.getContext("2d");
        if (!model || !place || !context || !width || !height) return;
        context.scale(dense, dense);
        const pen = canvasPen(context);
        const theme = themeOf(this.root);
        pen.fill(0, 0, paper, height, theme.paper);
        draw(pen, model, state, place, theme, { focus, pinned: state.pinned }, parts);
    }

    /**
     * What is under the pointer: a cell, a kind's header, or nothing.
     * @param {MouseEvent} event
     * @returns {{cell?: Cell, kind?: string}}
     */
    under({ target, offsetX: x, offsetY: y }) {
        const { model } = this.shown;
        if (!model || target !== this.canvas) return {};
        const place = this.place(model);
        if (y - this.root.scrollTop < place.head) return {};
        const found = hit(place, model, x, y);
        return found.cell && x - this.root.scrollLeft < place.left ? {} : found;
    }

    /**
     * The cell some steps from another, in the rows that are drawn; null where none is.
     * @param {Model} model
     * @param {Cell | null} from
     * @param {number} down
     * @param {number} right
     * @returns {Cell | null}
     */
    step(model, from, down, right) {
        const rows = this.place(model).lines.flatMap(({ row }) => (row === undefined ? [] : [row]));
        const at = from ? rows.indexOf(from.row) : -1;
        const row = rows[at < 0 ? 0 : Math.min(rows.length - 1, Math.max(0, at + down))];
        if (row === undefined) return null;
        const column = from && at >= 0 ? Math.min(model.columns.length - 1, Math.max(0, from.column + right)) : 0;
        return { row, column };
    }

    /**
     * Scroll a cell out from under the labels and the edges.
     * @param {Model} model
     * @param {Cell} cell
     */
    reveal(model, cell) {
        const { root } = this;
        const { left, head, wide, lines } = this.place(model);
        const { top = 0, height = 0 } = lines.find(({ row }) => row === cell.row) ?? {};
        const x = left + cell.column * wide;
        root.scrollTop = Math.min(top - head, Math.max(root.scrollTop, top + height - root.clientHeight));
        root.scrollLeft = Math.min(x - left, Math.max(root.scrollLeft, x + wide - root.clientWidth));
    }
}
