// Reports on the nodes themselves: of nodes that edit with verdict, bars and the prompts that were hit most, of their
// companions in words.
import { askedFor, askedNow, changedInputs, isAwaited, isStrange, noteQueued } from "./asked.mjs";
import { entriesOf, fieldsOf, line } from "./data.mjs";
import { button, element, farType } from "./dom.mjs";
import { keep, madeBefore } from "./node.mjs";
import { giveTarget, preserve, preserver } from "./report_actions.mjs";
import { named, parse, rowsOf, wayOf } from "./report_model.mjs";
import { t } from "./texts.mjs";
import { isFed } from "./wires.mjs";

/** @typedef {import("./report_model.mjs").Report} Report */

const DATA = "diff_quickfix_report_data";

const LONGEST = 8000;
const FONT = "12px/1.45 system-ui, sans-serif";
const MONO = "11px/1.4 ui-monospace, monospace";
// Darker on a light palette, lighter on a dark one; told apart by the word beside them too.
/** @param {string} color */
const tone = (color) => `color-mix(in srgb, ${color} 60%, var(--input-text))`;
const GREEN = tone("#2f9e58");
/** @type {Record<string, string>} */
export const TONES = { strong: GREEN, good: GREEN, weak: tone("#c98a00"), harmful: tone("#d6336c") };

/** @param {import("./report_model.mjs").Measure} measure */
function bar({ name, value, good, filled, hint }) {
    const quality = good ? filled : 1 - filled;
    const ink = TONES[quality > 0.5 ? "good" : quality > 0 ? "weak" : "harmful"] ?? "";
    const percent = `${(100 * value).toFixed(good ? 1 : 2)} %`;
    const track = element("div", {
        role: "meter", "aria-label": name, "aria-description": hint || undefined, "aria-valuenow": value, "aria-valuetext": percent, "aria-valuemin": 0, "aria-valuemax": 1,
        style: {
            flex: "1 1 60px", height: "9px", borderRadius: "3px", overflow: "hidden", boxShadow: "inset 0 0 0 1px var(--border-color)",
        },
    }, element("div", { style: { width: `${100 * filled}%`, height: "100%", background: ink } }));
    return element("div", { title: hint || undefined, style: { display: "flex", gap: "6px", alignItems: "center" } },
        element("span", { style: { flex: "0 0 136px" } }, `${name} ${good ? "\u2191" : "\u2193"}`), track,
        element("span", { style: { flex: "0 0 58px", textAlign: "right", fontVariantNumeric: "tabular-nums" } }, percent));
}

/** @param {(Node | string)[]} cells */
const rowOf = (...cells) => element("div", { style: { display: "flex", gap: "6px", alignItems: "center", margin: "1px 0" } }, ...cells);
/** @param {string} text */
const words = (text) => element("span", { style: { flex: "1 1 auto", overflowWrap: "anywhere" } }, text);
/** @type {(value: number, digits: number) => HTMLElement} */
const percent = (value, digits) => element("span", {
    style: { flex: "0 0 58px", textAlign: "right", fontVariantNumeric: "tabular-nums", whiteSpace: "nowrap" },
}, `${(100 * value).toFixed(digits)} %`);

/**
 * Prompts or names that were hit, each with a button that preserves it where the edit was made.
 * @param {ComfyNode} node
 * @param {string} title
 * @param {import("./report_model.mjs").Hit[]} hits
 */
function hitList(node, title, hits) {
    if (!hits.length) return [];
    const said = element("div", { "aria-live": "polite" });
    const keeper = preserver(node);
    const rows = hits.map(({ text, drift }) => rowOf(words(text), percent(drift, 2), ...(keeper ? [
        button(t("add to preserve"), t('keep "{prompt}" as it is', { prompt: text }), () => { said.textContent = preserve(keeper, text); })] : [])));
    return [element("div", {}, title), ...rows, said];
}

/**
 * Candidates for a target, each with a button that gives it to the node that edits.
 * @param {ComfyNode} node
 * @param {import("./report_model.mjs").Rows} found
 */
