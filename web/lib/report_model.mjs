// An edit's report, checked: measures as shares, the verdict, and the prompts that were hit most. No DOM.

import { line } from "./dom.mjs";
import { t, term } from "./texts.mjs";

const KNOWN = [
    term("efficacy"), term("specificity"), term("drift"), term("empty prompt drift"), term("generality"), term("strong"), term("weak"),
    term("harmful"), term("unknown"),
];

const MEASURES = 12;
const HITS = 8;
const REASONS = 16;
const LONGEST = 1000;
/** A measure's or a verdict's name in the page's language; one that is not known, as it comes. */
export const named = (name) => (KNOWN.includes(name) ? t(name) : name);

// What is no share of anything, and so no bar.
const OTHER = new Set(["pairs", "rank", "relative_norm", "nbytes", "condition"]);
// A drift of ten percent is harmful: the bar's end.
const WORST_DRIFT = 0.1;

function share(value) {
    return typeof value === "number" && Number.isFinite(value) ? value : null;
}

/** A measure as {name, value, good, filled}: `filled` is the bar's length, `good` whether long is good. */
function measure([key, value]) {
    const found = share(value);
    if (found === null || OTHER.has(key)) return null;
    const drift = /drift/.test(key);
    const filled = Math.min(1, Math.max(0, drift ? found / WORST_DRIFT : found));
    const [, name, rest] = /^(.*?)( \(.*\))?$/s.exec(key.replaceAll("_", " "));
    return { name: line(`${named(name)}${rest ?? ""}`, 40), value: found, good: !drift, filled };
}

/** Fields in their order; what is told by kind of concept, such as generality, as one field for each kind. */
function fields(payload) {
    return Object.entries(payload).slice(0, 60).flatMap(([key, value]) => {
        if (key !== "generality" || typeof value !== "object" || value === null) return [[key, value]];
        return Object.entries(value).slice(0, 4).map(([kind, reached]) => [`${key} (${kind})`, reached]);
    });
}

function hit(entry) {
    const [text, drift] = Array.isArray(entry) ? entry : [];
    return typeof text === "string" && share(drift) !== null ? { text: line(text, 200), drift } : null;
}

const hits = (entries) => (Array.isArray(entries) ? entries.slice(0, HITS).map(hit).filter(Boolean) : []);

/** A reason for the verdict in the page's language; null for what is none. */
function reason(entry) {
    const [sentence, values] = Array.isArray(entry) ? entry : [];
    const sound = typeof sentence === "string" && typeof values === "object" && values !== null;
    return sound ? t(sentence, values) : null;
}

/** The verdict in the page's language; in the server's words where they give no reasons that can be read. */
function verdictOf({ verdict, findings }, tone) {
    const said = line(verdict, LONGEST);
    if (said === tone) return named(tone);
    const reasons = Array.isArray(findings) ? findings.slice(0, REASONS).map(reason) : [];
    return !reasons.length || reasons.includes(null) ? said : line(`${named(tone)}: ${reasons.join("; ")}`, LONGEST);
}

/** The model of a report's payload, or null. Fields that are not known are shown as they come, if they are shares. */
export function parse(payload) {
    if (typeof payload !== "object" || payload === null || Array.isArray(payload)) return null;
    const measures = fields(payload).map(measure).filter(Boolean).slice(0, MEASURES);
    if (!measures.length) return null;
    const [, tone] = /^(\w*)/.exec(line(payload.verdict, LONGEST).toLowerCase());
    return {
        verdict: verdictOf(payload, tone), tone, measures, worst: hits(payload.worst_hit), neighbours: hits(payload.neighbours?.worst),
    };
}
