// Pens that the heat map is drawn with: one draws on the screen, one writes SVG.

/**
 * @typedef {object} TextStyle
 * @property {boolean} [bold]
 * @property {boolean} [right]
 * @property {boolean} [middle]
 * @property {boolean} [turned]
 * @property {number} [size]
 */
/**
 * @typedef {object} Pen
 * @property {(x: number, y: number, w: number, h: number, ink: string) => void} fill
 * @property {(x: number, y: number, w: number, h: number, ink: string, thick: number) => void} frame
 * @property {(x1: number, y1: number, x2: number, y2: number, ink: string) => void} stroke
 * @property {(text: string, x: number, y: number, theme: {ink: string}, style?: TextStyle) => void} text
 */

const FONT = "system-ui, sans-serif";
const TURN = 0.6;

/**
 * A pen for a canvas' 2D context.
 * @param {CanvasRenderingContext2D} context
 * @returns {Pen}
 */
export function canvasPen(context) {
    return {
        fill(x, y, w, h, ink) {
            context.fillStyle = ink;
            context.fillRect(x, y, w, h);
        },
        frame(x, y, w, h, ink, thick) {
            context.strokeStyle = ink;
            context.lineWidth = thick;
            context.strokeRect(x, y, w, h);
        },
        stroke(x1, y1, x2, y2, ink) {
            context.strokeStyle = ink;
            context.lineWidth = 1;
            context.beginPath();
            context.moveTo(x1, y1);
            context.lineTo(x2, y2);
            context.stroke();
        },
        text(text, x, y, theme, { bold, right, middle, turned, size = 11 } = {}) {
            context.save();
            context.translate(x, y);
            if (turned) context.rotate(-TURN);
            context.font = `${bold ? "bold " : ""}${size}px ${FONT}`;
            context.textAlign = right ? "right" : middle ? "center" : "left";
            context.fillStyle = theme.ink;
            context.fillText(text, 0, 0);
            context.restore();
        },
    };
}

/** @type {Record<string, string>} */
const ESCAPES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&apos;" };
/** @param {string} text */
const escaped = (text) => text.replace(/[&<>"']/g, (sign) => ESCAPES[sign] ?? "");

/**
 * A pen that writes SVG; `finish(width, height)` gives the document.
 * @returns {Pen & {finish(width: number, height: number): string}}
 */
export function svgPen() {
    /** @type {string[]} */
    const parts = [];
    /** @type {(x: number, y: number, w: number, h: number) => string} */
    const at = (x, y, w, h) => `x="${x.toFixed(1)}" y="${y.toFixed(1)}" width="${w.toFixed(1)}" height="${h.toFixed(1)}"`;
    return {
        fill(x, y, w, h, ink) {
            parts.push(`<rect ${at(x, y, w, h)} fill="${escaped(ink)}"/>`);
        },
        frame(x, y, w, h, ink, thick) {
            parts.push(`<rect ${at(x, y, w, h)} fill="none" stroke="${escaped(ink)}" stroke-width="${thick}"/>`);
        },
        stroke(x1, y1, x2, y2, ink) {
            parts.push(`<path d="M${x1.toFixed(1)} ${y1.toFixed(1)}L${x2.toFixed(1)} ${y2.toFixed(1)}" stroke="${escaped(ink)}"/>`);
        },
        text(text, x, y, theme, { bold, right, middle, turned, size = 11 } = {}) {
            const anchor = right ? "end" : middle ? "middle" : "start";
            const turn = turned ? ` rotate(${((-TURN * 180) / Math.PI).toFixed(1)})` : "";
            parts.push(
                `<text transform="translate(${x.toFixed(1)} ${y.toFixed(1)})${turn}" font-size="${size}" ` +
                `font-family="${FONT}" font-weight="${bold ? 700 : 400}" text-anchor="${anchor}" ` +
                `fill="${escaped(theme.ink)}">${escaped(text)}</text>`,
            );
        },
        finish: (width, height) =>
            `<svg xmlns="http://www.w3.org/2000/svg" width="${Math.ceil(width)}" height="${Math.ceil(height)}">` +
            `${parts.join("")}</svg>`,
    };
}
