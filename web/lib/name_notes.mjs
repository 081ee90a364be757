// Words beside the fields for names of nodes that edit: what the rules see at once, what the server sees of tokens and of the
// prompts that the CLIP encodes, and what the last run found.
import { api } from "../../../scripts/api.js";
import { entriesOf, fieldsOf, line } from "./data.mjs";
import { NoteStrip } from "./note_strip.mjs";
import { labelOf, widgetOf } from "./node.mjs";
import { t } from "./texts.mjs";
import { SENTENCES, notesOn, plain } from "./typed_names.mjs";
import { allPlaces, isFed, modelOf, placesOf, readsClip, sourceOf, wiringOf } from "./wires.mjs";

/** @typedef {import("./typed_names.mjs").Note} Note */
/** @typedef {import("./wires.mjs").Place} Place */
/** @typedef {import("./typed_names.mjs").Fields} Fields */

const PAUSE = 250;
const AGAIN = 5000;
const MOST_PROMPTS = 24;
const LONGEST_PROMPT = 4000;
// Of all prompts together: what is asked of the server has its limit.
const LONGEST = 20_000;
// Stands for a name that a link feeds: what it says is known when it runs.
const FED = "\u2026";
const REPORT = "diff_quickfix_report_data";
// Sentences of a verdict on names, and the values that hold these.
const FOUND = ["this model does not know {names}: ", "this model hardly knows {names}: ", "this model does not tell {source} from {target}: "];

/** @type {(one: Place, other: Place) => boolean} */
const same = (one, other) => one.node === other.node && one.path.length === other.path.length && one.path.every((node, at) => node === other.path[at]);

/** @typedef {{place: Place, name: string, from: ReturnType<typeof sourceOf>}} Prompt */

/**
 * The text that an input holds: its widget's, or that of a node which gives nothing but its widget's. Null where it is known
 * only when it runs.
 * @param {Prompt} prompt
 */
function textAt({ place, name, from }) {
    if (!from) return String(widgetOf(place.node, name)?.value ?? "");
    const given = from.slot < 0 ? from.node.widgets?.find((one) => one.name === from.name) : from.node.widgets?.[0];
    const alone = from.slot < 0 || (from.node.widgets?.length === 1 && !from.node.inputs?.some((slot) => slot.link != null));
    return alone && typeof given?.value === "string" ? given.value : null;
}

/**
 * Where the prompts are that the CLIP of a node encodes, with it or past it.
 * @param {ComfyNode} node
 */
function encodedWith(node) {
    /** @type {Prompt[]} */
    const found = [];
    const models = placesOf(node).flatMap((place) => modelOf(place) ?? []);
    for (const place of models.length ? allPlaces(node) : []) {
        const { inputs = [], outputs = [], mode } = place.node;
        if (mode || !outputs.some(({ type }) => type === "CONDITIONING") || !inputs.some(({ type }) => type === "CLIP")) continue;
        const model = modelOf(place);
        if (!model || !models.some((one) => same(one, model) && one.slot === model.slot)) continue;
        for (const { type, widget } of inputs) {
            if (type === "STRING" && widget) found.push({ place, name: widget.name, from: sourceOf(place, widget.name) });
        }
    }
    return found;
}

/** Where each node's prompts are, as long as the workflow is wired alike. @type {WeakMap<ComfyNode, {wiring: string, prompts: Prompt[]}>} */
const wired = new WeakMap();

/**
 * The prompts that the CLIP of a node encodes; none where one of them is not known before a run.
 * @param {ComfyNode} node
 */
export function promptsOf(node) {
    const wiring = wiringOf(node);
    let known = wired.get(node);
    if (known?.wiring !== wiring) {
        known = { wiring, prompts: encodedWith(node) };
        wired.set(node, known);
    }
    const texts = known.prompts.map(textAt);
    if (texts.some((text) => text === null || text.length > LONGEST_PROMPT)) return [];
    const distinct = [...new Set(texts.filter((text) => text?.trim()))];
    return distinct.length > MOST_PROMPTS || distinct.join("").length > LONGEST ? [] : distinct;
}

