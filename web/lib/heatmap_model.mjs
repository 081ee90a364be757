// A trace's payload, checked, and what can be asked of it. No DOM, no drawing.

import { line } from "./dom.mjs";
import { t, term } from "./texts.mjs";

export const VALUES = [term("indirect effect"), term("recovery"), term("significance")];
export const ORDERS = [term("as in the model"), term("strongest first")];
const AXES = [term("token"), term("step")];
const MATRICES = ["effect", "recovery", "restored", "low", "high", "significance", "beats_control"];
const OF_VALUE = { "indirect effect": "effect", recovery: "recovery", significance: "significance" };
const MOST_CELLS = 6000;
const MOST_ROWS = 1000;
const MOST_PICTURES = 512;

function number(value) {
    return typeof value === "number" && Number.isFinite(value) ? value : NaN;
}

function labels(value) {
    if (!Array.isArray(value) || !value.length || value.some((entry) => typeof entry !== "string")) return null;
    return value.map((entry) => line(entry));
}

function matrix(value, rows, columns) {
    if (!Array.isArray(value) || value.length !== rows) return null;
    if (value.some((row) => !Array.isArray(row) || row.length !== columns)) return null;
    return value.map((row) => row.map(number));
}

function picture(value) {
    const { filename, subfolder, type } = value ?? {};
    const plain = [filename, subfolder].every((part) => typeof part === "string" && part.length < 300);
    return plain && filename && type === "temp" ? { filename, subfolder, type } : null;
}

function inside(place, count) {
    return Number.isInteger(place) && place >= 0 && place < count;
}

/** The example pictures' files: {clean, corrupted, restored: of "row,column"}; null where none were connected. */
function pictures(value, rows, columns) {
    if (typeof value !== "object" || value === null) return null;
    const restored = new Map();
    for (const entry of Array.isArray(value.restored) ? value.restored.slice(0, MOST_PICTURES) : []) {
        const [row, column, found] = Array.isArray(entry) ? entry : [];
        const file = picture(found);
        if (file && inside(row, rows) && inside(column, columns)) restored.set(`${row},${column}`, file);
    }
    return { clean: picture(value.clean), corrupted: picture(value.corrupted), restored };
}

/** The model of a payload, or null where it is none: labels capped, numbers finite or NaN. */
export function parse(payload) {
    if (typeof payload !== "object" || payload?.version !== 1) return null;
    const sites = labels(payload.sites);
    const columns = labels(payload.columns);
    if (!sites || !columns || sites.length > MOST_ROWS || sites.length * columns.length > MOST_CELLS) return null;
    const model = {
        sites,
        columns,
        kinds: sites.map((name) => line(name.split(".").at(-1), 24)),
        layers: sites.map((_, row) => (Number.isInteger(payload.layers?.[row]) ? payload.layers[row] : null)),
        axis: AXES.includes(payload.column_axis) ? payload.column_axis : AXES[0],
        clean: number(payload.clean),
        corrupted: number(payload.corrupted),
        runs: number(payload.runs),
        controls: number(payload.controls),
        prompts: number(payload.prompts),
        pictures: pictures(payload.pictures, sites.length, columns.length),
    };
    for (const name of ["prompt", "subject", "score"]) model[name] = line(payload[name]);
    for (const name of MATRICES) {
        model[name] = matrix(payload[name], sites.length, columns.length);
        if (!model[name]) return null;
    }
    // Payloads of earlier versions, kept in workflows, hatch what does not beat the control.
    model.hatched = matrix(payload.hatched, sites.length, columns.length)
        ?? model.beats_control.map((row) => row.map((beats) => Number(beats === 0)));
    return model;
}

/** What one cell shows for a choice of VALUES. */
export function valueOf(model, value, row, column) {
    return model[OF_VALUE[value] ?? "effect"][row][column];
}

