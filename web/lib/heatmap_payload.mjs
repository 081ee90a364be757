// A trace's payload and what is kept of a heat map, checked.
import { entriesOf, fieldsOf, line, number } from "./data.mjs";
import { term } from "./texts.mjs";

export const VALUES = /** @type {const} */ ([term("indirect effect"), term("recovery"), term("significance")]);
export const ORDERS = /** @type {const} */ ([term("as in the model"), term("strongest first"), term("strongest of all kinds first")]);
export const ZOOMS = [1, 1.5, 2, 3, 4];
const AXES = /** @type {const} */ ([term("token"), term("step")]);
export const MATRICES = /** @type {const} */ (["effect", "recovery", "restored", "low", "high", "significance", "beats_control"]);
const MOST_CELLS = 6000;
const MOST_ROWS = 1000;
export const MOST_PICTURES = 512;
const MOST_FOLDED = 50;

/**
 * @typedef {typeof VALUES[number]} Value
 * @typedef {typeof ORDERS[number]} Order
 * @typedef {{row: number, column: number}} Cell
 * @typedef {{filename: string, subfolder: string, type: string}} PictureFile
 * @typedef {{clean: PictureFile | null, corrupted: PictureFile | null, restored: Map<string, PictureFile>}} Pictures
 */
/**
 * Numbers of each cell, by row and column; NaN where there are none.
 * @typedef {Record<typeof MATRICES[number], number[][]>} Matrices
 */
/**
 * What was traced. `layers` holds the layer of each site that an edit can be made at.
 * @typedef {object} Labels
 * @property {string[]} sites
 * @property {string[]} columns
 * @property {string[]} kinds
 * @property {(number | null)[]} layers
 * @property {typeof AXES[number]} axis
 * @property {number} clean
 * @property {number} corrupted
 * @property {number} runs
 * @property {number} controls
 * @property {number} prompts
 * @property {Pictures | null} pictures
 * @property {string} prompt
 * @property {string} subject
 * @property {string} score
 */
/**
 * `hatched` is 1 where a cell cannot be told from the control. `p` and `q` are of each cell for itself, `first` is the share
 * of resamples in which it is the largest.
 * @typedef {Labels & Matrices & {hatched: number[][], p: number[][], q: number[][], first: number[][]}} Model
 */
/**
 * What is chosen on a heat map.
 * @typedef {{value: Value, order: Order, zoom: number, folded: string[], pinned: Cell | null}} State
 */

/**
 * The one of some values that was meant, or the first.
 * @template T
 * @param {readonly [T, ...T[]]} values
 * @param {unknown} value
 */
function oneOf(values, value) {
    return values.find((one) => one === value) ?? values[0];
}

/** @param {unknown} value */
function labels(value) {
    const entries = entriesOf(value);
    return entries.length && entries.every((entry) => typeof entry === "string") ? entries.map((entry) => line(entry)) : null;
}

/** @type {(value: unknown, rows: number, columns: number) => number[][] | null} */
function matrix(value, rows, columns) {
    const found = entriesOf(value).map((row) => entriesOf(row).map(number));
    return found.length === rows && found.every((row) => row.length === columns) ? found : null;
}

/**
 * @param {unknown} value
 * @returns {PictureFile | null}
 */
function picture(value) {
    const { filename, subfolder, type } = fieldsOf(value) ?? {};
    if (typeof filename !== "string" || typeof subfolder !== "string" || type !== "temp") return null;
    return filename && filename.length < 300 && subfolder.length < 300 ? { filename, subfolder, type } : null;
}

/** @type {(place: unknown, count: number) => boolean} */
export function inside(place, count) {
    return Number.isInteger(place) && Number(place) >= 0 && Number(place) < count;
}

/**
 * The example pictures' files, restored ones by "row,column"; null where none were connected.
 * @type {(value: unknown, rows: number, columns: number) => Pictures | null}
 */
function pictures(value, rows, columns) {
    const found = fieldsOf(value);
    if (!found) return null;
    const restored = new Map();
    for (const entry of entriesOf(found.restored, MOST_PICTURES)) {
        const [row, column, shown] = entriesOf(entry);
        const file = picture(shown);
        if (file && inside(row, rows) && inside(column, columns)) restored.set(`${row},${column}`, file);
    }
    return { clean: picture(found.clean), corrupted: picture(found.corrupted), restored };
}

/** @type {(payload: Record<string, unknown>, rows: number, columns: number) => Matrices | null} */
function matrices(payload, rows, columns) {
    const found = MATRICES.map((name) => [name, matrix(payload[name], rows, columns)]);
    return found.some(([, cells]) => !cells) ? null : Object.fromEntries(found);
}

/**
 * The model of a payload, or null where it is none: labels capped, numbers finite or NaN.
 * @param {unknown} given
 * @returns {Model | null}
 */
export function parse(given) {
    const payload = fieldsOf(given);
    if (payload?.version !== 1) return null;
    const sites = labels(payload.sites);
    const columns = labels(payload.columns);
    if (!sites || !columns || sites.length > MOST_ROWS || sites.length * columns.length > MOST_CELLS) return null;
    const cells = matrices(payload, sites.length, columns.length);
    if (!cells) return null;
    const layers = entriesOf(payload.layers);
    // Payloads of earlier versions, kept in workflows, hatch what does not beat the control.
    const hatched = matrix(payload.hatched, sites.length, columns.length)
        ?? cells.beats_control.map((row) => row.map((beats) => Number(beats === 0)));
    const [p, q, first] = [payload.p, payload.q, payload.first].map((found) => matrix(found, sites.length, columns.length)
        ?? sites.map(() => columns.map(() => NaN)));
    return {
        sites,
        columns,
        // A head's name ends in its number: text.0.self_attn.h3.
        kinds: sites.map((name) => line(name.split(".").at(-1)?.replace(/^h\d+$/, "head"), 24)),
        layers: sites.map((_, row) => (Number.isInteger(layers[row]) ? Number(layers[row]) : null)),
        axis: oneOf(AXES, payload.column_axis),
        clean: number(payload.clean),
        corrupted: number(payload.corrupted),
        runs: number(payload.runs),
        controls: number(payload.controls),
        prompts: number(payload.prompts),
        pictures: pictures(payload.pictures, sites.length, columns.length),
        prompt: line(payload.prompt),
        subject: line(payload.subject),
        score: line(payload.score),
        ...cells,
        hatched,
        p: p ?? [],
        q: q ?? [],
        first: first ?? [],
    };
}

/**
 * Kept choices, checked: they are read from workflow files.
 * @param {unknown} kept
 * @returns {State}
 */
export function checkedState(kept) {
    const state = fieldsOf(kept) ?? {};
    const { row, column } = fieldsOf(state.pinned) ?? {};
    return {
        value: oneOf(VALUES, state.value),
        order: oneOf(ORDERS, state.order),
        zoom: ZOOMS.find((zoom) => zoom === state.zoom) ?? 1,
        folded: entriesOf(state.folded).filter((kind) => typeof kind === "string").slice(0, MOST_FOLDED),
        pinned: Number.isInteger(row) && Number.isInteger(column) ? { row: Number(row), column: Number(column) } : null,
    };
}
