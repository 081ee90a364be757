// Why a node's run ended, of what the server says of an error.
import { app } from "../../../scripts/app.js";
import { fieldsOf } from "./data.mjs";
import { t } from "./texts.mjs";
import { isBehind, placesOf, sourceOf } from "./wires.mjs";

/**
 * The node that an error means, in whichever subgraphs it stands: their nodes' ids and its own, divided by colons.
 * @param {unknown} path
 */
export function nodeAt(path) {
    /** @type {ComfyGraph | undefined} */
    let graph = app.rootGraph ?? app.graph;
    let node;
    for (const id of String(path ?? "").split(":")) {
        node = graph?.getNodeById(id) ?? graph?.getNodeById(Number(id));
        graph = node?.subgraph;
    }
    return node;
}

/**
 * Take away what the page keeps of a node's earlier runs: it would show that again when the workflow comes back into view.
 * @param {ComfyNode} node
 */
function forget(node) {
    const place = node.graph && node.graph !== node.graph.rootGraph ? `${node.graph.id}:` : "";
    delete app.nodeOutputs?.[`${place}${node.id}`];
}

/**
 * The node that an error means and, of some nodes, those which it kept from running, each with the sentence that says so;
 * none where there is no such node. What was shown of earlier runs no longer holds for any of them.
 * @param {unknown} error
 * @param {Iterable<ComfyNode>} nodes
 * @returns {[ComfyNode, string][]}
 */
export function refusalsOf(error, nodes) {
    const { node_id: path, node_type: kind, exception_message: message } = fieldsOf(error) ?? {};
    const node = nodeAt(path);
    if (!node || node.comfyClass !== kind || typeof message !== "string") return [];
    const sentence = message.trim();
    const kept = [...nodes].filter((one) => one !== node && placesOf(one).some((place) => isBehind(place, node)));
    [node, ...kept].forEach(forget);
    const why = t("Not run, because {node} was refused: {sentence}", { node: node.title, sentence });
    return [[node, sentence], ...kept.map((one) => /** @type {[ComfyNode, string]} */ ([one, why]))];
}

/**
 * What a trace that is still running shows on those of some nodes that its node feeds, as [node, payload] pairs.
 * @param {unknown} told
 * @param {ComfyNode[]} nodes
 * @returns {[ComfyNode, unknown][]}
 */
export function heatMapsOf(told, nodes) {
    const { node_id: path, payload } = fieldsOf(told) ?? {};
    const node = nodeAt(path);
    if (!node) return [];
    const fed = nodes.filter((one) => placesOf(one).some((place) => sourceOf(place, "trace")?.node === node));
    return fed.map((one) => [one, payload]);
}
