// The heat map on a node: canvas, tools, what is under the pointer, and the pinned cell.

import { button, choice, copy, download, element, line } from "./dom.mjs";
import { canvasPen, draw, hit, layout, svgPen } from "./heatmap_draw.mjs";
import { ORDERS, VALUES, bestCell, facts, format, toCsv, valueOf } from "./heatmap_model.mjs";

const HELP =
    "Heat map of a causal trace. Arrow keys move, Home and End go to the ends of a row, Enter pins a cell, c copies its " +
    "site, f folds its kind, plus and minus zoom, Escape unpins.";
const PICTURES = ["clean", "corrupted", "restored"];

function themeOf(node) {
    const css = getComputedStyle(node);
    const color = (name, otherwise) => css.getPropertyValue(name).trim() || otherwise;
    return {
        paper: color("--comfy-input-bg", "#222"), ink: color("--input-text", "#ddd"),
        faint: color("--descrip-text", "#999"), veil: "rgba(128,128,128,0.62)", accent: "#1e9bff",
    };
}

/** State that is worth keeping, checked: it is read from workflow files. */
export function checkedState(kept) {
    const state = typeof kept === "object" && kept ? kept : {};
    const cell = state.pinned;
    return {
        value: VALUES.includes(state.value) ? state.value : VALUES[0],
        order: ORDERS.includes(state.order) ? state.order : ORDERS[0],
        zoom: [1, 1.5, 2, 3, 4].includes(state.zoom) ? state.zoom : 1,
        folded: Array.isArray(state.folded) ? state.folded.filter((kind) => typeof kind === "string").slice(0, 50) : [],
        pinned: Number.isInteger(cell?.row) && Number.isInteger(cell?.column) ? { row: cell.row, column: cell.column } : null,
    };
}

/**
 * The view of one node's trace.
 *
 * host: keep(state), send(site, layer) which returns what happened as a text, pictureUrl(file).
 */
export class HeatmapView {
    constructor(host) {
        this.host = host;
        this.model = null;
        this.state = checkedState(null);
        this.focus = null;
        this.build();
        // Watches follow the element: they end with it, and the node may be moved about in the page.
        this.resized = new ResizeObserver(() => this.redraw());
        this.resized.observe(this.root);
        this.themed = new MutationObserver(() => this.redraw());
        for (const part of [document.documentElement, document.body]) {
            this.themed.observe(part, { attributes: true, attributeFilter: ["class", "style"] });
        }
    }

    build() {
        const set = (name) => (value) => this.change({ [name]: value });
        this.lists = { value: choice("value", VALUES, set("value")), order: choice("order of rows", ORDERS, set("order")) };
        const tools = element("div", { role: "toolbar", "aria-label": "heat map", style: { display: "flex", gap: "4px", flexWrap: "wrap" } },
            this.lists.value, this.lists.order,
            button("-", "zoom out", () => this.zoom(-1)), button("+", "zoom in", () => this.zoom(1)),
            button("copy site", "copy the name of the cell's site", () => this.copySite()),
            button("edit this layer", "set this layer on the connected Diff-QuickFix Edit", () => this.send()),
            button("PNG", "save as PNG", () => this.savePng()),
            button("SVG", "save as SVG", () => this.saveSvg()),
            button("CSV", "save the numbers as a table", () => this.saveCsv()));
        this.canvas = element("canvas", { style: { display: "block" }, "aria-hidden": "true" });
        this.scroller = element("div", {
            tabindex: "0", role: "application", "aria-roledescription": "heat map", "aria-label": HELP, class: "diff-quickfix-heatmap",
            style: { flex: "1 1 120px", overflow: "auto", minHeight: "120px", outlineOffset: "-2px" },
            on: {
                keydown: (event) => this.key(event), mousemove: (event) => this.hover(event),
                mouseleave: () => this.look(null), click: (event) => this.click(event),
            },
        }, this.canvas);
        this.words = element("div", {
            "aria-live": "polite", // Always of one height: were it to grow under the pointer, the cells would move away from it.
            style: { font: "bold 13px/19px system-ui, sans-serif", flex: "0 0 57px", overflow: "auto", overflowWrap: "anywhere" },
        }, "The heat map appears here after a run.");
        this.panel = element("div", { style: { display: "none", gap: "8px", flex: "0 0 auto", overflow: "auto", maxHeight: "45%" } });
        this.root = element("div", {
            style: {
                display: "flex", flexDirection: "column", gap: "5px", padding: "6px", boxSizing: "border-box", width: "100%", height: "100%",
                overflow: "hidden", color: "var(--input-text)", background: "var(--comfy-input-bg)", borderRadius: "6px",
            },
        }, tools, this.words, this.scroller, this.panel);
    }

