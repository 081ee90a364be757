// What a report's rows do when they are pressed: preserve a prompt on the node that edits, or give it a target.
import { app } from "../../../scripts/app.js";
import { setWidget, widgetOf } from "./node.mjs";
import { t } from "./texts.mjs";
import { NAME_FIELDS, plain } from "./typed_names.mjs";
import { allPlaces, isFed, placesOf, sourceOf } from "./wires.mjs";

const LONGEST = 50;

/**
 * The node whose preserve lines count for what a node shows: its own, or that of the node that made its edit.
 * @param {ComfyNode} node
 */
export function preserver(node) {
    if (widgetOf(node, "preserve")) return node;
    for (const place of placesOf(node)) {
        let from = sourceOf(place, "edit");
        for (let left = LONGEST; from && left > 0; left--) {
            if (widgetOf(from.node, "preserve")) return from.node;
            from = sourceOf(from, "edit");
        }
    }
    return null;
}

/**
 * Add a prompt to a node's preserve lines, once; returns what happened.
 * @param {ComfyNode} node
 * @param {string} prompt
 */
export function preserve(node, prompt) {
    if (isFed(node, "preserve")) return t("preserve is fed by a link; add the prompt there.");
    const text = String(widgetOf(node, "preserve")?.value ?? "");
    const lines = text.split("\n").map((one) => one.trim()).filter(Boolean);
    if (lines.includes(prompt)) return t("{prompt} is among the preserved prompts already.", { prompt });
    if (!setWidget(node, "preserve", [...lines, prompt].join("\n"))) return t("This node has no preserve widget.");
    return t("Added {prompt}; run again to see what it costs.", { prompt });
}

/** @param {ComfyNode[]} nodes */
const titles = (nodes) => nodes.map(({ title, id }) => `${title} #${id}`).join(", ");

/**
 * Give a target to the selected nodes that take one, or else to those that edit the concept; returns what happened.
 * @param {ComfyNode} node which ranked the targets
 * @param {string} source
 * @param {string} target
 */
export function giveTarget(node, source, target) {
    /** A node's own fields, if it has one for a target. @param {ComfyNode} one */
    const fieldsFor = (one) => {
        const { source: own, target: into } = NAME_FIELDS[one.comfyClass ?? ""] ?? {};
        return own && into ? { own, into } : null;
    };
    const selected = /** @type {ComfyNode[]} */ ([...app.canvas?.selectedItems ?? []]).filter(fieldsFor);
    const name = plain(source).toLowerCase();
    const same = allPlaces(node).map((place) => place.node).filter((one) => {
        const { own } = fieldsFor(one) ?? {};
        return own && plain(String(widgetOf(one, own)?.value ?? "")).toLowerCase() === name;
    });
    const takers = selected.length ? selected : [...new Set(same)];
    if (!takers.length) return t('No node here edits "{source}"; select the one that should take the target, and press again.', { source });
    const free = takers.filter((one) => !isFed(one, fieldsFor(one)?.into ?? ""));
    if (!free.length) return t("The target of {nodes} is fed by a link; disconnect it to choose here.", { nodes: titles(takers) });
    free.forEach((one) => setWidget(one, fieldsFor(one)?.into ?? "", target));
    return t('{nodes}: "{source}" now becomes "{target}"; run again.', { nodes: titles(free), source, target });
}
