// Elements from plain values. Texts become text nodes: nothing that comes from a prompt or a file is ever HTML.

/** An element. `props.style` is an object, `props.on` maps events to listeners, all other props are attributes. */
export function element(tag, props = {}, ...children) {
    const made = document.createElement(tag);
    const { style, on, ...attributes } = props;
    Object.assign(made.style, style);
    for (const [event, listener] of Object.entries(on ?? {})) made.addEventListener(event, listener);
    for (const [name, value] of Object.entries(attributes)) {
        if (value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children);
    return made;
}

const LOOK = {
    font: "12px/1.4 system-ui, sans-serif", color: "var(--input-text)", background: "var(--comfy-input-bg)",
    border: "1px solid var(--border-color)", borderRadius: "4px", padding: "1px 6px", cursor: "pointer", whiteSpace: "nowrap",
};

/** A small button that looks like the page. */
export function button(label, title, pressed) {
    return element("button", { type: "button", title, "aria-label": title, style: LOOK, on: { click: pressed } }, label);
}

/** A drop-down list of [value, text] pairs. */
export function choice(label, options, chosen) {
    const list = element("select", { "aria-label": label, title: label, style: LOOK });
    list.append(...options.map(([value, text]) => element("option", { value }, text)));
    list.addEventListener("change", () => chosen(list.value));
    return list;
}

// The canvas' zoom below which a node's usual type cannot be read, and the size on the screen of what is shown then.
const FAR = 0.5;
const READABLE = 15;
const LARGEST = 64;

/** The type's size on the node, in pixels, at which it can be read on a canvas that is zoomed far out; null when it is not. */
export function farType(scale) {
    return scale < FAR ? Math.min(LARGEST, Math.round(READABLE / Math.max(scale, 0.01) / 4) * 4) : null;
}

/** A stranger's text as one line of at most `longest` characters. */
export function line(text, longest = 120) {
    const plain = String(text ?? "").replace(/[\p{Cc}\p{Cf}\p{Cs}]/gu, " ");
    return plain.length > longest ? `${plain.slice(0, longest - 3)}...` : plain;
}

/** Give the user a file. */
export function download(blob, name) {
    const url = URL.createObjectURL(blob);
    element("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** Put a text on the clipboard, also where the page is not a secure context. */
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
