// Reports on the nodes themselves: of "Diff-QuickFix Edit" with verdict, bars and the prompts that were hit most, of its
// companions in words.
import { app } from "../../scripts/app.js";
import { button, element } from "./lib/dom.mjs";
import { addNodeView, isLinked, setWidget } from "./lib/node_output.mjs";
import { parse } from "./lib/report_model.mjs";

const LONGEST = 8000;
const FONT = "12px/1.45 system-ui, sans-serif";
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
    if (isLinked(node, "preserve")) return "preserve is fed by a link; add the prompt there.";
    const text = String(node.widgets?.find((widget) => widget.name === "preserve")?.value ?? "");
    const lines = text.split("\n").map((one) => one.trim()).filter(Boolean);
    if (lines.includes(prompt)) return `${prompt} is among the preserved prompts already.`;
    if (!setWidget(node, "preserve", [...lines, prompt].join("\n"))) return "This node has no preserve widget.";
    return `Added ${prompt}; run again to see what it costs.`;
}

function worstHit(node, model) {
    if (!model.worst.length) return [];
    const said = element("div", { "aria-live": "polite" });
    const rows = model.worst.map(({ text, drift }) => element("div", { style: { display: "flex", gap: "6px", alignItems: "center" } },
        element("span", { style: { flex: "1 1 auto", overflowWrap: "anywhere" } }, text),
        element("span", { style: { fontVariantNumeric: "tabular-nums", whiteSpace: "nowrap" } }, `${(100 * drift).toFixed(2)} %`),
        button("add to preserve", `keep "${text}" as it is`, () => { said.textContent = preserve(node, text); })));
    return [element("div", { style: { color: "var(--descrip-text)" } }, "Hit most:"), ...rows, said];
}

function make(node) {
    const body = element("div", { class: "diff-quickfix-report" }, "The report appears here after a run.");
    const root = element("div", {
        style: {
            padding: "6px 8px", boxSizing: "border-box", overflow: "auto", width: "100%", height: "100%", font: FONT,
            color: "var(--input-text)", background: "var(--comfy-input-bg)", borderRadius: "6px",
        },
    }, body);
    return {
        root,
        // [text, measures]: all that a server without the measures sends is the text.
        show(text, measures) {
            if (typeof text !== "string") return;
            const model = parse(measures);
            const plain = element("pre", { style: { margin: 0, whiteSpace: "pre-wrap", font: "11px/1.4 ui-monospace, monospace" } }, text.slice(0, LONGEST));
            if (!model) return body.replaceChildren(plain);
            const verdict = element("div", { style: { fontWeight: "bold", borderLeft: `4px solid ${TONES[model.tone] ?? "var(--border-color)"}`, paddingLeft: "6px" } }, model.verdict);
            const details = element("details", {}, element("summary", { style: { cursor: "pointer" } }, "the report in words"), plain);
            body.replaceChildren(verdict, ...model.measures.map(bar), ...worstHit(node, model), details);
        },
    };
}

const KINDS = ["Edit", "LoadEdit", "EditReport", "CollateralRadar", "FindLambda", "FindTarget", "ChangeEdit"];
addNodeView(app, {
    extension: "DiffQuickFix.Report", nodeIds: KINDS.map((kind) => `DiffQuickFix_${kind}`), output: "diff_quickfix_report", height: 190, make,
});
