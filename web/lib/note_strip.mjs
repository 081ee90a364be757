// A strip of words among a node's widgets, there as long as there is something to say.
import { element } from "./dom.mjs";

const MARGIN = 4;
const GAP = 2 * MARGIN + 2;
const LINE = 17;

/** @typedef {{text: string, alert?: boolean, bold?: boolean, tone?: string}} Said */

/** One strip of one node. */
export class NoteStrip {
    /**
     * @param {ComfyNode} node
     * @param {string} name of its widget
     * @param {string | null} behind the widget that it stands behind; null: the last
     */
    constructor(node, name, behind = null) {
        this.node = node;
        this.name = name;
        this.behind = behind;
        this.height = 0;
        /** How much the node grew for it. */
        this.grown = 0;
        /** @type {ComfyWidget | null} */
        this.widget = null;
        this.shown = "";
        this.list = element("div", { role: "status", "aria-live": "polite", class: `diff-quickfix-notes ${name}` });
        this.root = element("div", {
            style: {
                width: "100%", height: "100%", overflow: "hidden", boxSizing: "border-box", font: "12px/17px system-ui, sans-serif",
                color: "var(--input-text)", userSelect: "text", overflowWrap: "anywhere",
            },
        }, this.list);
    }

    /**
     * Say some lines; none takes the strip away.
     * @param {Said[]} lines
     */
    show(lines) {
        const key = JSON.stringify(lines);
        if (key !== this.shown) {
            this.shown = key;
            this.list.replaceChildren(...lines.map(({ text, alert, bold, tone }) => element("div", {
                role: alert ? "alert" : undefined,
                style: { borderLeft: `4px solid ${tone ?? "#c98a00"}`, paddingLeft: "6px", margin: "1px 0", fontWeight: alert || bold ? "bold" : "normal" },
            }, text)));
        }
        if (!lines.length) return this.unmount();
        this.mount();
        this.fit();
    }

    /** Follow the node's width. */
    refit() {
        if (this.widget) this.fit();
    }

    mount() {
        if (this.widget) return;
        const { node } = this;
        this.height = LINE + GAP;
        const height = () => this.height;
        const widget = node.addDOMWidget(this.name, this.name.toUpperCase(), this.root, {
            serialize: false, hideOnZoom: false, hideInPanel: true, margin: MARGIN, getMinHeight: height, getMaxHeight: height,
        });
        widget.serialize = false;
        this.widget = widget;
        const widgets = node.widgets ?? [];
        const place = widgets.findIndex((one) => one.name === this.behind);
        if (place >= 0) {
            widgets.splice(widgets.indexOf(widget), 1);
            widgets.splice(place + 1, 0, widget);
        }
    }

    unmount() {
        const { node, widget, grown } = this;
        if (!widget) return;
        this.widget = null;
        node.removeWidget(widget);
        if (grown) node.setSize([node.size[0], node.size[1] - grown]);
        this.grown = 0;
        node.setDirtyCanvas?.(true, true);
    }

    /** Be as high as the words are, and the node as high as its widgets. */
    fit() {
        const { node } = this;
        const wanted = this.list.offsetHeight ? this.list.offsetHeight + GAP : this.height;
        const other = wanted !== this.height;
        this.height = wanted;
        const least = node.computeSize()[1];
        if (least > node.size[1]) {
            this.grown += least - node.size[1];
            node.setSize([node.size[0], least]);
        } else if (!other) {
            return;
        }
        node.setDirtyCanvas?.(true, true);
    }
}

/**
 * What a node saves of its widgets, without the places of those that are not saved: ComfyUI's page leaves such a place empty,
 * and counts it when it reads the values again.
 * @param {ComfyNode} node
 * @param {{widgets_values?: unknown}} saved
 */
export function closeGaps(node, saved) {
    const values = saved.widgets_values;
    if (!Array.isArray(values)) return;
    const widgets = node.widgets ?? [];
    saved.widgets_values = values.filter((_, place) => widgets[place]?.serialize !== false);
}
