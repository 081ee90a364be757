// The heat map on a node: tools, what is said of the cell under the pointer, the map, and the pinned cell.
import { button, choice, copy, element, farType } from "./dom.mjs";
import { line } from "./data.mjs";
import { saveCsv, savePng, saveSvg } from "./heatmap_files.mjs";
import { bestCell, facts, format, has, valueOf } from "./heatmap_model.mjs";
import { ORDERS, VALUES, ZOOMS, checkedState } from "./heatmap_payload.mjs";
import { PinnedPanel } from "./heatmap_pinned.mjs";
import { Sheet } from "./heatmap_sheet.mjs";
import { t } from "./texts.mjs";

/** @typedef {import("./heatmap_payload.mjs").Cell} Cell */
/** @typedef {import("./heatmap_payload.mjs").Model} Model */
/** @typedef {import("./heatmap_payload.mjs").PictureFile} PictureFile */
/** @typedef {import("./heatmap_payload.mjs").State} State */
/**
 * What a heat map asks its node for.
 * @typedef {object} Host
 * @property {(state: State) => void} keep keeps the state with the workflow
 * @property {(traced: {site: string, layer: number | null, kind: string}) => string} setLayer returns what happened, for people
 * @property {(file: PictureFile) => string} pictureUrl
 */

const WORDS = { font: "bold 13px/19px system-ui, sans-serif", flex: "0 0 57px" };

/** The view of one node's trace. */
export class HeatmapView {
    /** @param {Host} host */
    constructor(host) {
        this.host = host;
        /** @type {Model | null} */
        this.model = null;
        this.state = checkedState(null);
        /** @type {Cell | null} */
        this.focus = null;
        /** @type {number | null} */
        this.far = null;
        this.frame = 0;
        this.sheet = new Sheet(this, {
            keydown: (event) => this.key(event), mousemove: (event) => this.hover(event),
            mouseleave: () => this.look(null), click: (event) => this.click(event),
        });
        this.panel = new PinnedPanel(host.pictureUrl);
        this.words = element("div", {
            "aria-live": "polite", // Always of one height: were it to grow under the pointer, the cells would move away from it.
            style: { ...WORDS, overflow: "auto", overflowWrap: "anywhere" },
        }, t("The heat map appears here after a run."));
        this.stale = element("div", { class: "diff-quickfix-heatmap-stale", "aria-live": "polite", style: { flex: "0 0 auto", fontStyle: "italic" } });
        this.lists = {
            value: choice(t("value"), VALUES.map((id) => [id, t(id)]), (value) => this.choose({ value })),
            order: choice(t("order of rows"), ORDERS.map((id) => [id, t(id)]), (order) => this.choose({ order })),
        };
        this.tools = this.toolbar();
        this.root = element("div", {
            style: {
                display: "flex", flexDirection: "column", gap: "5px", padding: "6px", boxSizing: "border-box", width: "100%", height: "100%",
                overflow: "hidden", color: "var(--input-text)", background: "var(--comfy-input-bg)", borderRadius: "6px",
            },
        }, this.tools, this.words, this.sheet.root, this.panel.root, this.stale);
        // Watches follow the element: they end with it, and the node may be moved about in the page.
        this.resized = new ResizeObserver(() => this.redraw());
        this.resized.observe(this.root);
        this.themed = new MutationObserver(() => this.redraw());
        for (const part of [document.documentElement, document.body]) {
            this.themed.observe(part, { attributes: true, attributeFilter: ["class", "style"] });
        }
    }

