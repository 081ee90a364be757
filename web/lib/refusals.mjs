// Why a node's run ended, of what the server says of an error.
import { app } from "../../../scripts/app.js";
import { fieldsOf } from "./data.mjs";

/**
 * The node that an error means, in whichever subgraphs it stands: their nodes' ids and its own, divided by colons.
 * @param {unknown} path
 */
function nodeAt(path) {
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
 * The node that an error means, and its sentence; null where there is no such node. What the page keeps of the node's earlier
 * runs is taken away: it would show that again when the workflow comes back into view.
 * @param {unknown} error
 */
export function refusalOf(error) {
    const { node_id: path, node_type: kind, exception_message: sentence } = fieldsOf(error) ?? {};
    const node = nodeAt(path);
    if (!node || node.comfyClass !== kind || typeof sentence !== "string") return null;
    const place = node.graph && node.graph !== node.graph.rootGraph ? `${node.graph.id}:` : "";
    delete app.nodeOutputs?.[`${place}${node.id}`];
    return { node, sentence: sentence.trim() };
}
