// What the pack's nodes show of themselves. A page starts with this file alone: what draws a view, and the words of the
// page's language, come with the first node that needs them.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

/**
 * What draws a kind of view on a node. `look` is called again and again, with the canvas' zoom.
 * @typedef {object} View
 * @property {HTMLElement} root
 * @property {(outputs: NonNullable<RunOutputs>, live: boolean) => void} [show] shows what a run returned, at once or later
 * @property {(sentence: string) => void} [refuse] shows why a run of the node ended, in place of what it showed
 * @property {(payload: unknown) => void} [traced] shows a trace that is still running; null: it was cancelled
 * @property {(id: string) => void} [restore] shows what the node keeps, which was saved under an id
 * @property {(scale: number) => void} [look]
 * @property {() => void} [queued]
 * @property {() => void} [dispose]
 */
/** @typedef {(node: ComfyNode) => View} Make */
/**
 * A kind of view. `output`: the key, in what a run returns, of the list that is shown. `height`: the least, in pixels.
 * @typedef {object} Kind
 * @property {string} output
 * @property {number} height
 * @property {() => Promise<{make: Make}>} load
 * @property {Make} [make]
 * @property {Promise<void> | null} [coming]
 */

/** @type {Kind} */
const REPORT = { output: "diff_quickfix_report", height: 190, load: () => import("./lib/edit_report.mjs") };
/** @type {Kind} */
const HEATMAP = { output: "diff_quickfix_heatmap", height: 330, load: () => import("./lib/causal_heatmap.mjs") };
/** @type {Kind} */
const PICKER = { output: "diff_quickfix_tokens", height: 90, load: () => import("./lib/subject_picker.mjs") };
/** @type {Record<string, Kind>} */
const KINDS = {
    DiffQuickFix_CausalHeatmap: HEATMAP,
    DiffQuickFix_CorruptPrompt: PICKER,
    DiffQuickFix_RemoveConcept: REPORT,
    DiffQuickFix_EditImageModel: REPORT,
    DiffQuickFix_Edit: REPORT,
    DiffQuickFix_LoadEdit: REPORT,
    DiffQuickFix_EditReport: REPORT,
    DiffQuickFix_CollateralRadar: REPORT,
    DiffQuickFix_FindLambda: REPORT,
    DiffQuickFix_FindTarget: REPORT,
    DiffQuickFix_ChangeEdit: REPORT,
    DiffQuickFix_BeforeAfterSheet: REPORT,
};
const LOOK_AGAIN = 200;

/** @type {WeakMap<object, Mounted>} */
const views = new WeakMap();
/** @type {Set<Mounted>} */
const live = new Set();
let looking = 0;
/** @type {Promise<typeof import("./lib/texts.mjs")> | null} */
let texts = null;

/** @type {typeof import("./lib/refusals.mjs") | null} */
let refusals = null;
/** @type {typeof import("./lib/node_notes.mjs") | null} */
let notes = null;
/** Says around subgraphs what was found in them. @type {typeof import("./lib/outer_verdict.mjs") | null} */
let outer = null;
let coming = false;
/** The words among the widgets of nodes; null until they are there. @type {Map<ComfyNode, InstanceType<typeof import("./lib/node_notes.mjs").NodeNotes> | null>} */
const noted = new Map();

/** The texts' module, once it has the words of the page's language. */
function spoken() {
    texts ??= import("./lib/texts.mjs").then(async (found) => {
        await found.useLocale(app.extensionManager?.setting?.get?.("Comfy.Locale"));
        return found;
    });
    return texts;
}

/**
 * Say everything again when the user chooses another language.
 * @param {unknown} locale
 */
async function speak(locale) {
    const { useLocale } = await spoken();
    if (await useLocale(locale)) live.forEach((one) => one.view && one.fill());
}

/**
 * Bring what draws a kind of view, and fill the places that wait for it.
 * @param {Kind} kind
 */