    toolbar() {
        return element("div", { role: "toolbar", "aria-label": t("heat map"), style: { display: "flex", gap: "4px", flexWrap: "wrap" } },
            this.lists.value, this.lists.order,
            button("-", t("zoom out"), () => this.zoom(-1)), button("+", t("zoom in"), () => this.zoom(1)),
            button(t("copy site"), t("copy the name of the cell's site"), () => this.copySite()),
            button(t("edit this layer"), t("set this layer on the connected Diff-QuickFix Edit"), () => this.setLayer()),
            button("PNG", t("save as PNG"), () => this.model && savePng(this.model, this.state, this.sheet.width())),
            button("SVG", t("save as SVG"), () => this.model && saveSvg(this.model, this.state, this.sheet.width())),
            button("CSV", t("save the numbers as a table"), () => this.model && saveCsv(this.model)));
    }

    /**
     * Show a model, or say why there is none.
     * @param {Model | null} model
     * @param {string} why
     */
    show(model, why = "") {
        this.model = model;
        const cell = this.state.pinned;
        if (!model || (cell && !has(model, cell))) this.state.pinned = null;
        this.look(null);
        if (!model) this.words.textContent = line(why, 400);
        this.redraw();
    }

    /**
     * Say, or stop saying, that what is shown was made with other settings or of another model.
     * @param {string} why "" where it was not
     */
    setStale(why) {
        const said = this.far ? "\u21bb" : `\u21bb ${why}`;
        const words = why && this.model ? said : "";
        if (this.stale.textContent !== words) this.stale.textContent = words;
    }

    /**
     * Take over kept state.
     * @param {unknown} kept
     */
    adopt(kept) {
        this.state = checkedState(kept);
        this.lists.value.value = this.state.value;
        this.lists.order.value = this.state.order;
    }

    /** @param {unknown} chosen */
    choose(chosen) {
        this.change(checkedState({ ...this.state, .../** @type {object} */ (chosen) }));
    }

    /** @param {Partial<State>} parts */
    change(parts) {
        this.state = { ...this.state, ...parts };
        this.host.keep(this.state);
        this.look(this.focus);
        this.redraw();
    }

    cell() {
        return this.focus ?? this.state.pinned ?? (this.model && bestCell(this.model));
    }

    redraw() {
        cancelAnimationFrame(this.frame);
        this.frame = requestAnimationFrame(() => {
            this.sheet.paint();
            if (this.model && this.root.isConnected) this.panel.show(this.model, this.state.pinned, this.far !== null);
            else this.panel.root.style.display = "none";
        });
    }

    /**
     * Follow the zoom of the graph's canvas: where its type could not be read, the map shows its colors and the main finding.
     * @param {number} scale
     */
    scaled(scale) {
        const type = farType(scale);
        if (type === this.far) return;
        this.far = type;
        Object.assign(this.words.style, type ? { font: `bold ${type}px/1.15 system-ui, sans-serif`, flex: "0 0 auto" } : WORDS);
        this.tools.style.display = type ? "none" : "flex";
        this.look(this.focus);
        this.redraw();
    }

    // --- what is said ---

    /**
     * Say what a cell holds; with none, what the whole map shows.
     * @param {Cell | null} cell
     */
    look(cell) {
        const same = cell?.row === this.focus?.row && cell?.column === this.focus?.column;
        this.focus = cell;
        const { model } = this;
        if (!model) return;
        this.words.textContent = this.far ? this.headline(model, cell) : cell ? told(model, cell) : this.summary(model);
        if (!same) this.redraw();
    }

    /**
     * @param {Model} model
     * @param {Cell} cell
     */
    value(model, cell) {
        return `${t(this.state.value)} ${format(valueOf(model, this.state.value, cell))}`;
    }

    /**
     * A cell in few words; with none, the strongest.
     * @param {Model} model
     * @param {Cell | null} cell
     */
    headline(model, cell) {
        const shown = cell ?? bestCell(model);
        if (!shown) return t("Nothing measured yet.");
        return `${model.sites[shown.row]} \u00b7 ${model.columns[shown.column]} \u00b7 ${this.value(model, shown)}`;
    }

