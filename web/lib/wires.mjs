// Where what a node is given comes from: along links, through reroutes, bypassed nodes and the edges of subgraphs, as
// ComfyUI's page resolves them when it queues.

const SUBGRAPH_INPUT = -10;
const MUTED = 2;
const BYPASSED = 4;
// Links that one input may come through; more of them are a circle.
const LONGEST = 500;
const DEEPEST = 20;

/**
 * A node where it stands: one in a subgraph stands once in each node of that subgraph.
 * @typedef {object} Place
 * @property {ComfyNode} node
 * @property {ComfyNode[]} path the nodes of the subgraphs around it, the outermost first
 */
/**
 * An output that feeds something. `slot` is -1 for a widget of a subgraph's node, which `name` names then.
 * @typedef {Place & {slot: number, name?: string}} Source
 */

/** @param {ComfyGraph | null | undefined} graph */
const nodesOf = (graph) => graph?.nodes ?? [];

/**
 * All nodes of the workflow that a node is part of, in every place.
 * @param {ComfyNode} node
 * @returns {Place[]}
 */
export function allPlaces(node) {
    /** @type {(graph: ComfyGraph | null | undefined, path: ComfyNode[]) => Place[]} */
    const inside = (graph, path) => nodesOf(graph).flatMap((one) => [
        { node: one, path }, ...(one.subgraph && path.length < DEEPEST ? inside(one.subgraph, [...path, one]) : [])]);
    return inside(node.graph?.rootGraph ?? node.graph, []);
}

/**
 * What tells one wiring of a node's workflow from another, without following a link: a link that is made has a new number, one
 * that is taken away leaves one less, and what a virtual node stands for may hang on its widgets.
 * @param {ComfyNode} node
 */
export function wiringOf(node) {
    const root = node.graph?.rootGraph ?? node.graph;
    const graphs = root ? [root, ...root.subgraphs?.values() ?? []] : [];
    return graphs.map((graph) => {
        const nodes = nodesOf(graph).map((one) => `${one.id},${one.mode}${one.isVirtualNode ? (one.widgets ?? []).map(({ value }) => `,${value}`) : ""}`);
        return `${graph.last_link_id}/${graph.links?.size}/${nodes.join(";")}`;
    }).join("|");
}

/**
 * The places of one node.
 * @param {ComfyNode} node
 */
export function placesOf(node) {
    return node.graph && (node.graph.rootGraph ?? node.graph) === node.graph ? [{ node, path: [] }]
        : allPlaces(node).filter((place) => place.node === node);
}

/** @type {(one: string | number, other: string | number) => boolean} */
function fits(one, other) {
    const [names, others] = [one, other].map((type) => String(type || "*").toLowerCase().split(","));
    return Boolean(names?.includes("*") || others?.includes("*") || names?.some((name) => others?.includes(name)));
}

/**
 * The input that a bypassed node hands on as one of its outputs; -1 where it has none.
 * @type {(node: ComfyNode, slot: number, type: string | number) => number}
 */
function handedOn({ inputs = [], outputs = [] }, slot, type) {
    const own = outputs[slot]?.type ?? "*";
    if (type === "*" || type === "") return inputs.length > slot ? slot : 0;
    const opposite = inputs[slot];
    if (opposite && fits(opposite.type, own) && fits(opposite.type, type)) return slot;
    const exact = inputs.findIndex((input) => input.type === type);
    return exact >= 0 ? exact : inputs.findIndex((input) => fits(input.type, own) && fits(input.type, type));
}

/** @type {(graph: ComfyGraph | null | undefined, id: number | null | undefined) => ComfyLink | null} */
const linkOf = (graph, id) => (id == null ? null : graph?.getLink?.(id) ?? null);

/** @type {(graph: ComfyGraph | null | undefined, path: ComfyNode[], link: ComfyLink | null, type: string | number, left: number) => Source | null} */
function follow(graph, path, link, type, left) {
    if (!link || left < 0) return null;
    if (Number(link.origin_id) === SUBGRAPH_INPUT) {
        const outer = path.at(-1);
        const input = outer?.inputs?.[link.origin_slot];
        if (!outer || !input) return null;
        const around = path.slice(0, -1);
        if (input.link == null) return input.widget ? { node: outer, path: around, slot: -1, name: input.name } : null;
        return follow(outer.graph, around, linkOf(outer.graph, input.link), type, left - 1);
    }
    const node = graph?.getNodeById(link.origin_id);
    return node ? behind({ node, path }, link.origin_slot, type, left - 1) : null;
}