function bring(kind) {
    const waiting = () => [...live].filter((one) => one.kind === kind);
    kind.coming ??= Promise.all([kind.load(), spoken()]).then(([{ make }]) => {
        kind.make = make;
        waiting().forEach((one) => one.fill());
    }, (error) => {
        // The server may be back when the next node asks.
        kind.coming = texts = null;
        waiting().forEach((one) => { one.place.textContent = String(error); });
    });
}

/** A view in its place on a node. The place is there with the node; so is the view, once what draws it was loaded. */
class Mounted {
    /**
     * @param {ComfyNode} node
     * @param {Kind} kind
     */
    constructor(node, kind) {
        this.node = node;
        this.kind = kind;
        this.place = document.createElement("div");
        /** @type {View | null} */
        this.view = null;
        /** What came before the view. @type {{id: number | string} | null} */
        this.saved = null;
        /** @type {NonNullable<RunOutputs> | null} */
        this.outputs = null;
        Object.assign(this.place.style, { width: "100%", height: "100%" });
        live.add(this);
        if (kind.make) this.fill();
        else bring(kind);
    }

    fill() {
        if (!this.kind.make) return;
        this.view?.dispose?.();
        this.view = this.kind.make(this.node);
        this.place.replaceChildren(this.view.root);
        this.look();
        this.restore(this.saved ?? this.node);
        if (this.outputs) this.view.show?.(this.outputs, false);
    }

    /**
     * Show what a run returned.
     * @param {RunOutputs} outputs
     * @param {boolean} live whether it has just run
     */
    show(outputs, live) {
        const list = outputs?.[this.kind.output];
        if (!outputs || !Array.isArray(list) || !list.length) return;
        this.outputs = outputs;
        this.view?.show?.(outputs, live);
    }

    /**
     * Show why a run of the node ended.
     * @param {string} sentence
     */
    refuse(sentence) {
        this.outputs = null;
        this.view?.refuse?.(sentence);
    }

    /**
     * Show what the node keeps, which was saved.
     * @param {{id: number | string}} saved
     */
    restore(saved) {
        this.saved = this.view ? null : { id: saved.id };
        this.view?.restore?.(String(saved.id));
    }

    look() {
        this.view?.look?.(app.canvas?.ds?.scale ?? 1);
    }

    end() {
        live.delete(this);
        this.view?.dispose?.();
    }
}

/**
 * Say around subgraphs what was found in them, once what says it was loaded; nothing is where no node is in one.
 * @param {ComfyNode[]} nodes
 */
function around(nodes) {
    if (outer) return outer.look(nodes);
    if (coming || nodes.every(({ graph }) => !graph || graph === (graph.rootGraph ?? graph))) return;
    coming = true;
    Promise.all([import("./lib/outer_verdict.mjs"), spoken()]).then(([found]) => { outer = found; }).catch(() => {}).finally(() => { coming = false; });
}

/** Neither a zoomed canvas nor a widget nor a link tells everybody: look at them while there is a view that shows them. */
function watch() {
    looking ||= setInterval(() => {
        live.forEach((one) => one.look());
        noted.forEach((one) => one?.look());
        around([...live].map((one) => one.node));
        if (live.size || noted.size) return;
        clearInterval(looking);
        looking = 0;
    }, LOOK_AGAIN);
}

/**
 * @param {ComfyNode} node
 * @param {Kind} kind
 */
function mount(node, kind) {
    const mounted = new Mounted(node, kind);
    const widget = node.addDOMWidget(kind.output, kind.output.toUpperCase(), mounted.place, {
        serialize: false, hideOnZoom: false, hideInPanel: true, getMinHeight: () => kind.height,
    });
    widget.serialize = false;
    widget.beforeQueued = () => {
        mounted.view?.queued?.();
        outer?.noteQueued(node);
    };
    views.set(node, mounted);
    watch();
}

/**
 * Have words among a node's widgets, once what says them was loaded.
 * @param {ComfyNode} node
 */
