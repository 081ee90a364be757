// Values of strangers (workflow files, runs, the server), checked.

/**
 * An object's fields; null for what is no object with fields.
 * @param {unknown} value
 * @returns {Record<string, unknown> | null}
 */
export function fieldsOf(value) {
    return typeof value === "object" && value !== null && !Array.isArray(value) ? /** @type {Record<string, unknown>} */ (value) : null;
}

/**
 * The first entries of a list; none of what is no list.
 * @param {unknown} value
 * @param {number} [most]
 * @returns {unknown[]}
 */
export function entriesOf(value, most = Infinity) {
    return Array.isArray(value) ? value.slice(0, most) : [];
}

/**
 * A finite number, or NaN.
 * @param {unknown} value
 */
export function number(value) {
    return typeof value === "number" && Number.isFinite(value) ? value : NaN;
}

/**
 * A stranger's text as one line of at most `longest` characters.
 * @param {unknown} text
 */
export function line(text, longest = 120) {
    const plain = String(text ?? "").replace(/[\p{Cc}\p{Cf}\p{Cs}]/gu, " ");
    return plain.length > longest ? `${plain.slice(0, longest - 3)}...` : plain;
}