/** The cell with the largest indirect effect as {row, column}, or null. */
export function bestCell(model) {
    let best = null;
    model.effect.forEach((cells, row) => cells.forEach((effect, column) => {
        if (!Number.isNaN(effect) && (!best || effect > model.effect[best.row][best.column])) best = { row, column };
    }));
    return best;
}

/** How many restored pictures a trace must have painted for a cell's to be among them; null where it was not measured. */
export function picturesFor(model, { row, column }) {
    const effect = model.effect[row][column];
    if (Number.isNaN(effect)) return null;
    const count = model.effect.flat().filter((other) => other >= effect).length;
    return count <= MOST_PICTURES ? count : null;
}

/** Rows by kind: [{kind, rows, folded}], each kind's rows in the chosen order. */
export function arrange(model, { value, order, folded }) {
    const groups = new Map();
    model.kinds.forEach((kind, row) => groups.set(kind, [...(groups.get(kind) ?? []), row]));
    const strength = (row) => Math.max(...model[OF_VALUE[value]][row].map((one) => (Number.isNaN(one) ? -Infinity : one)));
    return [...groups].map(([kind, rows]) => ({
        kind,
        rows: order === ORDERS[1] ? [...rows].sort((a, b) => strength(b) - strength(a) || a - b) : rows,
        folded: folded.includes(kind),
    }));
}

/** The colors' ends: {low, high, diverging}. */
export function extent(model, value) {
    const all = model[OF_VALUE[value]].flat().filter((v) => !Number.isNaN(v));
    const high = all.reduce((a, b) => Math.max(a, b), -Infinity);
    const low = all.reduce((a, b) => Math.min(a, b), Infinity);
    if (!all.length) return { low: 0, high: 1, diverging: false };
    if (value !== "significance" && low >= -0.05 * Math.max(high, 0)) return { low: 0, high: high > 0 ? high : 1, diverging: false };
    const most = Math.max(Math.abs(low), Math.abs(high));
    return { low: -most, high: most, diverging: true };
}

export function format(value) {
    if (Number.isNaN(value)) return "-";
    return Math.abs(value) >= 100 ? value.toFixed(1) : value.toFixed(3);
}

function verdict(model, beats) {
    if (Number.isNaN(beats)) return model.controls ? t("not judged: that takes six prompts") : t("not judged: no control runs");
    if (beats < 0) return t("no, it brings back less");
    return beats ? t("yes") : t("no");
}

/** Everything known of a cell, as [name, text] pairs. */
export function facts(model, { row, column }) {
    const beats = model.beats_control[row][column];
    const interval = Number.isNaN(model.low[row][column])
        ? t("none (one prompt)")
        : t("{low} to {high}", { low: format(model.low[row][column]), high: format(model.high[row][column]) });
    return [
        [t("site"), model.sites[row]],
        [t(model.axis), model.columns[column]],
        [t("clean score"), format(model.clean)],
        [t("corrupted score"), format(model.corrupted)],
        [t("restored score"), format(model.restored[row][column])],
        [t("indirect effect"), format(model.effect[row][column])],
        [t("95 % interval"), interval],
        [t("recovery"), Number.isNaN(model.recovery[row][column]) ? "-" : `${(100 * model.recovery[row][column]).toFixed(1)} %`],
        [t("beats the control"), verdict(model, beats)],
    ];
}

// A spreadsheet would take these for formulas.
const FORMULA = /^[=+\-@\t\r\uff1d\uff0b\uff0d\uff20]/;

function field(value) {
    if (typeof value === "number") return Number.isNaN(value) ? "" : String(value);
    const text = FORMULA.test(value) ? `'${value}` : value;
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** One line for each cell. */
export function toCsv(model) {
    const rows = [["site", model.axis, "clean", "corrupted", ...MATRICES]];
    model.sites.forEach((site, row) => model.columns.forEach((column, place) => {
        rows.push([site, column, model.clean, model.corrupted, ...MATRICES.map((name) => model[name][row][place])]);
    }));
    return rows.map((row) => row.map(field).join(",")).join("\r\n") + "\r\n";
}
