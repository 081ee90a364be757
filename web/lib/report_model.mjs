// An edit's report, checked: measures as shares, the verdict, and the prompts that were hit most. No DOM.
import { entriesOf, fieldsOf, line } from "./data.mjs";
import { t, term } from "./texts.mjs";

/** @type {string[]} */
const KNOWN = [
    term("efficacy"), term("specificity"), term("drift"), term("empty prompt drift"), term("generality"), term("strong"), term("weak"),
    term("harmful"), term("unknown"), term("pooled vector"),
];
// How a report says where a model was edited, and why there.
const WAYS = [
    term("edited: the text encoder"),
    term("edited: the text encoder, which harms other things least when they are named"),
    term("edited: the image model ({family})"),
    term("edited: the image model ({family}), where its text enters"),
    term("edited: the image model ({family}), where its text enters, which leaves other styles in place even where nobody names them"),
    term("edited: the image model ({family}), where its text enters, the way for this family: its text encoders hold no single state of a concept"),
];

// What a measure says, and which way is better.
/** @type {Record<string, string>} */
const HINTS = {
    efficacy: term("How much of the way from the concept to its target is gone. Higher is better."),
    generality: term("The same in sentences that the edit has not seen. Higher is better."),
    specificity: term("How much of the words of everyday prompts stays as it is. Higher is better."),
    drift: term("How far everyday prompts move; the bar ends at 10 %. Lower is better."),
    empty_prompt_drift: term("How far the empty prompt moves, the negative prompt of most pictures; the bar ends at 10 %. Lower is better."),
    pooled: term("How much of the way is gone in the vector of whole prompts. Higher is better."),
};

const MEASURES = 12;
const HITS = 8;
const ROWS = 60;
const REASONS = 16;
const LONGEST = 1000;

/**
 * A measure: `filled` is the bar's length, `good` whether long is good, `hint` what it says, or "".
 * @typedef {{name: string, value: number, good: boolean, filled: number, hint: string}} Measure
 */
/** @typedef {{text: string, drift: number}} Hit */
/** A candidate of Find Target. @typedef {{target: string, removal: number, drift: number}} Candidate */
/** What can be acted on in a report that measures no edit. @typedef {{hits: Hit[], source: string, targets: Candidate[]}} Rows */
/** @typedef {{verdict: string, tone: string, lambda: string, measures: Measure[], worst: Hit[], neighbours: Hit[]}} Report */

/**
 * A measure's or a verdict's name in the page's language; one that is not known, as it comes.
 * @param {string} name
 */
export const named = (name) => (KNOWN.includes(name) ? t(name) : name);

// What is no share of anything, and so no bar.
const OTHER = new Set(["pairs", "rank", "relative_norm", "nbytes", "condition", "doors"]);
// Fields with another name than their measure.
/** @type {Record<string, string>} */
const NAMES = { pooled: "pooled vector" };
// A drift of ten percent is harmful: the bar's end.
const WORST_DRIFT = 0.1;

/** @param {unknown} value */
function share(value) {
    return typeof value === "number" && Number.isFinite(value) ? value : null;
}

/**
 * @param {[string, unknown]} field
 * @returns {Measure[]}
 */
function measure([key, value]) {
    const found = share(value);
    if (found === null || OTHER.has(key)) return [];
    const drift = /drift/.test(key);
    const filled = Math.min(1, Math.max(0, drift ? found / WORST_DRIFT : found));
    const [, name = "", rest = ""] = (NAMES[key] ?? key).replaceAll("_", " ").match(/^(.*?)( \(.*\))?$/s) ?? [];
    const [plain = ""] = key.split(" ");
    const hint = Object.hasOwn(HINTS, plain) ? t(HINTS[plain] ?? "") : "";
    return [{ name: line(`${named(name)}${rest}`, 40), value: found, good: !drift, filled, hint }];
}

