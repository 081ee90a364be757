// The heat map's geometry and its drawing. One drawing for the screen and for SVG: it is given a pen.
import { arrange, at, bestCell, extent, format, valueOf } from "./heatmap_model.mjs";
import { ORDERS } from "./heatmap_payload.mjs";

/** @typedef {import("./heatmap_payload.mjs").Cell} Cell */
/** @typedef {import("./heatmap_payload.mjs").Model} Model */
/** @typedef {import("./heatmap_payload.mjs").State} State */
/** @typedef {import("./heatmap_pens.mjs").Pen} Pen */
/** @typedef {{paper: string, ink: string, faint: string, veil: string, accent: string}} Theme */
/** @typedef {{low: number, high: number, diverging: boolean}} Range */
/** @typedef {{focus: Cell | null, pinned: Cell | null}} Marks the cells that are outlined */
/** @typedef {"cells" | "rows" | "columns" | "bar"} Part */
/**
 * A kind's header or a row of cells.
 * @typedef {{top: number, height: number, kind?: string, folded?: boolean, row?: number}} Line
 */
/**
 * Where everything stands. The rows' labels take `left`, the columns' `head` pixels; a cell is `wide`.
 * @typedef {{width: number, height: number, left: number, head: number, wide: number, turned: boolean, lines: Line[]}} Layout
 */

const CIVIDIS = ["#00204c", "#213d6b", "#555b6c", "#7b7a77", "#a59c74", "#d3c064", "#ffe945"];
const SIGNED = [
    "#2d004b", "#542788", "#8073ac", "#b2abd2", "#d8daeb", "#f7f7f7", "#fee0b6", "#fdb863", "#e08214", "#b35806",
    "#7f3b08",
];
export const OUTLINE = "#e3003a";
// A row's height, and how much higher one grows to fill its place.
const ROW = 18;
const TALLEST_ROW = 40;
const HEADER = 18;
const BAR = 54;
const LEGEND = 34;
const TALLEST = 14_000;
// Columns' labels: flat, or turned where they are wider than their column.
const FLAT_HEAD = 18;
const TURNED_HEAD = 46;
const LETTER = 6.2;
/** @type {Part[]} */
const PARTS = ["cells", "rows", "columns", "bar"];

/**
 * The color at `share` (0 to 1) of a list of colors, as "rgb(...)".
 * @param {string[]} colors
 * @param {number} share
 */
function mix(colors, share) {
    const place = Math.min(1, Math.max(0, share)) * (colors.length - 1);
    const low = Math.min(colors.length - 2, Math.floor(place));
    /** @type {(color: string | undefined, i: number) => number} */
    const part = (color = "", i) => parseInt(color.slice(1 + 2 * i, 3 + 2 * i), 16);
    /** @param {number} i */
    const blend = (i) => part(colors[low], i) + (place - low) * (part(colors[low + 1], i) - part(colors[low], i));
    return `rgb(${[0, 1, 2].map((i) => Math.round(blend(i))).join(",")})`;
}

/**
 * Where everything stands on a sheet of some width.
 * @param {Model} model
 * @param {State} state
 * @param {number} width
 * @param {number} [room] the height that rows grow to fill
 * @returns {Layout}
 */
export function layout(model, state, width, room = 0) {
    const groups = arrange(model, state);
    const count = groups.reduce((sum, { rows, folded }) => sum + (folded ? 0 : rows.length), 0);
    const others = TURNED_HEAD + LEGEND + groups.length * (HEADER + 6);
    const row = Math.min(TALLEST_ROW, Math.max(ROW, Math.floor((room - others) / Math.max(1, count))));
    const tall = Math.min(row * state.zoom, TALLEST / model.sites.length);
    const left = Math.min(190, 16 + LETTER * Math.max(...model.sites.map((name) => labelOf(name, state).length)));
    const wide = Math.max(12, (width - left - BAR) / model.columns.length) * state.zoom;
    const across = Math.min(left + wide * model.columns.length, TALLEST);
    const cell = (across - left) / model.columns.length;
    const turned = model.columns.some((name) => name.length > Math.max(2, Math.floor(cell / LETTER)));
    const head = turned ? TURNED_HEAD : FLAT_HEAD;
    /** @type {Line[]} */
    const lines = [];
    let top = head;
    for (const { kind, rows: inside, folded } of groups) {
        if (kind !== null) {
            lines.push({ kind, top, height: HEADER, folded });
            top += HEADER;
        }
        if (folded) continue;
        for (const row of inside) {
            lines.push({ row, top, height: tall });
            top += tall;
        }
        top += 6;
    }
    return { width: across + BAR, height: Math.max(top, head + 60) + LEGEND, left, head, wide: cell, turned, lines };
}

/**
 * As `layout`, for a map too far away for words: its cells alone, made to fit.
 * @param {Model} model
 * @param {State} state
 * @param {number} width
 * @param {number} height
 * @returns {Layout}
 */
export function farLayout(model, state, width, height) {
    const rows = arrange(model, state).flatMap((group) => group.rows);
    const tall = height / rows.length;
    const lines = rows.map((row, number) => ({ row, top: number * tall, height: tall }));
    return { width, height, left: 0, head: 0, wide: width / model.columns.length, turned: false, lines };
}

