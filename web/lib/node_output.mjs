// A node's own view of what it returned: made with the node, filled after a run, a reload or a change of workflow.

const views = new WeakMap();

/** The node that a key of `onNodeOutputsUpdated` means: "id", or "subgraph:id". */
function nodeOf(app, key) {
    const parts = String(key).split(":");
    const id = parts.pop();
    const root = app.rootGraph ?? app.graph;
    const graph = parts.length ? root?.subgraphs?.get(parts.at(-1)) : root;
    return graph?.getNodeById?.(id) ?? graph?.getNodeById?.(Number(id));
}

function addWidget(node, name, view, height) {
    const widget = node.addDOMWidget(name, name.toUpperCase(), view.root, {
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
 * returns {root, show?(...the list), restore?(), dispose?()}.
 */
export function addNodeView(app, { extension, nodeIds, output, height, make }) {
    const show = (node, outputs) => {
        const payload = outputs?.[output];
        if (Array.isArray(payload) && payload.length) views.get(node)?.show?.(...payload.slice(0, 2));
    };
    app.registerExtension({
        name: extension,
        beforeRegisterNodeDef(nodeType, nodeData) {
            if (!nodeIds.includes(nodeData.name)) return;
            const { prototype } = nodeType;
            chain(prototype, "onNodeCreated", function () {
                const view = make(this);
                views.set(this, view);
                addWidget(this, output, view, height);
            });
            chain(prototype, "onConfigure", function () {
                views.get(this)?.restore?.();
            });
            chain(prototype, "onExecuted", function (outputs) {
                show(this, outputs);
            });
            chain(prototype, "onRemoved", function () {
                views.get(this)?.dispose?.();
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
