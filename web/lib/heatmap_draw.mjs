// The heat map's geometry and its drawing. One drawing for the screen and for SVG: it is given a pen.

import { arrange, bestCell, extent, format, valueOf } from "./heatmap_model.mjs";
import { t } from "./texts.mjs";

const CIVIDIS = ["#00204c", "#213d6b", "#555b6c", "#7b7a77", "#a59c74", "#d3c064", "#ffe945"];
const SIGNED = [
    "#2d004b", "#542788", "#8073ac", "#b2abd2", "#d8daeb", "#f7f7f7", "#fee0b6", "#fdb863", "#e08214", "#b35806",
    "#7f3b08",
];
const OUTLINE = "#e3003a";
const ROW = 18;
const HEADER = 18;
const BAR = 54;
const LEGEND = 34;
const TALLEST = 14_000;
// Columns' labels: flat, or turned where they are wider than their column.
const FLAT_HEAD = 18;
const TURNED_HEAD = 46;
const LETTER = 6.2;
export const PARTS = ["cells", "rows", "columns", "bar"];

/** The color at `share` (0 to 1) of a list of colors, as "rgb(...)". */
export function mix(colors, share) {
    const place = Math.min(1, Math.max(0, share)) * (colors.length - 1);
    const low = Math.min(colors.length - 2, Math.floor(place));
    const part = (color, i) => parseInt(color.slice(1 + 2 * i, 3 + 2 * i), 16);
    const blend = (i) => part(colors[low], i) + (place - low) * (part(colors[low + 1], i) - part(colors[low], i));
    return `rgb(${[0, 1, 2].map((i) => Math.round(blend(i))).join(",")})`;
}

/**
 * Where everything stands: {width, height, left, head, wide, turned, lines}; a line is a kind's header or a row of cells. The rows'
 * labels take `left`, the columns' `head` pixels.
 */
export function layout(model, state, width) {
    const groups = arrange(model, state);
    const tall = Math.min(ROW * state.zoom, TALLEST / model.sites.length);
    const left = Math.min(150, 16 + LETTER * Math.max(...model.sites.map((name) => shortName(name).length)));
    const wide = Math.max(12, (width - left - BAR) / model.columns.length) * state.zoom;
    const across = Math.min(left + wide * model.columns.length, TALLEST);
    const cell = (across - left) / model.columns.length;
    const turned = model.columns.some((name) => name.length > Math.max(2, Math.floor(cell / LETTER)));
    const head = turned ? TURNED_HEAD : FLAT_HEAD;
    const lines = [];
    let top = head;
    for (const { kind, rows: inside, folded } of groups) {
        lines.push({ kind, top, height: HEADER, folded });
        top += HEADER;
        if (folded) continue;
        for (const row of inside) {
            lines.push({ row, top, height: tall });
            top += tall;
        }
        top += 6;
    }
    return { width: across + BAR, height: Math.max(top, head + 60) + LEGEND, left, head, wide: cell, turned, lines };
}

/** As `layout`, for a map too far away for words: its cells alone, made to fit. */
export function farLayout(model, state, width, height) {
    const rows = arrange(model, state).flatMap((group) => group.rows);
    const tall = height / rows.length;
    const lines = rows.map((row, number) => ({ row, top: number * tall, height: tall }));
    return { width, height, left: 0, head: 0, wide: width / model.columns.length, turned: false, lines };
}

/** What stands at a point: {row, column}, {kind}, or null. */
export function hit(place, model, x, y) {
    const found = place.lines.find((one) => y >= one.top && y < one.top + one.height);
    if (!found) return null;
    if (found.kind !== undefined) return { kind: found.kind };
    const column = Math.floor((x - place.left) / place.wide);
    return column >= 0 && column < model.columns.length ? { row: found.row, column } : null;
}

function shortName(site) {
    const parts = site.split(".");
    return (parts.length > 2 ? parts.slice(1, -1).join(".") : site).slice(0, 22);
}

function color(value, { low, high, diverging }) {
    return mix(diverging ? SIGNED : CIVIDIS, (value - low) / (high - low || 1));
}

function drawCell(pen, box, value, weak, range, theme) {
    const [x, y, w, h] = box;
    if (Number.isNaN(value)) return pen.frame(x + 0.5, y + 0.5, w - 1, h - 1, theme.faint, 0.5);
    pen.fill(x, y, w - 1, h - 1, color(value, range));
    if (weak) {
        pen.fill(x, y, w - 1, h - 1, theme.veil);
        pen.stroke(x, y + h - 1, x + Math.min(w - 1, h - 1), y, theme.faint);
    }
}

function drawBar(pen, place, range, theme) {
    const x = place.width - BAR + 12;
    const height = Math.min(160, place.height - place.head - LEGEND);
    for (let i = 0; i < height; i += 2) {
        pen.fill(x, place.head + i, 10, 2.5, mix(range.diverging ? SIGNED : CIVIDIS, 1 - i / height));
    }
    pen.text(format(range.high).slice(0, 6), x - 8, place.head + height + 12, theme, { size: 10 });
    pen.text(t("to {low}", { low: format(range.low).slice(0, 6) }), x - 8, place.head + height + 24, theme, { size: 10 });
}

