// What an editing node in a subgraph found, said on the nodes of the subgraphs around it, of each by its own runs.
import { app } from "../../../scripts/app.js";
import { askedNow, changedInputs, isAwaited, noteQueued as noteAwaited } from "./asked.mjs";
import { entriesOf, fieldsOf, line } from "./data.mjs";
import { farType } from "./dom.mjs";
import { TONES, changed } from "./edit_report.mjs";
import { NoteStrip } from "./note_strip.mjs";
import { keep, madeBefore } from "./node.mjs";
import { nodeAt } from "./refusals.mjs";
import { named, parse } from "./report_model.mjs";
import { isBehind, placesOf } from "./wires.mjs";

/** @typedef {import("./note_strip.mjs").Said} Said */
/** @typedef {import("./wires.mjs").Place} Place */

const EDITORS = new Set(["DiffQuickFix_Edit", "DiffQuickFix_RemoveConcept", "DiffQuickFix_EditImageModel"]);
const KEPT = "diff_quickfix_inside";
const LONGEST = 2000;
const FONT = "12px/17px system-ui, sans-serif";

/** Whether the page draws its nodes with Vue: such a subgraph's node shows no widget of an extension. */
const drawnByVue = () => Boolean(/** @type {{LiteGraph?: {vueNodesMode?: boolean}}} */ (/** @type {unknown} */ (globalThis)).LiteGraph?.vueNodesMode);

/** Words at the end of a subgraph's node. */
class OuterStrip extends NoteStrip {
    /** @param {ComfyNode} node */
    constructor(node) {
        super(node, "diff_quickfix_inside");
        /** @type {ComfyWidget[]} */
        this.own = [];
        this.open = false;
    }

    /** @override */
    mount() {
        if (drawnByVue()) {
            if (this.widget) super.unmount();
            if (app.canvas?.graph !== this.node.graph) return;
            const body = document.querySelector(`[data-testid="node-body-${this.node.id}"]`);
            if (body && this.root.parentElement !== body) body.append(this.root);
            Object.assign(this.root.style, { height: "auto", padding: "4px 12px 0" });
            return;
        }
        if (this.widget) return;
        Object.assign(this.root.style, { height: "100%", padding: "0" });
        this.makeRoom();
        super.mount();
        if (this.widget) this.own.push(this.widget);
    }

    /** The widgets of a subgraph's node are those that stand for its inputs; have one more among them. */
    makeRoom() {
        if (this.open) return;
        this.open = true;
        const { node, own } = this;
        const before = Object.getOwnPropertyDescriptor(node, "widgets");
        if (!before?.get) return;
        Object.defineProperty(node, "widgets", {
            ...before,
            get() {
                const found = before.get?.call(node) ?? [];
                return own.length ? [...found, ...own] : found;
            },
        });
    }

    /** @override */
    unmount() {
        this.root.remove();
        super.unmount();
        this.own.length = 0;
    }
}

/** @type {Map<ComfyNode, OuterStrip>} */
const strips = new Map();
/** What each place was last asked for, by its workflow and the server's name for it. @type {Map<string, ReturnType<typeof askedNow>>} */
const asked = new Map();

/** @type {(node: ComfyNode) => Place[]} */
const nested = (node) => (EDITORS.has(node.comfyClass ?? "") ? placesOf(node).filter(({ path }) => path.length) : []);
/** @type {(place: Place) => string} */
const nameOf = ({ node, path }) => [...path, node].map(({ id }) => id).join(":");
/** @type {(place: Place) => string} */
const keyOf = (place) => `${(place.path[0]?.graph?.rootGraph ?? place.path[0]?.graph)?.id}/${nameOf(place)}`;
/** The name of a place as a node around it has it. @type {(place: Place, outer: ComfyNode) => string} */
const below = ({ node, path }, outer) => nameOf({ node, path: path.slice(path.indexOf(outer) + 1) });

/**
 * Note what a node in a subgraph is asked for, in each place, when the page queues.
 * @param {ComfyNode} node
 */
export function noteQueued(node) {
    const places = nested(node);
    for (const place of places) asked.set(keyOf(place), askedNow(node, [place]));
    // Its own view does so too, where it was loaded by then.
    if (places.length) noteAwaited(node);
}

