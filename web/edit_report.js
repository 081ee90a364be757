// Reports on the nodes themselves: of "Diff-QuickFix Edit" with verdict, bars and the prompts that were hit most, of its
// companions in words.
import { app } from "../../scripts/app.js";
import { button, element, farType } from "./lib/dom.mjs";
import { addNodeView, isLinked, keep, setWidget } from "./lib/node_output.mjs";
import { named, parse } from "./lib/report_model.mjs";
import { t } from "./lib/texts.mjs";

const DATA = "diff_quickfix_report_data";

const LONGEST = 8000;
const FONT = "12px/1.45 system-ui, sans-serif";
const MONO = "11px/1.4 ui-monospace, monospace";
// Readable on light and dark: told apart by the word beside them too.
const TONES = { strong: "#2f9e58", good: "#2f9e58", weak: "#c98a00", harmful: "#d6336c" };

function bar({ name, value, good, filled }) {
    const quality = good ? filled : 1 - filled;
    const ink = quality > 0.5 ? TONES.good : quality > 0 ? TONES.weak : TONES.harmful;
    const percent = `${(100 * value).toFixed(good ? 1 : 2)} %`;
    const track = element("div", {
        role: "meter", "aria-label": name, "aria-valuenow": value, "aria-valuetext": percent, "aria-valuemin": 0, "aria-valuemax": 1,
        style: { flex: "1 1 60px", height: "9px", borderRadius: "3px", background: "var(--border-color)", overflow: "hidden" },
    }, element("div", { style: { width: `${100 * filled}%`, height: "100%", background: ink } }));
    return element("div", { style: { display: "flex", gap: "6px", alignItems: "center" } },
        element("span", { style: { flex: "0 0 118px" } }, name), track,
        element("span", { style: { flex: "0 0 58px", textAlign: "right", fontVariantNumeric: "tabular-nums" } }, percent));
}

/** Add a prompt to the node's preserve lines, once; returns what happened. */
function preserve(node, prompt) {
    if (isLinked(node, "preserve")) return t("preserve is fed by a link; add the prompt there.");
    const text = String(node.widgets?.find((widget) => widget.name === "preserve")?.value ?? "");
    const lines = text.split("\n").map((one) => one.trim()).filter(Boolean);
    if (lines.includes(prompt)) return t("{prompt} is among the preserved prompts already.", { prompt });
    if (!setWidget(node, "preserve", [...lines, prompt].join("\n"))) return t("This node has no preserve widget.");
    return t("Added {prompt}; run again to see what it costs.", { prompt });
}

function worstHit(node, model) {
    if (!model.worst.length) return [];
    const said = element("div", { "aria-live": "polite" });
    const keeps = node.widgets?.some((widget) => widget.name === "preserve");
    const rows = model.worst.map(({ text, drift }) => element("div", { style: { display: "flex", gap: "6px", alignItems: "center" } },
        element("span", { style: { flex: "1 1 auto", overflowWrap: "anywhere" } }, text),
        element("span", { style: { fontVariantNumeric: "tabular-nums", whiteSpace: "nowrap" } }, `${(100 * drift).toFixed(2)} %`),
        ...(keeps ? [button(t("add to preserve"), t('keep "{prompt}" as it is', { prompt: text }), () => { said.textContent = preserve(node, text); })] : [])));
    return [element("div", { style: { color: "var(--descrip-text)" } }, t("Hit most:")), ...rows, said];
}

function verdictLine(model, text) {
    const edge = `4px solid ${TONES[model.tone] ?? "var(--border-color)"}`;
    return element("div", { style: { fontWeight: "bold", borderLeft: edge, paddingLeft: "6px" } }, text);
}

/** The report in full: verdict, bars, prompts that were hit, words; without measures, the words. */
function full(node, text, model) {
    const plain = element("pre", { style: { margin: 0, whiteSpace: "pre-wrap", font: MONO } }, text.slice(0, LONGEST));
    if (!model) return [plain];
    const details = element("details", {}, element("summary", { style: { cursor: "pointer" } }, t("the report in words")), plain);
    return [verdictLine(model, model.verdict), ...model.measures.map(bar), ...worstHit(node, model), details];
}

/** The main finding: the verdict's first word and the first measure. */
function brief(text, model) {
    if (!model) return [text.slice(0, text.indexOf("\n") + 1 || LONGEST).slice(0, 60)];
    const [first] = model.measures;
    return [verdictLine(model, `${named(model.tone)} \u00b7 ${first.name} ${(100 * first.value).toFixed(0)} %`)];
}

function make(node) {
    const body = element("div", { class: "diff-quickfix-report" }, t("The report appears here after a run."));
    const root = element("div", {
        style: {
            padding: "6px 8px", boxSizing: "border-box", overflow: "auto", width: "100%", height: "100%", font: FONT,
            color: "var(--input-text)", background: "var(--comfy-input-bg)", borderRadius: "6px",
        },
    }, body);
    let shown = null;
    let far = null;

    function draw() {
        if (!shown) return;
        const [text, measures] = shown;
        const model = parse(measures);
        body.replaceChildren(...(far ? brief(text, model) : full(node, text, model)));
    }

    // [text, measures]: all that a server without the measures sends is the text.
    function show(text, measures) {
        if (typeof text !== "string") return;
        if (JSON.stringify(shown) === JSON.stringify([text, measures])) return;
        shown = [text, measures];
        draw();
    }

    return {
        root,
        show(text, measures) {
            if (typeof text === "string") keep(node, DATA, { node: String(node.id), report: [text, measures] });
            show(text, measures);
        },
        // A copy of a node has not run: what it carries is another node's report.
        restore(saved) {
            const { node: of, report } = node.properties?.[DATA] ?? {};
            if (of === String(saved?.id ?? node.id) && Array.isArray(report)) show(...report.slice(0, 2));
            else delete node.properties?.[DATA];
        },
        scaled(scale) {
            const type = farType(scale);
            if (type === far) return;
            far = type;
            root.style.font = far ? `${far}px/1.15 system-ui, sans-serif` : FONT;
            draw();
        },
    };
}

const KINDS = ["Edit", "LoadEdit", "EditReport", "CollateralRadar", "FindLambda", "FindTarget", "ChangeEdit"];
addNodeView(app, {
    extension: "DiffQuickFix.Report", nodeIds: KINDS.map((kind) => `DiffQuickFix_${kind}`), output: "diff_quickfix_report", height: 190, make,
});
