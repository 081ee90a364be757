// What is noticed about a name as it is typed into a field for one: the rules of quickfix/concepts/typed.py. No DOM.
import { term } from "./texts.mjs";

/** @typedef {"source" | "target"} Field */
/** @typedef {{field: Field, sentence: string, values: Record<string, string>}} Note */

/**
 * The names that a node's fields have for what is edited and for what it becomes.
 * @typedef {{source: string, target?: string}} Fields
 */
/** @type {Record<string, Fields>} */
export const NAME_FIELDS = {
    DiffQuickFix_Edit: { source: "source", target: "target" },
    DiffQuickFix_AddConceptEdit: { source: "source", target: "target" },
    DiffQuickFix_FindLambda: { source: "source", target: "target" },
    DiffQuickFix_FindTarget: { source: "source" },
    DiffQuickFix_RemoveConcept: { source: "concept", target: "becomes" },
    DiffQuickFix_EditImageModel: { source: "concept", target: "becomes" },
};

const EMPTY_SOURCE = term("is empty; name what to edit away, as prompts write it");
const EMPTY_TARGET = term('is empty; name what it becomes, such as "dog"');
const SAME = term("is the same as the source; name something else");
const NETWORK = term("<...:...> is prompt syntax and loads nothing here; take it away");
const EMBEDDING = term("an embedding has vectors and no words; name words instead");
const WEIGHT = term('parentheses and weights are prompt syntax; write "{name}"');
const BACKSLASH = term('backslashes are prompt syntax; write "{name}"');
const ARROW = term("one line with an arrow is for Concept Edit List; here, what it becomes has a field of its own");
const QUOTES = term('quotation marks would be part of the name; write "{name}"');
const SEVERAL = term("reads as {count} names and is edited as one; if they are several, give each a line in Concept Edit List");
const COMMON = term("stands in most prompts: editing it moves them all");
// What the server alone can tell.
const TOO_LONG = term("has {count} tokens with a caption around it, of which CLIP reads {room}; shorten it");
const ABSENT = term("is in none of the {count} prompts that this CLIP encodes; check the spelling");
export const SENTENCES = [
    EMPTY_SOURCE, EMPTY_TARGET, SAME, NETWORK, EMBEDDING, WEIGHT, BACKSLASH, ARROW, QUOTES, SEVERAL, COMMON, TOO_LONG, ABSENT,
];

const NUMBER = String.raw`\s*[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)\s*`;
const NETWORKS = /<[a-z_]+:[^<>]*>?/i;
const EMBEDDINGS = /(?:^|[\s(,])embedding:/i;
const WEIGHTED = new RegExp(String.raw`[(\[]([^()\[\]]*):${NUMBER}[)\]]`, "g");
const ENCLOSED = /^(?:\(+([^()]*)\)+|\[+([^\[\]]*)\]+)$/;
const WEIGHT_BEHIND = new RegExp(String.raw`\S:${NUMBER}$`);
const ESCAPED = /\\([()\[\]])/g;
const ARROWS = /[-=\u2013\u2014]+>|[\u2192\u21d2\u2794\u279c\u27a1\u27f6]/;
const QUOTED = /^["\u201c\u201d\u201e\u00ab\u300c\u300e](.*)["\u201c\u201d\u00bb\u300d\u300f]$/s;
const BETWEEN = /[,;\n\u3001\uff0c\uff1b]|\sand\s/i;
const COMMON_WORDS = new Set("a an the of and or in on at by with to for from is it".split(" "));
// Kinds of concept that have a target of their own.
const TARGETS = new Set(["style"]);

/**
 * A name as it is compared: without invisible characters and the spaces around it.
 * @param {string} text
 */
export function plain(text) {
    const letters = [...text];
    return letters.map((letter, place) => {
        if (letter === "\u200c" || letter === "\u200d") {
            const around = [...letters.slice(Math.max(0, place - 1), place), ...letters.slice(place + 1, place + 2)];
            return around.length < 2 || around.every((one) => one < "\u0080") ? "" : letter;
        }
        return /\p{Cf}/u.test(letter) ? "" : letter.replace(/\p{Zs}/u, " ");
    }).join("").normalize("NFC").trim();
}

/** @param {string} text */
const folded = (text) => text.toUpperCase().toLowerCase();

/** @type {(pattern: RegExp, text: string) => boolean} */
const holds = (pattern, text) => text.search(pattern) >= 0;

/** @param {string} name */
function syntaxIn(name) {
    if (holds(NETWORKS, name)) return NETWORK;
    if (holds(EMBEDDINGS, name)) return EMBEDDING;
    if (holds(WEIGHTED, name) || holds(ENCLOSED, name) || holds(WEIGHT_BEHIND, name)) return WEIGHT;
    return holds(ESCAPED, name) ? BACKSLASH : null;
}

/**
 * A name without weights, parentheses around it, backslashes before parentheses, and quotation marks.
 * @param {string} name
 */
function bare(name) {
    let found = name;
    for (let before = ""; before !== found;) [before, found] = [found, found.replace(WEIGHTED, "$1")];
    found = found.trim().replace(ENCLOSED, (_, round, square) => round ?? square);
    if (holds(WEIGHT_BEHIND, found)) found = found.slice(0, found.lastIndexOf(":"));
    return found.replace(ESCAPED, "$1").trim().replace(QUOTED, "$1").trim();
}

/**
 * The first thing that is noticed about a name that is not empty.
 * @type {(field: Field, name: string) => Note[]}
 */
function notes(field, name) {
    const own = field === "source";
    const sentence = syntaxIn(name) ?? (own && holds(ARROWS, name) ? ARROW : null) ?? (holds(QUOTED, name) ? QUOTES : null);
    if (sentence !== null) return [{ field, sentence, values: /** @type {Record<string, string>} */ (sentence.includes("{name}") ? { name: bare(name) } : {}) }];
    const count = name.split(BETWEEN).filter((part) => part.trim()).length;
    if (count > 1) return [{ field, sentence: SEVERAL, values: { count: String(count) } }];
    return own && COMMON_WORDS.has(folded(name)) ? [{ field, sentence: COMMON, values: {} }] : [];
}

/**
 * What is noticed about the names of one concept.
 * @param {string} source
 * @param {string | null} target null where there is no field for one
 * @param {string} kind
 * @param {boolean} listed whether there are other concepts, so that the source may be empty
 * @returns {Note[]}
 */
export function notesOn(source, target, kind, listed) {
    const [own, other] = [plain(source), plain(target ?? "")];
    if (!own && listed) return [];
    /** @type {Note[]} */
    const found = own ? notes("source", own) : [{ field: "source", sentence: EMPTY_SOURCE, values: {} }];
    if (target === null) return found;
    if (!other) return TARGETS.has(kind) ? found : [...found, { field: "target", sentence: EMPTY_TARGET, values: {} }];
    if (folded(own) === folded(other)) return [...found, { field: "target", sentence: SAME, values: {} }];
    return [...found, ...notes("target", other)];
}
