// Words among a node's widgets: beside fields for names, and at the end what became of a run, where no view says it.
import { app } from "../../../scripts/app.js";
import { isAwaited, isStrange, noteQueued } from "./asked.mjs";
import { entriesOf, fieldsOf, line, number } from "./data.mjs";
import { attach } from "./name_notes.mjs";
import { NoteStrip } from "./note_strip.mjs";
import { widgetOf } from "./node.mjs";
import { t } from "./texts.mjs";
import { NAME_FIELDS } from "./typed_names.mjs";
import { isFed } from "./wires.mjs";

export { closeGaps } from "./note_strip.mjs";

const LONGEST = 2000;

/** @param {number} bytes */
function sizeOf(bytes) {
    const kilo = bytes / 1024;
    return kilo < 1024 ? `${Math.max(1, Math.round(kilo))} KiB` : `${(kilo / 1024).toFixed(1)} MiB`;
}

/** Several files of one run are one reason to ask. @type {ReturnType<typeof setTimeout> | undefined} */
let refreshing;

/** Ask the server again what the lists of files hold, as the page's own key R does. */
function refreshLists() {
    clearTimeout(refreshing);
    refreshing = setTimeout(() => (app.reloadNodeDefs?.() ?? app.refreshComboInNodes?.())?.catch(() => {}), 300);
}

/** The words of one node. */
export class NodeNotes {
    /**
     * @param {ComfyNode} node
     * @param {boolean} viewed whether the node has a view of its own, which says what became of a run
     */
    constructor(node, viewed) {
        this.node = node;
        const fields = NAME_FIELDS[node.comfyClass ?? ""];
        this.names = fields ? attach(node, fields) : null;
        this.end = new NoteStrip(node, "diff_quickfix_run");
        const [first] = node.widgets ?? [];
        if (viewed || !first) return;
        const before = first.beforeQueued;
        first.beforeQueued = () => {
            before?.call(first);
            this.end.show([]);
            noteQueued(node);
        };
    }

    look() {
        this.names?.look();
        this.end.refit();
    }

    /**
     * Show why a run of the node ended.
     * @param {string} sentence
     */
    refuse(sentence) {
        if (isAwaited(this.node)) this.end.show([{ text: sentence.slice(0, LONGEST), alert: true }]);
    }

    /**
     * Say where a file was saved, and let every list of files know it.
     * @param {RunOutputs} outputs
     * @param {boolean} live whether it has just run
     */
    saved(outputs, live) {
        const [first] = entriesOf(outputs?.diff_quickfix_saved);
        const { file, bytes } = fieldsOf(first) ?? {};
        if (typeof file !== "string" || !outputs || isStrange(this.node, outputs, live)) return;
        this.end.show([{ text: t("Saved {file}, {size}.", { file: line(file, 300), size: sizeOf(number(bytes)) }), tone: "#2f9e58" }]);
        if (live) refreshLists();
    }

    /** Say how a trace that was cancelled goes on. */
    cancelled() {
        const { node } = this;
        const checkpoint = widgetOf(node, "checkpoint");
        if (!checkpoint || !isAwaited(node)) return;
        const name = String(checkpoint.value ?? "").trim();
        const kept = name || isFed(node, "checkpoint");
        this.end.show([{ text: kept ? t("Cancelled. What was measured is kept in {name}: run again to go on.", { name: name || "checkpoint" })
            : t("Cancelled. Run again to go on; give checkpoint a name to go on after a restart of ComfyUI too.") }]);
    }

    dispose() {
        this.names?.dispose();
        this.end.show([]);
    }
}
