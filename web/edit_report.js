// Shows the report of "Diff-QuickFix Edit" on the node itself.
import { app } from "../../scripts/app.js";

const NODE_ID = "DiffQuickFix_Edit";
const OUTPUT = "diff_quickfix_report";
const LONGEST = 8000;

function reportWidget(node) {
    const existing = node.widgets?.find((widget) => widget.name === OUTPUT);
    if (existing) return existing;
    const box = document.createElement("pre");
    Object.assign(box.style, {
        margin: "0", padding: "6px 8px", overflow: "auto", whiteSpace: "pre-wrap", boxSizing: "border-box",
        font: "11px/1.4 ui-monospace, monospace", color: "var(--input-text)", background: "var(--comfy-input-bg)",
        borderRadius: "6px",
    });
    box.textContent = "The report appears here after a run.";
    const widget = node.addDOMWidget(OUTPUT, "DIFF_QUICKFIX_REPORT", box, {
        serialize: false, hideOnZoom: false, getMinHeight: () => 150,
    });
    widget.serialize = false;
    widget.box = box;
    return widget;
}

function show(node, output) {
    const text = output?.[OUTPUT]?.[0];
    // Reports quote prompts, and prompts come from other people's workflows: text only, and not endless.
    if (typeof text === "string") reportWidget(node).box.textContent = text.slice(0, LONGEST);
}

app.registerExtension({
    name: "DiffQuickFix.EditReport",
    beforeRegisterNodeDef(nodeType, nodeData) {
        if (nodeData.name !== NODE_ID) return;
        const { onNodeCreated, onExecuted } = nodeType.prototype;
        nodeType.prototype.onNodeCreated = function (...args) {
            const result = onNodeCreated?.apply(this, args);
            reportWidget(this);
            return result;
        };
        nodeType.prototype.onExecuted = function (output, ...rest) {
            onExecuted?.call(this, output, ...rest);
            show(this, output);
        };
    },
    onNodeOutputsUpdated(outputs) {
        for (const [id, output] of Object.entries(outputs ?? {})) {
            const node = app.graph?.getNodeById?.(Number(id));
            if (node?.comfyClass === NODE_ID) show(node, output);
        }
    },
});