function drawCells(pen, model, state, place, range, theme, { focus, pinned }) {
    const outlines = [[bestCell(model), OUTLINE], [pinned, theme.ink], [focus, theme.accent]];
    for (const { row, top, height } of place.lines) {
        if (row === undefined) continue;
        model.columns.forEach((_, column) => {
            const box = [place.left + column * place.wide, top, place.wide, height];
            const weak = model.hatched[row][column] === 1;
            drawCell(pen, box, valueOf(model, state.value, row, column), weak, range, theme);
        });
    }
    for (const [cell, ink] of outlines) {
        const at = cell && place.lines.find((one) => one.row === cell.row);
        if (at) pen.frame(place.left + cell.column * place.wide, at.top, place.wide - 1, at.height - 1, ink, 2);
    }
}

function drawRows(pen, model, place, theme) {
    for (const { row, kind, top, height, folded } of place.lines) {
        if (kind !== undefined) pen.text(`${folded ? "+" : "-"} ${kind}`, 4, top + 13, theme, { bold: true });
        else if (height >= 9) pen.text(shortName(model.sites[row]), place.left - 6, top + height / 2 + 4, theme, { right: true });
    }
}

function drawColumns(pen, model, place, theme) {
    const every = place.turned ? Math.max(1, Math.ceil(11 / place.wide)) : 1;
    model.columns.forEach((name, column) => {
        if (column % every) return;
        const x = place.left + (column + 0.5) * place.wide;
        const short = place.turned ? name.slice(0, 10) : name;
        pen.text(short, x, place.head - 6, theme, place.turned ? { turned: true } : { middle: true });
    });
}

/** Draw a map, or some PARTS of it. `marks` holds the cells that are outlined: focus and pinned, each a cell or null. */
export function draw(pen, model, state, place, theme, marks, parts = PARTS) {
    const range = extent(model, state.value);
    if (parts.includes("cells")) drawCells(pen, model, state, place, range, theme, marks);
    if (parts.includes("rows")) drawRows(pen, model, place, theme);
    if (parts.includes("columns")) drawColumns(pen, model, place, theme);
    if (parts.includes("bar")) drawBar(pen, place, range, theme);
}

const FONT = "system-ui, sans-serif";
const TURN = 0.6;

/** A pen for a canvas' 2D context. */
export function canvasPen(context) {
    return {
        fill(x, y, w, h, ink) {
            context.fillStyle = ink;
            context.fillRect(x, y, w, h);
        },
        frame(x, y, w, h, ink, thick) {
            context.strokeStyle = ink;
            context.lineWidth = thick;
            context.strokeRect(x, y, w, h);
        },
        stroke(x1, y1, x2, y2, ink) {
            context.strokeStyle = ink;
            context.lineWidth = 1;
            context.beginPath();
            context.moveTo(x1, y1);
            context.lineTo(x2, y2);
            context.stroke();
        },
        text(text, x, y, theme, { bold, right, middle, turned, size = 11 } = {}) {
            context.save();
            context.translate(x, y);
            if (turned) context.rotate(-TURN);
            context.font = `${bold ? "bold " : ""}${size}px ${FONT}`;
            context.textAlign = right ? "right" : middle ? "center" : "left";
            context.fillStyle = theme.ink;
            context.fillText(text, 0, 0);
            context.restore();
        },
    };
}

const ESCAPES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&apos;" };
const escaped = (text) => text.replace(/[&<>"']/g, (sign) => ESCAPES[sign]);

/** A pen that writes SVG; `finish(width, height)` gives the document. */
export function svgPen() {
    const parts = [];
    const at = (x, y, w, h) => `x="${x.toFixed(1)}" y="${y.toFixed(1)}" width="${w.toFixed(1)}" height="${h.toFixed(1)}"`;
    return {
        fill: (x, y, w, h, ink) => parts.push(`<rect ${at(x, y, w, h)} fill="${escaped(ink)}"/>`),
        frame: (x, y, w, h, ink, thick) =>
            parts.push(`<rect ${at(x, y, w, h)} fill="none" stroke="${escaped(ink)}" stroke-width="${thick}"/>`),
        stroke: (x1, y1, x2, y2, ink) => parts.push(
            `<path d="M${x1.toFixed(1)} ${y1.toFixed(1)}L${x2.toFixed(1)} ${y2.toFixed(1)}" stroke="${escaped(ink)}"/>`,
        ),
        text(text, x, y, theme, { bold, right, middle, turned, size = 11 } = {}) {
            const anchor = right ? "end" : middle ? "middle" : "start";
            const turn = turned ? ` rotate(${((-TURN * 180) / Math.PI).toFixed(1)})` : "";
            parts.push(
                `<text transform="translate(${x.toFixed(1)} ${y.toFixed(1)})${turn}" font-size="${size}" ` +
                `font-family="${FONT}" font-weight="${bold ? 700 : 400}" text-anchor="${anchor}" ` +
                `fill="${escaped(theme.ink)}">${escaped(text)}</text>`,
            );
        },
        finish: (width, height) =>
            `<svg xmlns="http://www.w3.org/2000/svg" width="${Math.ceil(width)}" height="${Math.ceil(height)}">` +
            `${parts.join("")}</svg>`,
    };
}