function targetList(node, { source, targets }) {
    if (!targets.length) return [];
    const said = element("div", { "aria-live": "polite" });
    const head = [t("removal"), t("drift")].map((name) => element("span", { style: { flex: "0 0 58px", textAlign: "right" } }, name));
    const use = t("use");
    const rows = targets.map(({ target, removal, drift }) => rowOf(words(target), percent(removal, 0), percent(drift, 2),
        button(use, t('make "{target}" the target', { target }), () => { said.textContent = giveTarget(node, source, target); })));
    const room = element("span", { "aria-hidden": "true", style: { visibility: "hidden" } }, button(use, use, () => {}));
    return [rowOf(words(t("target")), ...head, room), ...rows, said];
}

/**
 * A line of the verdict.
 * @param {Report} model
 * @param {string} text
 * @param {import("./dom.mjs").Style} [style]
 */
function verdictLine(model, text, style = {}) {
    const edge = `4px solid ${TONES[model.tone] ?? "var(--border-color)"}`;
    return element("div", { style: { ...style, fontWeight: "bold", borderLeft: edge, paddingLeft: "6px" } }, text);
}

/**
 * The verdict: its first word stays in view whatever is scrolled to, its reasons do not, which may be many.
 * @param {Report} model
 */
function verdictLines(model) {
    const { verdict } = model;
    const end = verdict.indexOf(": ") + 2;
    const above = { position: "sticky", top: "-6px", background: "var(--comfy-input-bg)" };
    if (end < 2) return [verdictLine(model, verdict, above)];
    return [verdictLine(model, verdict.slice(0, end), above), verdictLine(model, verdict.slice(end))];
}

/** @param {string} sentence */
function refusalLine(sentence) {
    return element("div", {
        role: "alert", class: "diff-quickfix-refusal",
        style: { whiteSpace: "pre-wrap", overflowWrap: "anywhere", fontWeight: "bold", borderLeft: `4px solid ${TONES.harmful}`, paddingLeft: "6px" },
    }, sentence);
}

/**
 * The report in full: verdict, bars, prompts that were hit, words; without measures its first line, rows and words.
 * @param {ComfyNode} node
 * @param {string} text
 * @param {Report | null} model
 * @param {import("./report_model.mjs").Rows | null} rows
 */
function full(node, text, model, rows) {
    const plain = element("pre", { style: { margin: "0", whiteSpace: "pre-wrap", font: MONO } }, text.slice(0, LONGEST));
    if (!model && !rows) return [plain];
    const details = element("details", {}, element("summary", { style: { cursor: "pointer" } }, t("the report in words")), plain);
    if (!model || rows) {
        const first = element("div", { style: { fontWeight: "bold" } }, line(text.split("\n", 1)[0], 300));
        return [first, ...(rows ? [...hitList(node, t("Hit most:"), rows.hits), ...targetList(node, rows)] : []), details];
    }
    const way = wayOf(text);
    return [
        ...verdictLines(model), ...(way ? [element("div", {}, way)] : []), ...model.measures.map(bar),
        ...(model.lambda ? [element("div", { style: { opacity: "0.8" } }, t("lambda {value}", { value: model.lambda }))] : []), ...hitList(node, t("Names like it, hit most:"), model.neighbours),
        ...hitList(node, t("Hit most:"), model.worst), details,
    ];
}

/**
 * The widgets of a node that say another thing than they did in a run.
 * @param {ComfyNode} node
 * @param {Record<string, unknown>} settings
 */
export function changed(node, settings) {
    return (node.widgets ?? []).filter(({ name, value }) => (
        Object.hasOwn(settings, name) && settings[name] !== value && !isFed(node, name))).map(({ name }) => name);
}

/**
 * The main finding: the verdict's first word and the first measure, if there is anything to measure.
 * @param {string} text
 * @param {Report | null} model
 */
function brief(text, model) {
    const [first] = model?.measures ?? [];
    if (!model || !first) return [text.slice(0, text.indexOf("\n") + 1 || LONGEST).slice(0, 60)];
    if (model.tone === "unknown") return [verdictLine(model, named(model.tone))];
    return [verdictLine(model, `${named(model.tone)} \u00b7 ${first.name} ${(100 * first.value).toFixed(0)} %`)];
}

/**
 * The view of a node.
 * @param {ComfyNode} node
 */