/**
 * What stands at a point: a cell, a kind's header, or nothing.
 * @param {Layout} place
 * @param {Model} model
 * @param {number} x
 * @param {number} y
 * @returns {{cell?: Cell, kind?: string}}
 */
export function hit(place, model, x, y) {
    const { row, kind } = place.lines.find((one) => y >= one.top && y < one.top + one.height) ?? {};
    if (kind !== undefined) return { kind };
    const column = Math.floor((x - place.left) / place.wide);
    return row !== undefined && column >= 0 && column < model.columns.length ? { cell: { row, column } } : {};
}

/** @param {string} site */
function shortName(site) {
    const parts = site.split(".");
    return (parts.length > 2 ? parts.slice(1, -1).join(".") : site).slice(0, 22);
}

/**
 * A row's label: without its kind where a header tells that.
 * @type {(site: string, state: State) => string}
 */
function labelOf(site, { order }) {
    return order === ORDERS[2] ? `${shortName(site)} ${site.split(".").at(-1)}`.slice(0, 28) : shortName(site);
}

/** @type {(value: number, range: Range) => string} */
function color(value, { low, high, diverging }) {
    return mix(diverging ? SIGNED : CIVIDIS, (value - low) / (high - low || 1));
}

/** @type {(pen: Pen, box: [number, number, number, number], value: number, weak: boolean, range: Range, theme: Theme) => void} */
export function drawCell(pen, box, value, weak, range, theme) {
    const [x, y, w, h] = box;
    if (Number.isNaN(value)) return pen.frame(x + 0.5, y + 0.5, w - 1, h - 1, theme.faint, 0.5);
    pen.fill(x, y, w - 1, h - 1, color(value, range));
    if (weak) {
        pen.fill(x, y, w - 1, h - 1, theme.veil);
        pen.stroke(x, y + h - 1, x + Math.min(w - 1, h - 1), y, theme.faint);
    }
}

/** @type {(pen: Pen, place: Layout, range: Range, theme: Theme) => void} */
function drawBar(pen, place, range, theme) {
    const x = place.width - BAR + 12;
    const height = Math.min(160, place.height - place.head - LEGEND);
    for (let i = 0; i < height; i += 2) {
        pen.fill(x, place.head + i, 10, 2.5, mix(range.diverging ? SIGNED : CIVIDIS, 1 - i / height));
    }
    pen.text(format(range.high).slice(0, 6), x + 12, place.head + 8, theme, { size: 10 });
    pen.text(format(range.low).slice(0, 6), x + 12, place.head + height, theme, { size: 10 });
}

/** @type {(pen: Pen, model: Model, state: State, place: Layout, theme: Theme, marks: Marks) => void} */
function drawCells(pen, model, state, place, theme, { focus, pinned }) {
    const range = extent(model, state.value);
    for (const { row, top, height } of place.lines) {
        if (row === undefined) continue;
        model.columns.forEach((_, column) => {
            const weak = at(model.hatched, { row, column }) === 1;
            const value = valueOf(model, state.value, { row, column });
            drawCell(pen, [place.left + column * place.wide, top, place.wide, height], value, weak, range, theme);
        });
    }
    /** @type {[Cell | null, string][]} */
    const outlines = [[bestCell(model), OUTLINE], [pinned, theme.ink], [focus, theme.accent]];
    for (const [cell, ink] of outlines) {
        const shown = cell && place.lines.find((one) => one.row === cell.row);
        if (shown) pen.frame(place.left + cell.column * place.wide, shown.top, place.wide - 1, shown.height - 1, ink, 2);
    }
}

/** @type {(pen: Pen, model: Model, state: State, place: Layout, theme: Theme) => void} */
function drawRows(pen, model, state, place, theme) {
    for (const { row, kind, top, height, folded } of place.lines) {
        if (kind !== undefined) pen.text(`${folded ? "+" : "-"} ${kind}`, 4, top + 13, theme, { bold: true });
        else if (row !== undefined && height >= 9) pen.text(labelOf(model.sites[row] ?? "", state), place.left - 6, top + height / 2 + 4, theme, { right: true });
    }
}

/** @type {(pen: Pen, model: Model, place: Layout, theme: Theme) => void} */
function drawColumns(pen, model, place, theme) {
    const every = place.turned ? Math.max(1, Math.ceil(11 / place.wide)) : 1;
    model.columns.forEach((name, column) => {
        if (column % every) return;
        const x = place.left + (column + 0.5) * place.wide;
        const short = place.turned ? name.slice(0, 10) : name;
        pen.text(short, x, place.head - 6, theme, place.turned ? { turned: true } : { middle: true });
    });
}

/**
 * Draw a map, or some parts of it.
 * @param {Pen} pen
 * @param {Model} model
 * @param {State} state
 * @param {Layout} place
 * @param {Theme} theme
 * @param {Marks} marks
 */
export function draw(pen, model, state, place, theme, marks, parts = PARTS) {
    if (parts.includes("cells")) drawCells(pen, model, state, place, theme, marks);
    if (parts.includes("rows")) drawRows(pen, model, state, place, theme);
    if (parts.includes("columns")) drawColumns(pen, model, place, theme);
    if (parts.includes("bar")) drawBar(pen, place, extent(model, state.value), theme);
}
