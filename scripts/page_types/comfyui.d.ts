// What the page's scripts use of ComfyUI's page: app, api, and the graph's objects. Everything that comes from a
// workflow file, a run or the server is unknown until it was checked.

interface ComfyWidget {
    name: string;
    label?: string;
    value?: unknown;
    serialize?: boolean;
    callback?: (value: unknown) => unknown;
    options?: { serialize?: boolean };
    linkedWidgets?: ComfyWidget[];
    // Called when the page queues.
    beforeQueued?: () => void;
}

interface ComfyInput {
    name: string;
    type: string | number;
    label?: string;
    localized_name?: string;
    link: number | null;
    widget?: { name: string };
}

interface ComfyOutput {
    name: string;
    type: string | number;
}

interface ComfyLink {
    origin_id: number | string;
    origin_slot: number;
}

interface ComfyGraph {
    id?: string;
    nodes?: ComfyNode[];
    links?: { size: number };
    last_link_id?: number;
    getLink?(id: number): ComfyLink | null | undefined;
    getNodeById(id: number | string): ComfyNode | null | undefined;
    setDirtyCanvas?(foreground: boolean, background: boolean): void;
    // The graph of a workflow has these; a subgraph has the last alone.
    subgraphs?: Map<string, ComfyGraph>;
    rootGraph?: ComfyGraph;
    outputNode?: { slots: { linkIds: number[] }[] };
}

interface ComfyNode {
    id: number | string;
    title: string;
    comfyClass?: string;
    mode: number;
    isVirtualNode?: boolean;
    graph: ComfyGraph | null;
    // Of a node that stands for a subgraph.
    subgraph?: ComfyGraph;
    inputs?: ComfyInput[];
    outputs?: ComfyOutput[];
    widgets?: ComfyWidget[];
    properties: Record<string, unknown>;
    size: [number, number];
    setSize(size: [number, number]): void;
    computeSize(): [number, number];
    removeWidget(widget: ComfyWidget): void;
    setDirtyCanvas?(foreground: boolean, background: boolean): void;
    // Of nodes that are the page's alone, such as reroutes and those that set and get.
    getInputLink?(slot: number): ComfyLink | null | undefined;
    resolveVirtualOutput?(slot: number): { node: ComfyNode; slot: number } | undefined;
    addDOMWidget(name: string, type: string, element: HTMLElement, options: {
        serialize: boolean; hideOnZoom: boolean; hideInPanel: boolean; margin?: number; getMinHeight(): number; getMaxHeight?(): number;
    }): ComfyWidget;
}

// What a run returned of a node: lists under the names that the node chose.
type RunOutputs = Record<string, unknown> | null | undefined;

interface ComfyExtension {
    name: string;
    init?(): void;
    beforeRegisterNodeDef?(type: { prototype: object }, definition: { name: string }): void;
    onNodeOutputsUpdated?(outputs: Record<string, RunOutputs> | null | undefined): void;
}

interface ComfyApp {
    graph?: ComfyGraph;
    rootGraph?: ComfyGraph;
    // By a node's id, behind "subgraph:" where it stands in one.
    nodeOutputs?: Record<string, unknown>;
    canvas?: { graph?: ComfyGraph | null; ds?: { scale: number }; selectedItems?: Iterable<object> };
    extensionManager?: { setting?: { get?(name: string): unknown } };
    ui?: {
        settings?: { addEventListener?(name: string, heard: (event: CustomEvent<{ value?: unknown }>) => void): void };
    };
    // Ask the server again for all nodes' definitions, lists of files among them.
    reloadNodeDefs?(): Promise<void>;
    refreshComboInNodes?(): Promise<void>;
    registerExtension(extension: ComfyExtension): void;
}

interface ComfyApi {
    apiURL(path: string): string;
    fetchApi(path: string, options: RequestInit): Promise<Response>;
    addEventListener(
        name: "status", heard: (event: CustomEvent<{ exec_info?: { queue_remaining?: number } } | null>) => void): void;
    addEventListener(name: "executed" | "execution_error" | "execution_interrupted" | "diff_quickfix_trace", heard: (event: CustomEvent<unknown>) => void): void;
}

declare module "*/scripts/app.js" {
    export const app: ComfyApp;
}

declare module "*/scripts/api.js" {
    export const api: ComfyApi;
}