/**
 * What a node of a subgraph keeps of the nodes in it, by their names below it; nothing where it is a copy of another.
 * @param {ComfyNode} outer
 */
function keptOn(outer) {
    const kept = fieldsOf(outer.properties[KEPT]);
    if (kept && kept.node === String(outer.id)) return fieldsOf(kept.inside) ?? {};
    delete outer.properties[KEPT];
    return {};
}

/** @type {(place: Place, found: unknown) => void} */
function keepAround(place, found) {
    for (const outer of place.path) {
        const inside = { ...keptOn(outer), [below(place, outer)]: found };
        keep(outer, KEPT, { node: String(outer.id), inside });
    }
}

/**
 * Keep what a run found, where it ran in a subgraph.
 * @param {unknown} detail of the server's message
 */
export function executed(detail) {
    const { node: name, output } = fieldsOf(detail) ?? {};
    const node = nodeAt(name);
    const place = node && nested(node).find((one) => nameOf(one) === String(name));
    const [text, measures] = entriesOf(fieldsOf(output)?.diff_quickfix_report);
    if (!place || typeof text !== "string" || !isAwaited(place.node)) return;
    const [settings] = entriesOf(fieldsOf(output)?.diff_quickfix_settings);
    const { fed, inputs } = asked.get(keyOf(place)) ?? askedNow(place.node, [place]);
    keepAround(place, { measures, settings, fed, inputs });
}

/**
 * Say around a node why its run ended, in place of what an earlier one found.
 * @param {ComfyNode} node
 * @param {string} sentence
 * @param {unknown} error which was refused, by the server's name: the node itself, or one that feeds it
 */
export function refused(node, sentence, error) {
    const { node_id: name } = fieldsOf(error) ?? {};
    const first = nodeAt(name);
    if (!first || !isAwaited(node)) return;
    const hit = nested(node).filter((place) => (node === first ? nameOf(place) === String(name) : isBehind(place, first)));
    for (const place of hit) keepAround(place, { refused: sentence.slice(0, LONGEST) });
}

/** @type {(place: Place, kept: Record<string, unknown>, far: boolean) => Said[]} */
function told(place, kept, far) {
    if (typeof kept.refused === "string") return [{ text: line(kept.refused, far ? 60 : LONGEST), alert: true, tone: TONES.harmful }];
    const model = parse(kept.measures);
    if (!model) return [];
    const names = [...changed(place.node, fieldsOf(kept.settings) ?? {}), ...changedInputs(kept, askedNow(place.node, [place])) ?? []];
    const measures = model.measures.map(({ name, value, good }) => (
        `${name} ${good ? "\u2191" : "\u2193"} ${(100 * value).toFixed(good ? 1 : 2)} %`.replaceAll(" ", "\u00a0")));
    const stale = names.length ? [`\u21bb ${far ? "" : madeBefore(place.node, names)}`] : [];
    const lines = far ? [`${named(model.tone)} \u00b7 ${measures[0]}`, ...stale] : [model.verdict, measures.join(" \u00b7 "), ...stale];
    return lines.map((text, place) => ({ text, bold: place === 0, tone: TONES[model.tone] ?? "var(--border-color)" }));
}

/**
 * Say what was found in some nodes around them, as it is now.
 * @param {ComfyNode[]} nodes
 */
export function look(nodes) {
    const far = farType(app.canvas?.ds?.scale ?? 1);
    /** @type {Map<ComfyNode, Said[]>} */
    const all = new Map();
    for (const place of nodes.flatMap(nested)) {
        for (const outer of place.path) {
            const kept = fieldsOf(keptOn(outer)[below(place, outer)]);
            all.set(outer, [...all.get(outer) ?? [], ...kept ? told(place, kept, far !== null) : []]);
        }
    }
    for (const [outer, said] of all) {
        const strip = strips.get(outer) ?? new OuterStrip(outer);
        strips.set(outer, strip);
        strip.root.style.font = far ? `bold ${far}px/1.15 system-ui, sans-serif` : FONT;
        strip.show(said);
    }
    for (const [outer, strip] of strips) {
        if (all.has(outer)) continue;
        strips.delete(outer);
        if (outer.graph) strip.show([]);
        else strip.root.remove();
    }
}