async function note(node) {
    noted.set(node, null);
    try {
        [notes, refusals] = await Promise.all([import("./lib/node_notes.mjs"), import("./lib/refusals.mjs"), spoken()]);
        if (noted.has(node)) noted.set(node, new notes.NodeNotes(node, views.has(node)));
        watch();
    } catch { /* Asked for again by the next node. */ }
}

/**
 * The node that a key of `onNodeOutputsUpdated` means: "id", or "subgraph:id".
 * @param {string} key
 */
function nodeOf(key) {
    const [id = "", subgraph] = key.split(":").reverse();
    const root = app.rootGraph ?? app.graph;
    const graph = subgraph === undefined ? root : root?.subgraphs?.get(subgraph);
    return graph?.getNodeById(id) ?? graph?.getNodeById(Number(id));
}

/**
 * Say on nodes why their run ended, at once: what they were asked for is forgotten when the queue is empty.
 * @param {unknown} error
 */
function refused(error) {
    for (const [node, sentence] of refusals?.refusalsOf(error, noted.keys()) ?? []) {
        (views.get(node) ?? noted.get(node))?.refuse(sentence);
        outer?.refused(node, sentence, error);
    }
}

/**
 * Show what is traced so far on the heat maps that a running node feeds.
 * @param {unknown} detail
 */
function traced(detail) {
    for (const [node, payload] of refusals?.heatMapsOf(detail, [...live].map((one) => one.node)) ?? []) views.get(node)?.view?.traced?.(payload);
}

/**
 * Do something after a method of a node's kind.
 * @template {unknown[]} Given
 * @param {object} prototype
 * @param {string} name
 * @param {(node: ComfyNode, ...given: Given) => void} after
 */
function chain(prototype, name, after) {
    const methods = /** @type {Record<string, ((...given: Given) => unknown) | undefined>} */ (prototype);
    const before = methods[name];
    methods[name] = /** @this {ComfyNode} */ function (...given) {
        const result = before?.apply(this, given);
        after(this, ...given);
        return result;
    };
}

app.registerExtension({
    name: "diffquickfix.NodeViews",
    init() {
        api.addEventListener("executed", ({ detail }) => outer?.executed(detail));
        api.addEventListener("execution_error", ({ detail }) => refused(detail));
        api.addEventListener("diff_quickfix_trace", ({ detail }) => traced(detail));
        api.addEventListener("execution_interrupted", ({ detail }) => {
            const node = refusals?.nodeAt(/** @type {{node_id?: unknown}} */ (detail ?? {}).node_id);
            if (node) noted.get(node)?.cancelled();
            traced({ .../** @type {object} */ (detail), payload: null });
        });
        // Before there is a view nothing has been said.
        app.ui?.settings?.addEventListener?.("Comfy.Locale.change", ({ detail }) => texts && speak(detail?.value));
    },
    beforeRegisterNodeDef({ prototype }, { name }) {
        if (!name.startsWith("DiffQuickFix_")) return;
        chain(prototype, "onNodeCreated", note);
        chain(prototype, "onSerialize", (node, /** @type {object} */ saved) => notes?.closeGaps(node, saved));
        chain(prototype, "onRemoved", (node) => {
            noted.get(node)?.dispose();
            noted.delete(node);
        });
        chain(prototype, "onExecuted", (node, /** @type {RunOutputs} */ outputs) => noted.get(node)?.saved(outputs, true));
        const kind = Object.hasOwn(KINDS, name) && KINDS[name];
        if (!kind) return;
        chain(prototype, "onNodeCreated", (node) => mount(node, kind));
        chain(prototype, "onConfigure", (node, /** @type {{id: number | string}} */ saved) => views.get(node)?.restore(saved));
        chain(prototype, "onExecuted", (node, /** @type {RunOutputs} */ outputs) => views.get(node)?.show(outputs, true));
        chain(prototype, "onRemoved", (node) => views.get(node)?.end());
    },
    onNodeOutputsUpdated(outputs) {
        for (const [key, found] of Object.entries(outputs ?? {})) {
            const node = nodeOf(key);
            if (node) views.get(node)?.show(found, false);
        }
    },
});