    /** Show a model, or say why there is none. */
    show(model, why = "") {
        this.model = model;
        const cell = this.state.pinned;
        if (!model || (cell && !(cell.row in model.sites && cell.column in model.columns))) this.state.pinned = null;
        this.look(null);
        if (!model) this.words.textContent = line(why, 400);
        this.redraw();
    }

    /** Take over kept state. */
    adopt(kept) {
        this.state = checkedState(kept);
        for (const [name, list] of Object.entries(this.lists)) list.value = this.state[name];
    }

    change(parts) {
        this.state = { ...this.state, ...parts };
        this.host.keep(this.state);
        this.look(this.focus);
        this.redraw();
    }

    cell() {
        return this.focus ?? this.state.pinned ?? (this.model && bestCell(this.model));
    }

    // --- drawing ---

    redraw() {
        cancelAnimationFrame(this.frame);
        this.frame = requestAnimationFrame(() => this.paint());
    }

    place() {
        return layout(this.model, this.state, Math.max(220, this.scroller.clientWidth - 4));
    }

    paint() {
        if (!this.model || !this.root.isConnected) return this.canvas.setAttribute("height", 0);
        const place = this.place();
        const dense = Math.min(2, Math.max(1, devicePixelRatio));
        Object.assign(this.canvas, { width: Math.ceil(place.width * dense), height: Math.ceil(place.height * dense) });
        Object.assign(this.canvas.style, { width: `${place.width}px`, height: `${place.height}px` });
        const context = this.canvas.getContext("2d");
        context.scale(dense, dense);
        draw(canvasPen(context), this.model, this.state, place, themeOf(this.root), { focus: this.focus, pinned: this.state.pinned });
        this.showPinned();
    }

    /** Say what a cell holds; with none, what the whole map shows. */
    look(cell) {
        const same = cell?.row === this.focus?.row && cell?.column === this.focus?.column;
        this.focus = cell;
        if (!this.model) return;
        if (cell) {
            this.words.textContent = facts(this.model, cell).map(([name, text]) => `${name}: ${text}`).join("  \u00b7  ");
        } else {
            this.words.textContent = this.summary();
        }
        if (!same) this.redraw();
    }

    summary() {
        const { model } = this;
        const best = bestCell(model);
        if (!best) return "Nothing measured yet.";
        const many = model.prompts > 1 ? ` and ${model.prompts - 1} more` : "";
        const value = format(valueOf(model, this.state.value, best.row, best.column));
        return `${model.sites[best.row]} at ${model.columns[best.column]}: ${this.state.value} ${value}. ` +
            `"${model.subject}" in "${model.prompt}"${many}; ${model.runs} runs a cell, ${model.controls} controls; ${model.score}`;
    }

    showPinned() {
        const cell = this.state.pinned;
        const key = cell ? `${cell.row},${cell.column}` : "";
        this.panel.style.display = cell ? "flex" : "none";
        if (this.shown === key && this.shownModel === this.model) return;
        [this.shown, this.shownModel] = [key, this.model];
        this.panel.replaceChildren();
        if (!cell) return;
        const list = element("dl", { style: { margin: 0, font: "12px/1.4 system-ui, sans-serif", flex: "1 1 200px" } });
        for (const [name, text] of facts(this.model, cell)) {
            list.append(element("div", {}, element("dt", { style: { display: "inline", color: "var(--descrip-text)" } }, `${name}: `),
                element("dd", { style: { display: "inline", margin: 0, overflowWrap: "anywhere" } }, text)));
        }
        this.panel.append(list, ...this.pictures(cell));
    }

    pictures(cell) {
        const kept = this.model.pictures;
        if (!kept) return [];
        const own = kept.row === cell.row && kept.column === cell.column;
        const shown = PICTURES.slice(0, own ? 3 : 2).map((name, i) => this.figure(name, kept.files[i]));
        const note = "No restored picture was kept for this cell, only for the one with the largest effect.";
        return own ? shown : [...shown, element("p", { style: { font: "12px system-ui, sans-serif", flex: "0 1 110px", margin: 0 } }, note)];
    }