export function make(node) {
    const body = element("div", { class: "diff-quickfix-report" }, t("The report appears here after a run."));
    // At the bottom of what is in view: nothing moves when it appears.
    const stale = element("div", {
        class: "diff-quickfix-stale", "aria-live": "polite",
        style: {
            position: "sticky", bottom: "-6px", marginBottom: "-6px", fontStyle: "italic", background: "var(--comfy-input-bg)",
        },
    });
    // The page lets wheel and selection through to what says that it wants them, and the keyboard to what takes the focus.
    const root = element("div", {
        tabindex: "0", "data-capture-wheel": "true", role: "region", "aria-label": t("report"),
        style: {
            userSelect: "text", padding: "6px 8px", boxSizing: "border-box", overflow: "auto", width: "100%", height: "100%", font: FONT,
            color: "var(--input-text)", background: "var(--comfy-input-bg)", borderRadius: "6px",
        },
    }, body, stale);
    /** Text, measures, settings: a server may send the text alone. @type {unknown[]} */
    let shown = [];
    /** What the run was asked for. @type {unknown} */
    let asked = null;
    /** Why the last run ended; "" where it did not. */
    let refusal = "";
    /** @type {number | null} */
    let far = null;

    function draw() {
        if (refusal) {
            body.replaceChildren(refusalLine(far ? line(refusal, 60) : refusal));
            return;
        }
        const [text, measures] = shown;
        if (typeof text !== "string") return;
        const model = parse(measures);
        body.replaceChildren(...(far ? brief(text, model) : full(node, text, model, rowsOf(measures))));
    }

    /** @param {unknown[]} report */
    function show(report) {
        if (typeof report[0] !== "string" || JSON.stringify(shown) === JSON.stringify(report)) return;
        shown = report;
        refusal = "";
        draw();
        root.scrollTop = 0;
    }

    function compare() {
        const settings = changed(node, fieldsOf(shown[2]) ?? {});
        const inputs = changedInputs(asked, askedNow(node));
        const names = settings.length || inputs ? [...settings, ...inputs ?? []] : null;
        const said = names ? far ? "\u21bb" : `\u21bb ${madeBefore(node, names)}` : "";
        if (stale.textContent === said) return;
        stale.textContent = said;
        stale.style.padding = said ? "2px 0 6px" : "0";
    }

    return {
        root,
        queued: () => noteQueued(node),
        /** @type {(outputs: NonNullable<RunOutputs>, live: boolean) => void} */
        show(outputs, live) {
            if (isStrange(node, outputs, live)) return;
            const [text, measures] = entriesOf(outputs.diff_quickfix_report);
            const [settings] = entriesOf(outputs.diff_quickfix_settings);
            const report = [text, measures, settings];
            if (typeof text !== "string") return;
            // The page gives a result again when its workflow comes back into view.
            if (live || JSON.stringify(report) !== JSON.stringify(shown)) asked = askedFor(node);
            keep(node, DATA, { node: String(node.id), report, ...fieldsOf(asked) });
            show(report);
            compare();
        },
        /** @param {string} sentence */
        refuse(sentence) {
            if (!isAwaited(node)) return;
            // What was said of an earlier run is no longer true, here or in the file.
            delete node.properties[DATA];
            asked = askedFor(node);
            shown = ["", null, Object.fromEntries((node.widgets ?? []).map(({ name, value }) => [name, value]))];
            refusal = sentence.slice(0, LONGEST);
            draw();
            root.scrollTop = 0;
            compare();
        },
        /**
         * A copy of a node has not run: what it carries is another node's report.
         * @param {string} id
         */
        restore(id) {
            const kept = fieldsOf(node.properties[DATA]);
            if (kept?.node !== id || !Array.isArray(kept.report)) {
                delete node.properties[DATA];
                return;
            }
            asked = { fed: kept.fed, inputs: kept.inputs, model: kept.model };
            show(kept.report.slice(0, 3));
        },
        /** @param {number} scale */
        look(scale) {
            compare();
            const type = farType(scale);
            if (type === far) return;
            far = type;
            root.style.font = far ? `${far}px/1.15 system-ui, sans-serif` : FONT;
            draw();
        },
    };
}
