// What can be asked of a trace. No DOM, no drawing.
import { MATRICES, MOST_PICTURES, ORDERS, inside } from "./heatmap_payload.mjs";
import { t } from "./texts.mjs";

/** @typedef {import("./heatmap_payload.mjs").Cell} Cell */
/** @typedef {import("./heatmap_payload.mjs").Model} Model */
/** @typedef {import("./heatmap_payload.mjs").State} State */
/** @typedef {import("./heatmap_payload.mjs").Value} Value */

/** @type {Record<Value, "effect" | "recovery" | "significance">} */
const OF_VALUE = { "indirect effect": "effect", recovery: "recovery", significance: "significance" };

/**
 * A number of a cell; NaN where there is no such cell.
 * @param {number[][]} cells
 * @param {Cell} cell
 */
export function at(cells, { row, column }) {
    return cells[row]?.[column] ?? NaN;
}

/**
 * Whether a trace has a cell.
 * @param {Model} model
 * @param {Cell} cell
 */
export function has(model, { row, column }) {
    return inside(row, model.sites.length) && inside(column, model.columns.length);
}

/**
 * What one cell shows for a choice of VALUES.
 * @param {Model} model
 * @param {Value} value
 * @param {Cell} cell
 */
export function valueOf(model, value, cell) {
    return at(model[OF_VALUE[value]], cell);
}

/**
 * The cell with the largest indirect effect; null where none was measured.
 * @param {Model} model
 * @returns {Cell | null}
 */
export function bestCell(model) {
    const cells = model.effect.flatMap((effects, row) => effects.map((effect, column) => ({ row, column, effect })))
        .filter(({ effect }) => !Number.isNaN(effect));
    const [first, ...others] = cells;
    if (!first) return null;
    const { row, column } = others.reduce((best, one) => (one.effect > best.effect ? one : best), first);
    return { row, column };
}

/**
 * How many restored pictures a trace must have painted for a cell's to be among them; null where it was not measured.
 * @param {Model} model
 * @param {Cell} cell
 */
export function picturesFor(model, cell) {
    const effect = at(model.effect, cell);
    if (Number.isNaN(effect)) return null;
    const count = model.effect.flat().filter((other) => other >= effect).length;
    return count <= MOST_PICTURES ? count : null;
}

/**
 * Rows by kind, each kind's rows in the chosen order; all rows as one group without a kind where they are sorted over all kinds.
 * @param {Model} model
 * @param {State} state
 * @returns {{kind: string | null, rows: number[], folded: boolean}[]}
 */
export function arrange(model, { value, order, folded }) {
    /** @type {Map<string, number[]>} */
    const groups = new Map();
    model.kinds.forEach((kind, row) => groups.set(kind, [...(groups.get(kind) ?? []), row]));
    const strengths = model[OF_VALUE[value]].map((cells) => Math.max(...cells.map((one) => (Number.isNaN(one) ? -Infinity : one))));
    /** @param {number} row */
    const strength = (row) => strengths[row] ?? -Infinity;
    /** @type {(rows: number[]) => number[]} */
    const sorted = (rows) => [...rows].sort((a, b) => strength(b) - strength(a) || a - b);
    if (order === ORDERS[2]) return [{ kind: null, rows: sorted(model.sites.map((_, row) => row)), folded: false }];
    return [...groups].map(([kind, rows]) => ({
        kind,
        rows: order === ORDERS[1] ? sorted(rows) : rows,
        folded: folded.includes(kind),
    }));
}

/**
 * The colors' ends.
 * @param {Model} model
 * @param {Value} value
 */
export function extent(model, value) {
    const all = model[OF_VALUE[value]].flat().filter((v) => !Number.isNaN(v));
    const high = all.reduce((a, b) => Math.max(a, b), -Infinity);
    const low = all.reduce((a, b) => Math.min(a, b), Infinity);
    if (!all.length) return { low: 0, high: 1, diverging: false };
    if (value !== "significance" && low >= -0.05 * Math.max(high, 0)) return { low: 0, high: high > 0 ? high : 1, diverging: false };
    const most = Math.max(Math.abs(low), Math.abs(high));
    return { low: -most, high: most, diverging: true };
}

/** @param {number} value */
export function format(value) {
    if (Number.isNaN(value)) return "-";
    return Math.abs(value) >= 100 ? value.toFixed(1) : value.toFixed(3);
}

/**
 * Whether a cell beats the control, in words.
 * @param {Model} model
 * @param {number} beats
 */
function verdict(model, beats) {
    if (Number.isNaN(beats)) return model.controls ? t("not judged: that takes six prompts") : t("not judged: no control runs");
    if (beats < 0) return t("no, it brings back less");
    return beats ? t("yes") : t("no");
}

/**
 * Everything known of a cell, as [name, text] pairs.
 * @param {Model} model
 * @param {Cell} cell
 * @returns {[string, string][]}
 */
export function facts(model, cell) {
    const [beats, low, high, recovery] = [model.beats_control, model.low, model.high, model.recovery].map((cells) => at(cells, cell));
    /** @type {(value: number | undefined, said: (value: number) => string, otherwise: string) => string} */
    const told = (value = NaN, said, otherwise) => (Number.isNaN(value) ? otherwise : said(value));
    return [
        [t("site"), model.sites[cell.row] ?? ""],
        [t(model.axis), model.columns[cell.column] ?? ""],
        [t("clean score"), format(model.clean)],
        [t("corrupted score"), format(model.corrupted)],
        [t("restored score"), format(at(model.restored, cell))],
        [t("indirect effect"), format(at(model.effect, cell))],
        [t("95 % interval"), told(low, (from) => t("{low} to {high}", { low: format(from), high: format(high ?? NaN) }),
            t("none (one prompt)"))],
        [t("recovery"), told(recovery, (share) => `${(100 * share).toFixed(1)} %`, "-")],
        [t("beats the control"), verdict(model, beats ?? NaN)],
        ["p, q", told(at(model.p, cell), (p) => `${format(p)}, ${format(at(model.q, cell))}`, "-")],
        [t("first in resamples"), told(at(model.first, cell), (share) => `${(100 * share).toFixed(0)} %`, "-")],
    ];
}

// A spreadsheet would take these for formulas.
const FORMULA = /^[=+\-@\t\r\uff1d\uff0b\uff0d\uff20]/;

/** @param {string | number} value */
function field(value) {
    if (typeof value === "number") return Number.isNaN(value) ? "" : String(value);
    const text = FORMULA.test(value) ? `'${value}` : value;
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/**
 * One line for each cell.
 * @param {Model} model
 */
export function toCsv(model) {
    /** @type {(string | number)[][]} */
    const rows = [["site", model.axis, "clean", "corrupted", ...MATRICES, "p", "q", "first"]];
    model.sites.forEach((site, row) => model.columns.forEach((name, column) => {
        const cell = { row, column };
        const numbers = [...MATRICES.map((matrix) => model[matrix]), model.p, model.q, model.first].map((cells) => at(cells, cell));
        rows.push([site, name, model.clean, model.corrupted, ...numbers]);
    }));
    return rows.map((row) => row.map(field).join(",")).join("\r\n") + "\r\n";
}