/**
 * The server's notes, checked; null where it gave none.
 * @param {unknown} answer
 * @returns {Note[] | null}
 */
function checked(answer) {
    const { notes } = fieldsOf(answer) ?? {};
    if (!Array.isArray(notes)) return null;
    return entriesOf(notes, 8).flatMap((entry) => {
        const { field, sentence, values } = fieldsOf(entry) ?? {};
        const known = SENTENCES.find((one) => one === sentence);
        if (known === undefined || (field !== "source" && field !== "target")) return [];
        const texts = Object.entries(fieldsOf(values) ?? {}).map(([name, value]) => [name, line(value, 200)]);
        return [{ field, sentence: known, values: Object.fromEntries(texts) }];
    });
}

/**
 * What the last run of a node found out about a name, in the page's language.
 * @param {ComfyNode} node
 * @param {string} name
 * @returns {string[]}
 */
function foundOut(node, name) {
    const kept = fieldsOf(node.properties[REPORT]);
    const [, measures] = entriesOf(kept?.report);
    if (kept?.node !== String(node.id)) return [];
    return entriesOf(fieldsOf(measures)?.findings, 16).flatMap((entry) => {
        const [sentence, given] = entriesOf(entry);
        const values = fieldsOf(given);
        if (typeof sentence !== "string" || !values || !FOUND.some((one) => sentence.startsWith(one))) return [];
        const named = Object.values(values).some((value) => typeof value === "string" && [`'${name}'`, `"${name}"`].some((one) => value.includes(one)));
        return named ? [line(t(sentence, values), 300)] : [];
    });
}

/**
 * The words beside a node's fields.
 * @param {ComfyNode} node
 * @param {Fields} fields
 */
export function attach(node, fields) {
    const strip = new NoteStrip(node, "diff_quickfix_names", fields.target ?? fields.source);
    /** @type {Note[]} */
    let notes = [];
    let followed = "";
    let asked = 0;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let timer;

    /** @param {string | undefined} name */
    const typed = (name) => (name === undefined ? null : isFed(node, name) ? FED : String(widgetOf(node, name)?.value ?? "").slice(0, LONGEST_PROMPT));
    const read = () => ({
        source: typed(fields.source) ?? FED, target: typed(fields.target), kind: String(widgetOf(node, "kind")?.value ?? ""),
        listed: isFed(node, "concepts"), prompts: promptsOf(node),
        clip: placesOf(node).every(readsClip),
    });

    /** @type {(now: ReturnType<typeof read>, found: Note[]) => void} */
    function take(now, found) {
        notes = found.filter(({ field }) => now[field] !== FED);
        say();
    }

    function say() {
        const names = { source: fields.source, target: fields.target ?? "" };
        const lines = notes.map(({ field, sentence, values }) => ({ field, text: t(sentence, values) }));
        for (const field of /** @type {("source" | "target")[]} */ (["source", "target"])) {
            const name = plain(String(widgetOf(node, names[field])?.value ?? ""));
            if (!name || isFed(node, names[field]) || lines.some((one) => one.field === field)) continue;
            lines.push(...foundOut(node, name).map((text) => ({ field, text })));
        }
        strip.show(lines.map(({ field, text }) => ({ text: `\u26a0 ${labelOf(node, names[field])}: ${text}` })));
    }

    /** @param {ReturnType<typeof read>} now */
    async function ask(now) {
        const number = ++asked;
        const reply = await api.fetchApi("/diff_quickfix/names", {
            method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(now),
        }).then((answer) => answer.json()).catch(() => null);
        if (number !== asked) return;
        const found = checked(reply);
        if (found) return take(now, found);
        // What the rules see stays until the server answers.
        timer = setTimeout(() => ask(now), AGAIN);
    }

    return {
        look() {
            const now = read();
            const key = JSON.stringify(now);
            if (key === followed) return say();
            followed = key;
            asked++;
            clearTimeout(timer);
            timer = setTimeout(() => ask(now), PAUSE);
            take(now, notesOn(now.source, now.target, now.kind, now.listed));
        },
        dispose() {
            clearTimeout(timer);
            strip.show([]);
        },
    };
}