    /** @param {Model} model */
    summary(model) {
        const best = bestCell(model);
        if (!best) return t("Nothing measured yet.");
        return t('{site} at {column}: {value}. "{subject}" in "{prompt}"{more}; {runs} runs a cell, {controls} controls; {score}', {
            ...model, site: model.sites[best.row], column: model.columns[best.column], value: this.value(model, best),
            more: model.prompts > 1 ? t(" and {count} more", { count: model.prompts - 1 }) : "",
        });
    }

    // --- pointer and keys ---

    /** @param {MouseEvent} event */
    hover(event) {
        const { cell, kind } = this.sheet.under(event);
        this.sheet.canvas.style.cursor = cell || kind !== undefined ? "pointer" : "default";
        this.look(cell ?? null);
    }

    /** @param {MouseEvent} event */
    click(event) {
        const { cell, kind } = this.sheet.under(event);
        if (kind !== undefined) this.fold(kind);
        else if (cell) this.pin(cell);
    }

    /** @param {Cell | null} cell */
    pin(cell) {
        const { pinned } = this.state;
        this.change({ pinned: cell && pinned?.row === cell.row && pinned.column === cell.column ? null : cell });
    }

    /** @param {string | undefined} kind */
    fold(kind) {
        if (kind === undefined) return;
        const { folded } = this.state;
        this.change({ folded: folded.includes(kind) ? folded.filter((one) => one !== kind) : [...folded, kind] });
    }

    /** @param {number} by */
    zoom(by) {
        const now = ZOOMS.indexOf(this.state.zoom);
        this.change({ zoom: ZOOMS[Math.min(ZOOMS.length - 1, Math.max(0, now + by))] ?? 1 });
    }

    /** @param {KeyboardEvent} event */
    key(event) {
        const { model } = this;
        if (!model || event.ctrlKey || event.metaKey || event.altKey) return;
        /** @type {Record<string, () => unknown>} */
        const actions = {
            ArrowUp: () => this.step(model, -1, 0), ArrowDown: () => this.step(model, 1, 0), ArrowLeft: () => this.step(model, 0, -1),
            ArrowRight: () => this.step(model, 0, 1), Home: () => this.step(model, 0, -Infinity), End: () => this.step(model, 0, Infinity),
            Enter: () => this.pin(this.cell()), " ": () => this.pin(this.cell()), Escape: () => this.change({ pinned: null }),
            c: () => this.copySite(), f: () => this.fold(model.kinds[this.cell()?.row ?? -1]), "+": () => this.zoom(1), "-": () => this.zoom(-1),
        };
        const action = Object.hasOwn(actions, event.key) && actions[event.key];
        if (!action) return;
        // ComfyUI has shortcuts of its own on these keys.
        event.preventDefault();
        event.stopPropagation();
        action();
    }

    /**
     * @param {Model} model
     * @param {number} down
     * @param {number} right
     */
    step(model, down, right) {
        const cell = this.sheet.step(model, this.focus ?? this.state.pinned, down, right);
        if (!cell) return;
        this.look(cell);
        this.sheet.reveal(model, cell);
    }

    // --- what leaves the heat map ---

    async copySite() {
        const site = this.model?.sites[this.cell()?.row ?? -1];
        if (site === undefined) return;
        await copy(site);
        this.words.textContent = t("Copied {site}", { site });
    }

    setLayer() {
        const { model } = this;
        const cell = model && (this.state.pinned ?? bestCell(model));
        if (!cell) return;
        const [site = "", kind = ""] = [model.sites[cell.row], model.kinds[cell.row]];
        this.words.textContent = this.host.setLayer({ site, kind, layer: model.layers[cell.row] ?? null });
    }

    dispose() {
        this.resized.disconnect();
        this.themed.disconnect();
        cancelAnimationFrame(this.frame);
    }
}

/** @type {(model: Model, cell: Cell) => string} */
function told(model, cell) {
    return facts(model, cell).map(([name, text]) => `${name}: ${text}`).join("  \u00b7  ");
}
