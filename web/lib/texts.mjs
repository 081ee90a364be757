// The scripts' words in the page's language. The English text is the key, and what is shown where a language lacks one.

const LANGUAGES = ["zh", "ja", "ko", "de", "fr", "es", "ru"];
/** @type {Record<string, string>} */
let words = {};
let language = "en";

/**
 * Mark a text that is translated where it is shown.
 * @template {string} Text
 * @param {Text} text
 */
export const term = (text) => text;

/**
 * A text in the page's language, each {name} in it replaced by a value.
 * @param {string} text
 * @param {Record<string, unknown>} values
 */
export function t(text, values = {}) {
    const said = Object.hasOwn(words, text) ? String(words[text]) : text;
    return said.replace(/\{(\w+)\}/g, (whole, name) => (Object.hasOwn(values, name) ? String(values[name]) : whole));
}

/**
 * Take the words of a locale such as "de" or "zh-TW"; returns whether the language is another one now.
 * @param {unknown} locale
 */
export async function useLocale(locale) {
    const base = String(locale ?? "").split("-")[0] ?? "";
    const wanted = LANGUAGES.includes(base) ? base : "en";
    if (wanted === language) return false;
    language = wanted;
    /** @type {Record<string, string>} */
    let found = {};
    try {
        if (wanted !== "en") found = await (await fetch(new URL(`../texts/${wanted}.json`, import.meta.url))).json();
    } catch { /* English then */ }
    if (language === wanted) words = found;
    return true;
}
