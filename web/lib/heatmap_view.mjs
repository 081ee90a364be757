// The heat map on a node: canvas, tools, what is under the pointer, and the pinned cell.

import { button, choice, copy, download, element, farType, line } from "./dom.mjs";
import { canvasPen, draw, farLayout, hit, layout, svgPen } from "./heatmap_draw.mjs";
import { ORDERS, VALUES, bestCell, facts, format, picturesFor, toCsv, valueOf } from "./heatmap_model.mjs";
import { t, term } from "./texts.mjs";

const HELP = term(
    "Heat map of a causal trace. Arrow keys move, Home and End go to the ends of a row, Enter pins a cell, c copies its " +
    "site, f folds its kind, plus and minus zoom, Escape unpins.");
const PICTURES = [term("clean"), term("corrupted"), term("restored")];
const SMALL = "12px/1.4 system-ui, sans-serif";
const WORDS = { font: "bold 13px/19px system-ui, sans-serif", flex: "0 0 57px" };
// Over the rows' labels, kinds' names may reach into the cells.
const OVERHANG = 110;

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
        this.far = null;
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
        const listed = (name, label, ids) => choice(label, ids.map((id) => [id, t(id)]), set(name));
        this.lists = { value: listed("value", t("value"), VALUES), order: listed("order", t("order of rows"), ORDERS) };
        this.tools = element("div", { role: "toolbar", "aria-label": t("heat map"), style: { display: "flex", gap: "4px", flexWrap: "wrap" } },
            this.lists.value, this.lists.order,
            button("-", t("zoom out"), () => this.zoom(-1)), button("+", t("zoom in"), () => this.zoom(1)),
            button(t("copy site"), t("copy the name of the cell's site"), () => this.copySite()),
            button(t("edit this layer"), t("set this layer on the connected Diff-QuickFix Edit"), () => this.send()),
            button("PNG", t("save as PNG"), () => this.savePng()),
            button("SVG", t("save as SVG"), () => this.saveSvg()),
            button("CSV", t("save the numbers as a table"), () => this.saveCsv()));
        this.buildMap();
        this.words = element("div", {
            "aria-live": "polite", // Always of one height: were it to grow under the pointer, the cells would move away from it.
            style: { ...WORDS, overflow: "auto", overflowWrap: "anywhere" },
        }, t("The heat map appears here after a run."));
        this.panel = element("div", { style: { display: "none", gap: "8px", flex: "0 0 auto", overflow: "auto", maxHeight: "45%" } });
        this.root = element("div", {
            style: {
                display: "flex", flexDirection: "column", gap: "5px", padding: "6px", boxSizing: "border-box", width: "100%", height: "100%",
                overflow: "hidden", color: "var(--input-text)", background: "var(--comfy-input-bg)", borderRadius: "6px",
            },
        }, this.tools, this.words, this.scroller, this.panel);
    }

    /** The map's cells, and over them the labels of rows and columns, which stay in view when it is scrolled. */
    buildMap() {
        const layer = (style) => element("canvas", {
            "aria-hidden": "true", style: { gridArea: "1 / 1", alignSelf: "start", justifySelf: "start", ...style },
        });
        const label = { position: "sticky", pointerEvents: "none" };
        this.canvas = layer({});
        this.labels = { rows: layer({ ...label, left: "0" }), columns: layer({ ...label, top: "0" }) };
        this.corner = element("div", {
            style: { gridArea: "1 / 1", ...label, top: "0", left: "0", background: "var(--comfy-input-bg)" },
        });
        const sheet = element("div", { style: { display: "grid", justifyContent: "start", alignContent: "start", width: "max-content" } },
            this.canvas, this.labels.rows, this.labels.columns, this.corner);
        this.scroller = element("div", {
            tabindex: "0", role: "application", "aria-roledescription": t("heat map"), "aria-label": t(HELP), class: "diff-quickfix-heatmap",
            style: { flex: "1 1 120px", overflow: "auto", minHeight: "120px", outlineOffset: "-2px" },
            on: {
                keydown: (event) => this.key(event), mousemove: (event) => this.hover(event),
                mouseleave: () => this.look(null), click: (event) => this.click(event),
            },
        }, sheet);
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

    /** Follow the zoom of the graph's canvas: where its type could not be read, the map shows its colors and the main finding. */
    scaled(scale) {
        const type = farType(scale);
        if (type === this.far) return;
        this.far = type;
        Object.assign(this.words.style, type ? { font: `bold ${type}px/1.15 system-ui, sans-serif`, flex: "0 0 auto" } : WORDS);
        this.tools.style.display = type ? "none" : "flex";
        this.look(this.focus);
        this.redraw();
    }

    place() {
        const width = Math.max(220, this.scroller.clientWidth - 4);
        return this.far ? farLayout(this.model, this.state, width, this.scroller.clientHeight - 4) : layout(this.model, this.state, width);
    }

    paint() {
        const shown = this.model && this.root.isConnected;
        const place = shown ? this.place() : { width: 0, height: 0, left: 0, head: 0 };
        const parts = this.far ? ["cells"] : ["cells", "bar"];
        this.paintOn(this.canvas, place, place.width, place.height, parts);
        this.paintOn(this.labels.rows, place, place.left && place.left + OVERHANG, place.height, ["rows"], place.left);
        this.paintOn(this.labels.columns, place, place.width, place.head, ["columns"]);
        Object.assign(this.corner.style, { width: `${place.left}px`, height: `${place.head}px` });
        if (shown) this.showPinned();
    }

    /** Paint parts of the map on a canvas of some size, the paper under them as wide as `paper`. */
    paintOn(canvas, place, width, height, parts, paper = width) {
        const dense = Math.min(2, Math.max(1, devicePixelRatio));
        Object.assign(canvas, { width: Math.ceil(width * dense), height: Math.ceil(height * dense) });
        Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
        if (!width || !height) return;
        const context = canvas.getContext("2d");
        context.scale(dense, dense);
        const pen = canvasPen(context);
        const theme = themeOf(this.root);
        pen.fill(0, 0, paper, height, theme.paper);
        draw(pen, this.model, this.state, place, theme, { focus: this.focus, pinned: this.state.pinned }, parts);
    }

    /** Say what a cell holds; with none, what the whole map shows. */
    look(cell) {
        const same = cell?.row === this.focus?.row && cell?.column === this.focus?.column;
        this.focus = cell;
        if (!this.model) return;
        this.words.textContent = this.far ? this.headline(cell) : cell ? this.told(cell) : this.summary();
        if (!same) this.redraw();
    }

    told(cell) {
        return facts(this.model, cell).map(([name, text]) => `${name}: ${text}`).join("  \u00b7  ");
    }

    value(cell) {
        return `${t(this.state.value)} ${format(valueOf(this.model, this.state.value, cell.row, cell.column))}`;
    }

    /** A cell in few words; with none, the strongest. */
    headline(cell) {
        const shown = cell ?? bestCell(this.model);
        if (!shown) return t("Nothing measured yet.");
        return `${this.model.sites[shown.row]} \u00b7 ${this.model.columns[shown.column]} \u00b7 ${this.value(shown)}`;
    }

    summary() {
        const { model } = this;
        const best = bestCell(model);
        if (!best) return t("Nothing measured yet.");
        return t('{site} at {column}: {value}. "{subject}" in "{prompt}"{more}; {runs} runs a cell, {controls} controls; {score}', {
            ...model, site: model.sites[best.row], column: model.columns[best.column], value: this.value(best),
            more: model.prompts > 1 ? t(" and {count} more", { count: model.prompts - 1 }) : "",
        });
    }

    showPinned() {
        const cell = this.state.pinned;
        const key = cell ? `${cell.row},${cell.column}` : "";
        this.panel.style.display = cell && !this.far ? "flex" : "none";
        if (this.shown === key && this.shownModel === this.model) return;
        [this.shown, this.shownModel] = [key, this.model];
        this.panel.replaceChildren();
        if (!cell) return;
        const list = element("dl", { style: { margin: 0, font: SMALL, flex: "1 1 200px" } });
        for (const [name, text] of facts(this.model, cell)) {
            list.append(element("div", {}, element("dt", { style: { display: "inline" } }, `${name}: `),
                element("dd", { style: { display: "inline", margin: 0, fontWeight: "bold", overflowWrap: "anywhere" } }, text)));
        }
        this.panel.append(list, ...this.pictures(cell));
    }

    /** A cell's pictures; where one is missing, how to get it. */
    pictures(cell) {
        const kept = this.model.pictures;
        const files = [kept?.clean, kept?.corrupted, kept?.restored.get(`${cell.row},${cell.column}`)];
        const shown = PICTURES.flatMap((name, i) => (files[i] ? [this.figure(t(name), files[i])] : []));
        const note = files[2] ? "" : this.missing(cell, kept);
        return note ? [...shown, element("p", { style: { font: SMALL, flex: "0 1 150px", margin: 0 } }, note)] : shown;
    }

    missing(cell, kept) {
        if (!kept) return t("To see pictures here, connect the examples of Causal Trace to pictures.");
        if (!kept.clean && !kept.corrupted && !kept.restored.size) {
            return t("The connected pictures are not of this trace; connect the examples of the Causal Trace that made it.");
        }
        const count = picturesFor(this.model, cell);
        if (count === null) return t("No restored picture of this cell: only the strongest cells can have one.");
        return t("No restored picture of this cell yet: set pictures on Causal Trace to {count} or more and run again.", { count });
    }

    figure(name, file) {
        const caption = element("figcaption", { style: { font: SMALL } }, name);
        const image = element("img", {
            alt: name, src: this.host.pictureUrl(file), style: { maxHeight: "110px", maxWidth: "110px", display: "block" },
            on: { error: () => { caption.textContent = t("{name}: gone; run again", { name }); image.remove(); } },
        });
        return element("figure", { style: { margin: 0, flex: "0 0 auto" } }, image, caption);
    }

    // --- pointer and keys ---

    under(event) {
        if (!this.model || event.target !== this.canvas) return null;
        const place = this.place();
        const { offsetX: x, offsetY: y } = event;
        if (y - this.scroller.scrollTop < place.head) return null;
        const found = hit(place, this.model, x, y);
        return found?.row !== undefined && x - this.scroller.scrollLeft < place.left ? null : found;
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
        this.reveal(rows[index], column);
    }

    /** Scroll a cell out from under the labels and the edges. */
    reveal({ top, height }, column) {
        const { scroller } = this;
        const { left, head, wide } = this.place();
        const x = left + column * wide;
        scroller.scrollTop = Math.min(top - head, Math.max(scroller.scrollTop, top + height - scroller.clientHeight));
        scroller.scrollLeft = Math.min(x - left, Math.max(scroller.scrollLeft, x + wide - scroller.clientWidth));
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
        this.words.textContent = t("Copied {site}", { site: this.model.sites[cell.row] });
    }

    send() {
        const cell = this.model && (this.state.pinned ?? bestCell(this.model));
        if (cell) this.words.textContent = this.host.send(this.model.sites[cell.row], this.model.layers[cell.row], this.model.kinds[cell.row]);
    }

    /** The whole map with a pen, whatever part of it is in view. */
    drawWhole(pen, place) {
        const theme = themeOf(this.root);
        pen.fill(0, 0, place.width, place.height, theme.paper);
        draw(pen, this.model, this.state, place, theme, { focus: null, pinned: this.state.pinned });
    }

    wholePlace() {
        return layout(this.model, this.state, Math.max(220, this.scroller.clientWidth - 4));
    }

    savePng() {
        if (!this.model) return;
        const place = this.wholePlace();
        const canvas = element("canvas", { width: Math.ceil(2 * place.width), height: Math.ceil(2 * place.height) });
        const context = canvas.getContext("2d");
        context.scale(2, 2);
        this.drawWhole(canvasPen(context), place);
        canvas.toBlob((blob) => blob && download(blob, "causal-heatmap.png"));
    }

    saveSvg() {
        if (!this.model) return;
        const place = this.wholePlace();
        const pen = svgPen();
        this.drawWhole(pen, place);
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
