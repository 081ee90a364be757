// A node's own view of what it returned: made with the node, filled after a run, a reload or a change of workflow.

import { element } from "./dom.mjs";
import { useLocale } from "./texts.mjs";

// Larger values are not kept in the workflow; they come back when the node runs again.
const MOST_KEPT = 150_000;
const LOOK_AGAIN = 200;

const views = new WeakMap();
const live = new Set();
let looking = 0;
let ready = null;

/** The node that a key of `onNodeOutputsUpdated` means: "id", or "subgraph:id". */
function nodeOf(app, key) {
    const parts = String(key).split(":");
    const id = parts.pop();
    const root = app.rootGraph ?? app.graph;
    const graph = parts.length ? root?.subgraphs?.get(parts.at(-1)) : root;
    return graph?.getNodeById?.(id) ?? graph?.getNodeById?.(Number(id));
}

/** A view in its place on a node; it is made again when the page's language changes. */
class Mounted {
    constructor(app, node, make) {
        Object.assign(this, { app, node, make, place: element("div", { style: { width: "100%", height: "100%" } }) });
        this.fill();
        live.add(this);
    }

    fill() {
        this.view = this.make(this.node);
        this.place.replaceChildren(this.view.root);
        this.rescale();
    }

    show(list) {
        this.list = list;
        this.view.show?.(...list);
    }

    restore(saved) {
        this.view.restore?.(saved);
    }

    rescale() {
        this.view.scaled?.(this.app.canvas?.ds?.scale ?? 1);
    }

    remake() {
        this.view.dispose?.();
        this.fill();
        this.restore();
        if (this.list) this.show(this.list);
    }

    end() {
        live.delete(this);
        this.view.dispose?.();
    }
}

/** The canvas tells nobody that it was zoomed: look at its scale while there is a view that could read it. */
function watchScale() {
    looking ||= setInterval(() => {
        live.forEach((one) => one.rescale());
        if (!live.size) looking = clearInterval(looking) ?? 0;
    }, LOOK_AGAIN);
}

/** Have the page's words before the first view is made, and again when the user chooses another language. */
function followLocale(app) {
    ready ??= useLocale(app.extensionManager?.setting?.get?.("Comfy.Locale"));
    app.ui?.settings?.addEventListener?.("Comfy.Locale.change", async ({ detail }) => {
        if (await useLocale(detail?.value)) live.forEach((one) => one.remake());
    });
    return ready;
}

function addWidget(node, name, root, height) {
    const widget = node.addDOMWidget(name, name.toUpperCase(), root, {
        serialize: false, hideOnZoom: false, getMinHeight: () => height,
    });
    widget.serialize = false;
}

function chain(prototype, name, after) {
    const before = prototype[name];
    prototype[name] = function (...args) {
        const result = before?.apply(this, args);
        after.call(this, ...args);
        return result;
    };
}

/**
 * Register an extension that gives every node of some kinds a view in a DOM widget.
 *
 * spec: extension (its name), nodeIds (the kinds), output (key of the node's `ui`, a list), height (least, in pixels), make(node), which
 * returns {root, show?(...the list), restore?(the node as it was saved), scaled?(the canvas' zoom), dispose?()}.
 */
export function addNodeView(app, { extension, nodeIds, output, height, make }) {
    const show = (node, outputs) => {
        const payload = outputs?.[output];
        if (Array.isArray(payload) && payload.length) views.get(node)?.show(payload.slice(0, 2));
    };
    app.registerExtension({
        name: extension,
        init: () => followLocale(app),
        beforeRegisterNodeDef(nodeType, nodeData) {
            if (!nodeIds.includes(nodeData.name)) return;
            const { prototype } = nodeType;
            chain(prototype, "onNodeCreated", function () {
                const mounted = new Mounted(app, this, make);
                views.set(this, mounted);
                addWidget(this, output, mounted.place, height);
                watchScale();
            });
            chain(prototype, "onConfigure", function (saved) {
                views.get(this)?.restore(saved);
            });
            chain(prototype, "onExecuted", function (outputs) {
                show(this, outputs);
            });
            chain(prototype, "onRemoved", function () {
                views.get(this)?.end();
            });
        },
        onNodeOutputsUpdated(outputs) {
            for (const [key, found] of Object.entries(outputs ?? {})) {
                if (!found?.[output]) continue;
                const node = nodeOf(app, key);
                if (nodeIds.includes(node?.comfyClass)) show(node, found);
            }
        },
    });
}

/** Keep a value with the workflow, as a property of a node, unless it is too large. */
export function keep(node, property, value) {
    if (JSON.stringify(value).length <= MOST_KEPT) node.properties[property] = value;
    else delete node.properties[property];
}

/** Set a widget's value as if the user had typed it. */
export function setWidget(node, name, value) {
    const widget = node.widgets?.find((one) => one.name === name);
    if (!widget) return false;
    widget.value = value;
    widget.callback?.(value);
    node.graph?.setDirtyCanvas?.(true, true);
    return true;
}

/** Whether an input of a node is fed by a link, so that its widget says nothing. */
export function isLinked(node, name) {
    return (node.inputs ?? []).some((slot) => (slot.widget?.name ?? slot.name) === name && slot.link != null);
}