/** @type {(place: Place, slot: number, type: string | number, left: number) => Source | null} */
function behind(place, slot, type, left) {
    const { node, path } = place;
    if (node.mode === MUTED) return null;
    if (node.mode === BYPASSED) {
        const input = node.inputs?.[handedOn(node, slot, type)];
        return follow(node.graph, path, linkOf(node.graph, input?.link), type, left);
    }
    if (node.subgraph) {
        const inner = linkOf(node.subgraph, node.subgraph.outputNode?.slots[slot]?.linkIds[0]);
        return follow(node.subgraph, [...path, node], inner, type, left);
    }
    if (!node.isVirtualNode) return { node, path, slot };
    const other = node.resolveVirtualOutput?.(slot);
    if (other) return behind({ node: other.node, path }, other.slot, type, left - 1);
    const link = node.getInputLink?.(slot);
    if (link) return follow(node.graph, path, link, type, left);
    // A primitive gives the value of its widget; a reroute that nothing goes into gives nothing.
    return node.inputs?.length ? null : { node, path, slot };
}

/** @type {(node: ComfyNode, name: string) => ComfyInput | undefined} */
const inputOf = (node, name) => node.inputs?.find((slot) => (slot.widget?.name ?? slot.name) === name);

/**
 * What feeds an input; null where nothing does, so that its widget counts.
 * @param {Place} place
 * @param {string} name
 */
export function sourceOf({ node, path }, name) {
    const input = inputOf(node, name);
    return input ? follow(node.graph, path, linkOf(node.graph, input.link), input.type, LONGEST) : null;
}

/**
 * Whether an input of a node is fed, in any place, so that its widget says nothing.
 * @param {ComfyNode} node
 * @param {string} name
 */
export function isFed(node, name) {
    return inputOf(node, name)?.link != null && placesOf(node).some((place) => sourceOf(place, name));
}

/**
 * The inputs of a node that are fed, as [name, source] pairs.
 * @param {Place} place
 * @returns {[string, Source][]}
 */
export function sourcesOf(place) {
    return (place.node.inputs ?? []).flatMap((slot) => {
        const name = slot.widget?.name ?? slot.name;
        const source = slot.link == null ? null : sourceOf(place, name);
        return source ? [/** @type {[string, Source]} */ ([name, source])] : [];
    });
}

/**
 * Whether a node feeds another, through any others.
 * @param {Place} place
 * @param {ComfyNode} node
 * @param {Set<ComfyNode>} [seen]
 * @returns {boolean}
 */
export function isBehind(place, node, seen = new Set()) {
    return sourcesOf(place).some(([, from]) => {
        if (from.node === node) return true;
        if (seen.has(from.node)) return false;
        seen.add(from.node);
        return isBehind(from, node, seen);
    });
}

const CLIP = "CLIP";

/**
 * The output that a node's CLIP comes from at the last: what takes one CLIP (LoRAs, clip skip, edits) hands it on. Null where
 * that is not known.
 * @param {Place} place
 * @returns {Source | null}
 */
export function modelOf(place) {
    /** @type {Source | null} */
    let found = null;
    let at = place;
    for (let left = LONGEST; left > 0; left--) {
        const takes = at.node.inputs?.filter((input) => input.type === CLIP) ?? [];
        const [first] = takes;
        // Of several, as of a merge, none is its model's.
        if (takes.length !== 1 || !first || first.link == null) return found;
        found = sourceOf(at, first.widget?.name ?? first.name);
        if (!found || found.slot < 0) return null;
        at = found;
    }
    return null;
}

// The kinds of loaders' `type` whose encoders are CLIPs alone.
const CLIPS = new Set(["stable_diffusion", "stable_cascade", "sdxl"]);

/**
 * Whether a node's encoder is a CLIP, as far as its loader tells: others have other tokens. A checkpoint's counts as one.
 * @param {Place} place
 */
export function readsClip(place) {
    const loader = modelOf(place)?.node;
    if (!/CLIPLoader/.test(loader?.comfyClass ?? "")) return true;
    return CLIPS.has(String(loader?.widgets?.find(({ name }) => name === "type")?.value));
}
