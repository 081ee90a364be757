// What the pack's nodes show of themselves. A page starts with this file alone: what draws a view, and the words of the
// page's language, come with the first node that needs them.
import { app } from "../../scripts/app.js";

// output: the key, in what a run returns, of the list that is shown. height: the least, in pixels. load: the module
// whose make(node) gives {root, show?(what a run returned), restore?(the id that the node was saved under),
// look?(the canvas' zoom), dispose?()}.
const REPORT = { output: "diff_quickfix_report", height: 190, load: () => import("./lib/edit_report.mjs") };
const HEATMAP = { output: "diff_quickfix_heatmap", height: 330, load: () => import("./lib/causal_heatmap.mjs") };
const PICKER = { output: "diff_quickfix_tokens", height: 90, load: () => import("./lib/subject_picker.mjs") };
const KINDS = {
    DiffQuickFix_CausalHeatmap: HEATMAP,
    DiffQuickFix_CorruptPrompt: PICKER,
    DiffQuickFix_Edit: REPORT,
    DiffQuickFix_LoadEdit: REPORT,
    DiffQuickFix_EditReport: REPORT,
    DiffQuickFix_CollateralRadar: REPORT,
    DiffQuickFix_FindLambda: REPORT,
    DiffQuickFix_FindTarget: REPORT,
    DiffQuickFix_ChangeEdit: REPORT,
};
const LOOK_AGAIN = 200;

const views = new WeakMap();
const live = new Set();
let looking = 0;
let texts = null;

/** The texts' module, once it has the words of the page's language. */
function spoken() {
    texts ??= import("./lib/texts.mjs").then(async (found) => {
        await found.useLocale(app.extensionManager?.setting?.get?.("Comfy.Locale"));
        return found;
    });
    return texts;
}

/** Say everything again when the user chooses another language. */
async function speak(locale) {
    const { useLocale } = await texts;
    if (await useLocale(locale)) live.forEach((one) => one.view && one.fill());
}

/** Bring what draws a kind of view, and fill the places that wait for it. */
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
    constructor(node, kind) {
        Object.assign(this, { node, kind, place: document.createElement("div") });
        Object.assign(this.place.style, { width: "100%", height: "100%" });
        live.add(this);
        if (kind.make) this.fill();
        else bring(kind);
    }

    fill() {
        this.view?.dispose?.();
        this.view = this.kind.make(this.node);
        this.place.replaceChildren(this.view.root);
        this.look();
        this.restore(this.saved ?? this.node);
        if (this.outputs) this.view.show?.(this.outputs);
    }

    /** Show what a run returned. */
    show(outputs) {
        const list = outputs?.[this.kind.output];
        if (!Array.isArray(list) || !list.length) return;
        this.outputs = outputs;
        this.view?.show?.(outputs);
    }

    /** Show what the node keeps, which was saved. */
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

/** Neither a zoomed canvas nor a widget tells everybody: look at them while there is a view that shows them. */
function watch() {
    looking ||= setInterval(() => {
        live.forEach((one) => one.look());
        if (!live.size) looking = clearInterval(looking) ?? 0;
    }, LOOK_AGAIN);
}

function mount(node, kind) {
    const mounted = new Mounted(node, kind);
    const widget = node.addDOMWidget(kind.output, kind.output.toUpperCase(), mounted.place, {
        serialize: false, hideOnZoom: false, getMinHeight: () => kind.height,
    });
    widget.serialize = false;
    views.set(node, mounted);
    watch();
}

/** The node that a key of `onNodeOutputsUpdated` means: "id", or "subgraph:id". */
function nodeOf(key) {
    const parts = String(key).split(":");
    const id = parts.pop();
    const root = app.rootGraph ?? app.graph;
    const graph = parts.length ? root?.subgraphs?.get(parts.at(-1)) : root;
    return graph?.getNodeById?.(id) ?? graph?.getNodeById?.(Number(id));
}

function chain(prototype, name, after) {
    const before = prototype[name];
    prototype[name] = function (...args) {
        const result = before?.apply(this, args);
        after(this, ...args);
        return result;
    };
}

app.registerExtension({
    name: "DiffQuickFix.NodeViews",
    init() {
        // Before there is a view nothing has been said.
        app.ui?.settings?.addEventListener?.("Comfy.Locale.change", ({ detail }) => texts && speak(detail?.value));
    },
    beforeRegisterNodeDef({ prototype }, { name }) {
        const kind = Object.hasOwn(KINDS, name) && KINDS[name];
        if (!kind) return;
        chain(prototype, "onNodeCreated", (node) => mount(node, kind));
        chain(prototype, "onConfigure", (node, saved) => views.get(node)?.restore(saved));
        chain(prototype, "onExecuted", (node, outputs) => views.get(node)?.show(outputs));
        chain(prototype, "onRemoved", (node) => views.get(node)?.end());
    },
    onNodeOutputsUpdated(outputs) {
        for (const [key, found] of Object.entries(outputs ?? {})) views.get(nodeOf(key))?.show(found);
    },
});