/**
 * Fields in their order; what is told by kind of concept, such as generality, as one field for each kind.
 * @param {Record<string, unknown>} payload
 * @returns {[string, unknown][]}
 */
function fields(payload) {
    return Object.entries(payload).slice(0, 60).flatMap(([key, value]) => {
        const kinds = key === "generality" ? fieldsOf(value) : null;
        if (!kinds) return [[key, value]];
        return Object.entries(kinds).slice(0, 4).map(([kind, reached]) => /** @type {[string, unknown]} */ ([`${key} (${kind})`, reached]));
    });
}

/**
 * A prompt or name that was hit, in a list; an empty one for what is none.
 * @param {unknown} entry
 * @returns {Hit[]}
 */
function hit(entry) {
    const [text, drift] = entriesOf(entry);
    const moved = share(drift);
    return typeof text === "string" && moved !== null ? [{ text: line(text, 200), drift: moved }] : [];
}

/** @param {unknown} entries */
const hits = (entries) => entriesOf(entries, HITS).flatMap(hit);

/**
 * The hits of a radar, or the candidates of a ranking of targets; null where there are neither.
 * @param {unknown} given
 * @returns {Rows | null}
 */
export function rowsOf(given) {
    const payload = fieldsOf(given);
    const found = entriesOf(payload?.hits, ROWS).flatMap(hit);
    const targets = entriesOf(payload?.targets, ROWS).flatMap((entry) => {
        const [target, removal, drift] = entriesOf(entry);
        const shares = [share(removal), share(drift)];
        return typeof target === "string" && shares[0] != null && shares[1] != null
            ? [{ target: line(target, 200), removal: shares[0], drift: shares[1] }] : [];
    });
    return found.length || targets.length ? { hits: found, targets, source: line(payload?.source, 200) } : null;
}

/**
 * A reason for the verdict in the page's language; null for what is none.
 * @param {unknown} entry
 */
function reason(entry) {
    const [sentence, values] = entriesOf(entry);
    const found = fieldsOf(values);
    return typeof sentence === "string" && found ? t(sentence, found) : null;
}

/**
 * The verdict in the page's language; in the server's words where they give no reasons that can be read.
 * @param {Record<string, unknown>} payload
 * @param {string} tone
 */
function verdictOf({ verdict, findings }, tone) {
    const said = line(verdict, LONGEST);
    if (said === tone) return named(tone);
    const reasons = entriesOf(findings, REASONS).map(reason);
    return !reasons.length || reasons.includes(null) ? said : line(`${named(tone)}: ${reasons.join("; ")}`, LONGEST);
}

/**
 * Where a model was edited, in the page's language, by a report's text; "" where that does not say so.
 * @param {string} text
 */
export function wayOf(text) {
    const said = line(text.slice(0, text.indexOf("\n")), 300);
    for (const way of WAYS) {
        const [before = "", after] = way.split("{family}");
        if (after === undefined ? said !== way : !said.startsWith(before) || !said.endsWith(after)) continue;
        return t(way, { family: said.slice(before.length, said.length - (after ?? "").length) });
    }
    return said.startsWith("edited: ") ? said : "";
}

/**
 * The model of a report's payload, or null. Fields that are not known are shown as they come, if they are shares.
 * @param {unknown} given
 * @returns {Report | null}
 */
export function parse(given) {
    const payload = fieldsOf(given);
    const measures = payload ? fields(payload).flatMap(measure).slice(0, MEASURES) : [];
    if (!payload || !measures.length) return null;
    const [, tone = ""] = line(payload.verdict, LONGEST).toLowerCase().match(/^(\w*)/) ?? [];
    const neighbours = hits(fieldsOf(payload.neighbours)?.worst);
    const lam = fieldsOf(payload.chosen)?.lam;
    const lambda = typeof lam === "number" && Number.isFinite(lam) ? String(Number(lam.toPrecision(3))) : "";
    return { verdict: verdictOf(payload, tone), tone, lambda, measures, worst: hits(payload.worst_hit), neighbours };
}