    figure(name, file) {
        const caption = element("figcaption", { style: { font: "12px system-ui, sans-serif" } }, name);
        const image = element("img", {
            alt: `${name} run`, src: this.host.pictureUrl(file), style: { maxHeight: "110px", maxWidth: "110px", display: "block" },
            on: { error: () => { caption.textContent = `${name}: gone; run again`; image.remove(); } },
        });
        return element("figure", { style: { margin: 0, flex: "0 0 auto" } }, image, caption);
    }

    // --- pointer and keys ---

    under(event) {
        if (!this.model || event.target !== this.canvas) return null;
        return hit(this.place(), this.model, event.offsetX, event.offsetY);
    }

    hover(event) {
        const found = this.under(event);
        this.canvas.style.cursor = found ? "pointer" : "default";
        this.look(found?.row !== undefined ? found : null);
    }

    click(event) {
        const found = this.under(event);
        if (found?.kind !== undefined) this.fold(found.kind);
        else if (found) this.pin(found);
    }

    pin(cell) {
        const same = cell && this.state.pinned?.row === cell.row && this.state.pinned?.column === cell.column;
        this.change({ pinned: same ? null : cell && { row: cell.row, column: cell.column } });
    }

    fold(kind) {
        const { folded } = this.state;
        this.change({ folded: folded.includes(kind) ? folded.filter((one) => one !== kind) : [...folded, kind] });
    }

    zoom(by) {
        const steps = [1, 1.5, 2, 3, 4];
        const now = steps.indexOf(this.state.zoom);
        this.change({ zoom: steps[Math.min(steps.length - 1, Math.max(0, now + by))] });
    }

    key(event) {
        if (!this.model || event.ctrlKey || event.metaKey || event.altKey) return;
        const actions = {
            ArrowUp: () => this.step(-1, 0), ArrowDown: () => this.step(1, 0), ArrowLeft: () => this.step(0, -1),
            ArrowRight: () => this.step(0, 1), Home: () => this.step(0, -Infinity), End: () => this.step(0, Infinity),
            Enter: () => this.pin(this.cell()), " ": () => this.pin(this.cell()), Escape: () => this.change({ pinned: null }),
            c: () => this.copySite(), f: () => this.foldFocus(), "+": () => this.zoom(1), "-": () => this.zoom(-1),
        };
        const action = actions[event.key];
        if (!action) return;
        // ComfyUI has shortcuts of its own on these keys.
        event.preventDefault();
        event.stopPropagation();
        action();
    }

    step(down, right) {
        const rows = this.place().lines.filter((one) => one.row !== undefined);
        if (!rows.length) return;
        const from = this.focus ?? this.state.pinned;
        const at = from ? rows.findIndex((one) => one.row === from.row) : -1;
        const index = at < 0 ? 0 : Math.min(rows.length - 1, Math.max(0, at + down));
        const column = at < 0 ? 0 : Math.min(this.model.columns.length - 1, Math.max(0, from.column + right));
        this.look({ row: rows[index].row, column });
        const { top, height } = rows[index];
        const { scroller } = this;
        scroller.scrollTop = Math.min(top, Math.max(scroller.scrollTop, top + height - scroller.clientHeight));
    }

    foldFocus() {
        const cell = this.cell();
        if (cell) this.fold(this.model.kinds[cell.row]);
    }

    // --- what leaves the heat map ---

    async copySite() {
        const cell = this.model && this.cell();
        if (!cell) return;
        await copy(this.model.sites[cell.row]);
        this.words.textContent = `Copied ${this.model.sites[cell.row]}`;
    }

    send() {
        const cell = this.model && (this.state.pinned ?? bestCell(this.model));
        if (cell) this.words.textContent = this.host.send(this.model.sites[cell.row], this.model.layers[cell.row], this.model.kinds[cell.row]);
    }

    savePng() {
        if (this.model) this.canvas.toBlob((blob) => blob && download(blob, "causal-heatmap.png"));
    }

    saveSvg() {
        if (!this.model) return;
        const place = this.place();
        const pen = svgPen();
        draw(pen, this.model, this.state, place, themeOf(this.root), { focus: null, pinned: this.state.pinned });
        download(new Blob([pen.finish(place.width, place.height)], { type: "image/svg+xml" }), "causal-heatmap.svg");
    }

    saveCsv() {
        if (this.model) download(new Blob([toCsv(this.model)], { type: "text/csv" }), "causal-heatmap.csv");
    }

    dispose() {
        this.resized.disconnect();
        this.themed.disconnect();
        cancelAnimationFrame(this.frame);
    }
}
