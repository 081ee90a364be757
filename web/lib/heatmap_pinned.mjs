// What is known of the pinned cell: its numbers, and the pictures that were painted for it.
import { element } from "./dom.mjs";
import { facts, picturesFor } from "./heatmap_model.mjs";
import { t, term } from "./texts.mjs";

/** @typedef {import("./heatmap_payload.mjs").Cell} Cell */
/** @typedef {import("./heatmap_payload.mjs").Model} Model */
/** @typedef {import("./heatmap_payload.mjs").PictureFile} PictureFile */
/** @typedef {import("./heatmap_payload.mjs").Pictures} Pictures */

const PICTURES = [term("clean"), term("corrupted"), term("restored")];
const SMALL = "12px/1.4 system-ui, sans-serif";

/** The panel under one heat map. */
export class PinnedPanel {
    /** @param {(file: PictureFile) => string} pictureUrl */
    constructor(pictureUrl) {
        this.pictureUrl = pictureUrl;
        this.root = element("div", { style: { display: "none", gap: "8px", flex: "0 0 auto", overflow: "auto", maxHeight: "45%" } });
        this.shown = "";
        /** @type {Model | null} */
        this.model = null;
    }

    /**
     * Show a cell; none where the canvas is far away.
     * @param {Model} model
     * @param {Cell | null} cell
     * @param {boolean} far
     */
    show(model, cell, far) {
        const key = cell ? `${cell.row},${cell.column}` : "";
        this.root.style.display = cell && !far ? "flex" : "none";
        if (this.shown === key && this.model === model) return;
        Object.assign(this, { shown: key, model });
        this.root.replaceChildren();
        if (!cell) return;
        const list = element("dl", { style: { margin: "0", font: SMALL, flex: "1 1 200px" } });
        for (const [name, text] of facts(model, cell)) {
            list.append(element("div", {}, element("dt", { style: { display: "inline" } }, `${name}: `),
                element("dd", { style: { display: "inline", margin: "0", fontWeight: "bold", overflowWrap: "anywhere" } }, text)));
        }
        this.root.append(list, ...this.pictures(model, cell));
    }

    /**
     * A cell's pictures; where one is missing, how to get it.
     * @param {Model} model
     * @param {Cell} cell
     */
    pictures(model, cell) {
        const kept = model.pictures;
        const files = [kept?.clean, kept?.corrupted, kept?.restored.get(`${cell.row},${cell.column}`)];
        const shown = files.flatMap((file, i) => (file ? [this.figure(t(PICTURES[i] ?? ""), file)] : []));
        const note = files[2] ? "" : missing(model, cell);
        return note ? [...shown, element("p", { style: { font: SMALL, flex: "0 1 150px", margin: "0" } }, note)] : shown;
    }

    /**
     * @param {string} name
     * @param {PictureFile} file
     */
    figure(name, file) {
        const caption = element("figcaption", { style: { font: SMALL } }, name);
        const image = element("img", {
            alt: name, src: this.pictureUrl(file), style: { maxHeight: "110px", maxWidth: "110px", display: "block" },
            on: { error: () => { caption.textContent = t("{name}: gone; run again", { name }); image.remove(); } },
        });
        return element("figure", { style: { margin: "0", flex: "0 0 auto" } }, image, caption);
    }
}

/** @type {(model: Model, cell: Cell) => string} */
function missing(model, cell) {
    const kept = model.pictures;
    if (!kept) return t("To see pictures here, connect the examples of Causal Trace to pictures.");
    if (!kept.clean && !kept.corrupted && !kept.restored.size) {
        return t("The connected pictures are not of this trace; connect the examples of the Causal Trace that made it.");
    }
    const count = picturesFor(model, cell);
    if (count === null) return t("No restored picture of this cell: only the strongest cells can have one.");
    return t("No restored picture of this cell yet: set pictures on Causal Trace to {count} or more and run again.", { count });
}
