// Elements from plain values. Texts become text nodes: nothing that comes from a prompt or a file is ever HTML.

/**
 * @typedef {Partial<CSSStyleDeclaration>} Style
 * @typedef {{[K in keyof HTMLElementEventMap]?: (event: HTMLElementEventMap[K]) => void}} Listeners
 * @typedef {{style?: Style, on?: Listeners} & Record<string, unknown>} Properties
 */

/**
 * An element. `properties.on` maps events to listeners; all other properties but `style` are attributes.
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Properties} properties
 * @param {(Node | string)[]} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function element(tag, properties = {}, ...children) {
    const made = document.createElement(tag);
    const { style, on, ...attributes } = properties;
    Object.assign(made.style, style);
    for (const [event, listener] of Object.entries(on ?? {})) made.addEventListener(event, /** @type {EventListener} */ (listener));
    for (const [name, value] of Object.entries(attributes)) {
        if (value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : String(value));
    }
    made.append(...children);
    return made;
}

const LOOK = {
    font: "12px/1.4 system-ui, sans-serif", color: "var(--input-text)", background: "var(--comfy-input-bg)",
    border: "1px solid var(--border-color)", borderRadius: "4px", padding: "1px 6px", cursor: "pointer", whiteSpace: "nowrap",
    // A target for fingers (WCAG 2.2, 2.5.8).
    outlineOffset: "-2px", flex: "0 0 auto", boxSizing: "border-box", minHeight: "24px", minWidth: "24px",
};

/**
 * Show where the keyboard is, whole: ComfyUI's page takes the browsers' own ring away.
 * @template {HTMLElement} Made
 * @param {Made} made
 */
function ringed(made) {
    made.addEventListener("focus", () => { if (made.matches(":focus-visible")) made.style.outline = "2px solid #1e9bff"; });
    made.addEventListener("blur", () => { made.style.outline = ""; });
    return made;
}

/**
 * A small button that looks like the page.
 * @param {string} label
 * @param {string} title
 * @param {() => void} pressed
 */
export function button(label, title, pressed) {
    return ringed(element("button", { type: "button", title, "aria-label": title, style: LOOK, on: { click: pressed } }, label));
}

/**
 * A drop-down list of [value, text] pairs.
 * @param {string} label
 * @param {[string, string][]} options
 * @param {(value: string) => void} chosen
 */
export function choice(label, options, chosen) {
    const list = ringed(element("select", { "aria-label": label, title: label, style: LOOK }));
    list.append(...options.map(([value, text]) => element("option", { value }, text)));
    list.addEventListener("change", () => chosen(list.value));
    return list;
}

// The canvas' zoom below which a node's usual type cannot be read, and the size on the screen of what is shown then.
const FAR = 0.5;
const READABLE = 15;
const LARGEST = 64;

/**
 * The type's size on the node, in pixels, at which it can be read on a canvas that is zoomed far out; null when it is not.
 * @param {number} scale
 */
export function farType(scale) {
    return scale < FAR ? Math.min(LARGEST, Math.round(READABLE / Math.max(scale, 0.01) / 4) * 4) : null;
}

/**
 * Give the user a file.
 * @param {Blob} blob
 * @param {string} name
 */
export function download(blob, name) {
    const url = URL.createObjectURL(blob);
    element("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/**
 * Put a text on the clipboard, also where the page is not a secure context.
 * @param {string} text
 */
export async function copy(text) {
    try {
        await navigator.clipboard.writeText(text);
    } catch {
        const box = element("textarea", { style: { position: "fixed", opacity: "0" } });
        box.value = text;
        document.body.append(box);
        box.select();
        document.execCommand("copy");
        box.remove();
    }
}
