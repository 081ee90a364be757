// What a run was asked for: everything that feeds a node, noted when the page queues, so that a result can be told from
// what the node would show now.
import { api } from "../../../scripts/api.js";
import { fieldsOf } from "./data.mjs";
import { modelOf, placesOf, sourceOf, sourcesOf } from "./wires.mjs";

/** @typedef {import("./wires.mjs").Place} Place */
/** @typedef {import("./wires.mjs").Source} Source */
/**
 * `fed` tells one content of all that feeds a node from another, `inputs` that of each input, `model` one model; null where it
 * is not known.
 * @typedef {{fed: string, inputs: Record<string, string>, model: string | null}} Asked
 */

/** @param {unknown} value */
function written(value) {
    try {
        return JSON.stringify(value) ?? "";
    } catch {
        return ""; // A circle, in another pack's widget.
    }
}

/**
 * A short text that tells one value from another.
 * @param {unknown} value
 */
function digest(value) {
    let [high, low] = [0xdeadbeef, 0x41c6ce57];
    for (const letter of written(value)) {
        const code = letter.codePointAt(0) ?? 0;
        [high, low] = [Math.imul(high ^ code, 2654435761), Math.imul(low ^ code, 1597334677)];
    }
    return [high ^ (low >>> 16), low ^ (high >>> 13)].map((half) => (half >>> 0).toString(36)).join("-");
}

/**
 * Whether a widget's value is asked for: no note of the page, no value that the page itself changes with every run, and none
 * that a link takes the place of.
 * @type {(node: ComfyNode, widget: ComfyWidget, fed: Set<string>) => boolean}
 */
function counts(node, widget, fed) {
    if (widget.serialize === false || widget.options?.serialize === false || fed.has(widget.name)) return false;
    const drawn = widget.linkedWidgets?.some(({ name, value }) => name === "control_after_generate" && value !== "fixed");
    return !drawn && (node.isVirtualNode || Boolean(node.inputs?.some((slot) => slot.widget?.name === widget.name)));
}

// Texts that are too long to be read again at every look.
const LONG = 1000;
/** @type {WeakMap<ComfyWidget, {text: string, told: string}>} */
const read = new WeakMap();

/**
 * A widget's value, or what tells it from others.
 * @param {ComfyWidget} widget
 */
function settingOf(widget) {
    const { value } = widget;
    if (typeof value !== "string" || value.length < LONG) return value;
    const known = read.get(widget);
    if (known?.text === value) return known.told;
    const told = digest(value);
    read.set(widget, { text: value, told });
    return told;
}

/**
 * The content of an output: its node's kind and settings, and the content of all that feeds it. ComfyUI's cache takes equal
 * ones for the same too.
 * @type {(source: Source, known: Map<ComfyNode, Map<string, string>>) => string}
 */
function content({ node, path, slot, name }, known) {
    if (slot < 0) return digest(node.widgets?.find((one) => one.name === name)?.value ?? null);
    const around = path.map(({ id }) => id).join(":");
    const places = known.get(node) ?? new Map();
    known.set(node, places);
    if (!places.has(around)) {
        places.set(around, ""); // ends a circle
        const sources = sourcesOf({ node, path });
        const fed = new Set(sources.map(([input]) => input));
        const settings = (node.widgets ?? []).filter((one) => counts(node, one, fed)).map((one) => [one.name, settingOf(one)]);
        places.set(around, digest([node.comfyClass ?? node.title, settings, sources.map(([input, from]) => [input, content(from, known)])]));
    }
    return `${places.get(around)}/${slot}`;
}

/**
 * The content of the model that a CLIP comes from.
 * @param {Place} place
 */
export function modelContent(place) {
    const model = modelOf(place);
    return model && content(model, new Map());
}

/**
 * What a node is asked for now, in all its places or in some.
 * @param {ComfyNode} node
 * @param {Place[]} places
 * @returns {Asked}
 */
export function askedNow(node, places = placesOf(node)) {
    const known = new Map();
    const each = places.map((place) => sourcesOf(place).map(([name, from]) => /** @type {[string, string]} */ ([name, content(from, known)])));
    /** @type {Record<string, string>} */
    const inputs = {};
    for (const [name, told] of each.flat()) inputs[name] = `${inputs[name] ?? ""}${told} `;
    const fed = digest(each);
    // The model of a trace is that of the node that made it.
    const models = new Set(places.map((place) => {
        const made = place.node.inputs?.some((slot) => slot.name === "trace") ? sourceOf(place, "trace") : place;
        return made && modelContent(made);
    }));
    return { fed, inputs, model: models.size === 1 ? [...models][0] ?? null : null };
}

/**
 * The inputs that are fed with something else than when a node was asked; null where they are fed with the same.
 * @param {unknown} asked as a workflow keeps it: one of an earlier version has no inputs, and gives no names
 * @param {Asked} now
 */
export function changedInputs(asked, now) {
    const { fed, inputs } = fieldsOf(asked) ?? {};
    if (typeof fed !== "string" || fed === now.fed) return null;
    const before = fieldsOf(inputs);
    return before ? [...new Set([...Object.keys(before), ...Object.keys(now.inputs)])].filter((name) => before[name] !== now.inputs[name]) : [];
}

/** @type {(node: ComfyNode) => string} */
const workflowOf = (node) => String((node.graph?.rootGraph ?? node.graph)?.id);
/** @type {(node: ComfyNode) => string} */
const keyOf = (node) => `${workflowOf(node)}/${node.graph?.id}/${node.id}`;

/** What each node was last asked for. @type {Map<string, Asked>} */
const notes = new Map();
/** The nodes whose results are on their way. @type {Map<string, {id: string, workflow: string}>} */
const awaited = new Map();
/** Results that were another workflow's. @type {Set<string>} */
const strange = new Set();

api.addEventListener("status", ({ detail }) => {
    if (detail?.exec_info?.queue_remaining === 0) awaited.clear();
});

/**
 * Note what a node is asked for, when the page queues.
 * @param {ComfyNode} node
 */
export function noteQueued(node) {
    notes.set(keyOf(node), askedNow(node));
    awaited.set(keyOf(node), { id: String(node.id), workflow: workflowOf(node) });
}

/**
 * What the last run was asked for; what a node is asked for now where another page queued it.
 * @param {ComfyNode} node
 */
export function askedFor(node) {
    return notes.get(keyOf(node)) ?? askedNow(node);
}

/**
 * Whether a result is that of a node with the same number in another tab's workflow: ComfyUI's page gives it to the workflow in
 * view, at once (`live`) and whenever that comes into view again.
 * @param {ComfyNode} node
 * @param {RunOutputs} outputs
 * @param {boolean} live
 */
export function isStrange(node, outputs, live) {
    const key = keyOf(node);
    const result = `${key} ${digest(outputs)}`;
    const workflow = workflowOf(node);
    const others = [...awaited.values()].some((one) => one.id === String(node.id) && one.workflow !== workflow);
    if (live && others && !awaited.has(key)) strange.add(result);
    return strange.has(result);
}

/**
 * Whether a result of the node is on its way to this workflow, and not to another tab's node with the same number.
 * @param {ComfyNode} node
 */
export const isAwaited = (node) => awaited.has(keyOf(node));
